from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

from pars_export.errors import InputError
from pars_model.callbacks import LAST
from pars_model.experiments import fine_tuning, parts, recipe
from pars_model.experiments.cells import Cell
from pars_model.experiments.workbench import Workbench

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeDataRoot, MakeRows

DEFAULT = Path(__file__).parents[2] / "configs" / "default.yaml"


CELL = Cell("kinds", "tiny", "Kinds, tiny")


@pytest.fixture
def tiny_recipe(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default recipe with a tiny encoder and two epochs."""
    config = yaml.safe_load(DEFAULT.read_text())
    config["model"] |= {"encoder": str(encoder), "max_length": 32, "lr": 3e-3}
    config["trainer"] |= {"accelerator": "cpu", "max_epochs": 2}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(fine_tuning, "CONFIG", path)


@pytest.mark.usefixtures("tiny_recipe")
def test_each_change_is_compared_with_the_recipe(
    tmp_path: Path,
    make_rows: MakeRows,
    make_data_root: MakeDataRoot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"rate": ("--model.lr", "1e-5"), "same": ("--model.margin", "1.0")}
    monkeypatch.setattr(parts, "CHANGES", changes)
    monkeypatch.setattr(parts, "CELL", CELL)
    monkeypatch.setattr(parts, "FEW", 60)
    monkeypatch.setattr(parts, "OTHER", CELL)
    monkeypatch.setattr(parts, "SIZES", (0, 60))
    bench = Workbench("parts", make_data_root(tmp_path / "data", make_rows(150)), tmp_path / "out")
    text = parts.run(bench).markdown(bench.minutes)
    lines = [[each.strip() for each in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {line[0]: line for line in lines if len(line) > 3}
    assert rows["same"][4].startswith("+0.000 [+0.000, +0.000]")
    assert float(rows["same"][2]) == float(rows["the recipe"][2]) > float(rows["rate"][2])
    tau, slow = (float(rows[name][3].split()[0]) for name in ("the recipe", "rate"))
    assert float(rows["rate"][4].split()[0]) == pytest.approx(slow - tau, abs=0.0011)
    assert slow < tau - 0.1
    learned_from = [int(line[1]) for line in lines if line[:1] == ["Kinds, tiny"]]
    assert learned_from[0] > 100
    assert learned_from[1] == 60
    assert re.search(r"- Kinds, tiny: [+-]\S+ \[.*\] over the ridge \((reached|missed)\)\.", text)
    told = r"of lead over the n-gram ridge between 60 and \d+; on that line (0\.03|more prompts)"
    assert re.search(told, text)


@pytest.mark.parametrize("change", parts.CHANGES.values(), ids=list(parts.CHANGES))
def test_a_change_is_another_setting_of_a_fit(tmp_path: Path, change: tuple[str, ...]) -> None:
    def settings(*more: str) -> dict[str, dict[str, object]]:
        command = ["fit", "--config", str(DEFAULT), "--data.path", str(tmp_path), *more]
        found = subprocess.run(
            [sys.executable, "-m", "pars_model", *command, "--print_config"],
            capture_output=True,
            text=True,
            check=True,
        )
        printed: dict[str, dict[str, object]] = yaml.safe_load(found.stdout)
        return printed

    name, value = change
    section, key = name.removeprefix("--").split(".")
    changed, unchanged = (each[section][key] for each in (settings(*change), settings()))
    assert changed == yaml.safe_load(value) != unchanged


@pytest.mark.parametrize("prompts", [0, 60])
def test_the_timed_fit_has_threads_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: int
) -> None:
    monkeypatch.setattr(fine_tuning, "MINUTES", {CELL: 1.0})
    monkeypatch.setattr(fine_tuning, "CORES", 3)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    bench = Workbench("recipe", tmp_path, tmp_path)
    (tmp_path / "table.parquet").touch()
    alone = fine_tuning.predictor_folder(bench, tmp_path / "table.parquet")
    with fine_tuning.threads_of(bench, CELL, prompts):
        folder = fine_tuning.predictor_folder(bench, tmp_path / "table.parquet")
        assert asked == [bench.threads] == [1 if prompts else 3]
    assert (folder == alone) == bool(prompts)
    assert asked[1:] == [bench.threads] == [1]


def test_another_recipe_or_training_code_has_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.parquet").touch()
    table, config = tmp_path / "table.parquet", tmp_path / "config.yaml"
    monkeypatch.setattr(fine_tuning, "CONFIG", config)
    config.write_text("seed_everything: 0\n")
    before = fine_tuning.fit_folder(tmp_path, table)
    config.write_text("# a comment\nseed_everything: 0\n")
    assert fine_tuning.fit_folder(tmp_path, table) == before
    assert fine_tuning.fit_folder(tmp_path, table, ("--model.lr", "1")) != before
    config.write_text("seed_everything: 1\n")
    assert fine_tuning.fit_folder(tmp_path, table) != before
    config.write_text("seed_everything: 0\n")
    monkeypatch.setattr(fine_tuning, "source_digest", lambda code: "other")
    assert fine_tuning.fit_folder(tmp_path, table) != before


@pytest.mark.usefixtures("tiny_recipe")
def test_the_recipe_is_fitted_judged_and_its_curve_drawn(
    tmp_path: Path,
    make_rows: MakeRows,
    make_data_root: MakeDataRoot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = CELL
    monkeypatch.setattr(recipe, "FITS", {cell: (0, 60)})
    monkeypatch.setattr(fine_tuning, "MINUTES", {cell: 5.0})
    monkeypatch.setattr(recipe, "PAIRED", cell)
    monkeypatch.setattr(recipe, "FEW", 60)
    rows = make_rows(150)
    bench = Workbench("recipe", make_data_root(tmp_path / "data", rows + rows), tmp_path / "out")
    text = recipe.run(bench).markdown(bench.minutes)
    whole, part = [line for line in text.splitlines() if line.startswith("| Kinds, tiny")][:2]
    assert part.split("|")[2].strip() == "60"
    assert int(whole.split("|")[2]) > 100
    assert float(whole.split("|")[6].split()[0]) > 0.4
    assert "one run of the LLM orders the prompts of another at 1.000" in text
    in_batch, random = (
        line.split("|")[2:]
        for line in text.splitlines()
        if line.startswith(("| of a batch", "| random partners"))
    )
    assert [in_batch[0].strip(), random[0].strip()] == ["60", "120"]
    assert in_batch[2] == part.split("|")[6]
    assert in_batch[2] != random[2]
    assert re.search(r"- Kinds, tiny: [+-].* over the ridge \((reached|missed)\), tau", text)
    assert "minutes of at most 5 (reached)" in text
    (tokens,) = [line for line in text.splitlines() if line.startswith("| Kinds, tiny | ")][2:]
    inside = [float(each.split()[0]) for each in tokens.split("|")[4:7]]
    assert inside == sorted(inside)
    curve = re.search(r"are worth (\S+) \[(\S+), (\S+)\] of tau between 60 and (\d+)", text)
    assert curve
    slope, low, high = (float(each) for each in curve.groups()[:3])
    assert low <= slope <= high
    gain = float(whole.split("|")[6].split()[0]) - float(part.split("|")[6].split()[0])
    assert slope * math.log2(int(curve[4]) / 60) == pytest.approx(gain, abs=0.003)
    first = bench.minutes
    again = Workbench("recipe", bench.data_root, bench.out)
    assert recipe.run(again).markdown(again.minutes) == text
    assert again.minutes == first
    shutil.rmtree(fine_tuning.whole_fit(again, cell)[0])
    with pytest.raises(InputError, match="is gone, though its results are kept"):
        recipe.run(again)


def test_a_config_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "CONFIG", tmp_path / "no.yaml")
    with pytest.raises(InputError, match=r"no\.yaml does not exist: run this from the root"):
        recipe.run(Workbench("recipe", tmp_path, tmp_path))


def test_a_fit_goes_on_and_its_minutes_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def fit(arguments: list[str]) -> int:
        asked.append(arguments)
        (tmp_path / "fit" / LAST).touch()
        return 130 if len(asked) == 1 else 0

    (tmp_path / "fit").mkdir()
    clock = iter((0.0, 120.0, 1000.0, 1060.0))
    monkeypatch.setattr("pars_model.cli.main", fit)
    monkeypatch.setattr(fine_tuning, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(KeyboardInterrupt):
        fine_tuning.train(tmp_path / "fit", tmp_path / "table.parquet")
    assert fine_tuning.train(tmp_path / "fit", tmp_path / "table.parquet") == 3.0
    assert "--ckpt_path" not in asked[0]
    assert asked[1][-2:] == ["--ckpt_path", str(tmp_path / "fit" / LAST)]
