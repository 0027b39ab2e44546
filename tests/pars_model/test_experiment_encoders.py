from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from pars_export.errors import InputError
from pars_model.experiments import encoders, fine_tuning, frontier
from pars_model.experiments.cells import Cell
from pars_model.experiments.encoders import MINILM, Encoder
from pars_model.experiments.workbench import Workbench

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeDataRoot, MakeRows

DEFAULT = Path(__file__).parents[2] / "configs" / "default.yaml"
LARGER = "Larger"


@pytest.fixture
def bench(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Workbench:
    """A cell of 150 prompts, and the default recipe with a tiny encoder and one epoch."""
    config = yaml.safe_load(DEFAULT.read_text())
    config["model"] |= {"encoder": str(encoder), "max_length": 32, "lr": 3e-3}
    config["trainer"] |= {"accelerator": "cpu", "max_epochs": 1}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(fine_tuning, "CONFIG", path)
    monkeypatch.setattr(frontier, "ROUNDS", 2)
    monkeypatch.setattr(encoders, "CELL", Cell("kinds", "tiny", "Tiny"))
    monkeypatch.setattr(encoders, "PROMPTS", 60)
    folder = tmp_path / "larger"
    more = ("--model.encoder", str(folder))
    monkeypatch.setattr(
        encoders,
        "ENCODERS",
        {MINILM: Encoder("few"), LARGER: Encoder("more", more, str(folder))},
    )
    return Workbench("encoders", make_data_root(tmp_path / "d", make_rows(150)), tmp_path / "out")


def test_an_encoder_that_is_not_there_is_named(bench: Workbench) -> None:
    text = encoders.run(bench).markdown(bench.minutes)
    assert f"Not run: {LARGER} (`make mpnet` brings it)." in text
    assert f"\n| {LARGER}" not in text
    assert f"Wanted: a predictor of {MINILM} in less than 10 minutes: " in text


def test_each_encoder_is_fitted_judged_and_timed(
    bench: Workbench, encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder, tmp_path / "larger")
    section = encoders.run(bench)
    text = section.markdown(bench.minutes)
    rows = {
        cells[0]: cells
        for line in text.splitlines()
        if len(cells := [each.strip() for each in line.split("|")[1:-1]]) == len(encoders.COLUMNS)
    }
    assert rows[MINILM][-1] == "-"
    assert rows[LARGER][-1].startswith("+0.000 [+0.000, +0.000]"), "the same weights and seed"
    assert rows[LARGER][6] == rows[MINILM][6]
    assert all(float(rows[LARGER][column].replace(",", "")) > 0 for column in (4, 5))
    assert "Not run" not in text
    assert LARGER in section.short
    again = Workbench(bench.experiment, bench.data_root, bench.out)
    assert encoders.run(again).markdown(bench.minutes) == text


def test_it_is_run_from_the_root(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "CONFIG", tmp_path / "no.yaml")
    with pytest.raises(InputError, match=r"no\.yaml does not exist: run this from the root"):
        encoders.run(bench)
