from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import yaml

from pars_export.errors import InputError
from pars_model.experiments import judging, small
from pars_model.experiments.cells import Cell
from pars_model.experiments.small import SOLVED, TUNED, Small
from pars_model.experiments.workbench import Workbench
from pars_model.universal.sources import LISTED

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeDataRoot, MakeRows

CONFIGS = Path(__file__).parents[2] / "configs"
CELL = Cell("kinds", "tiny", "Tiny")


@pytest.fixture
def bench(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Workbench:
    """A cell of 200 prompts, and both recipes with a tiny encoder."""
    recipes = {}
    for name, recipe in small.RECIPES.items():
        config = yaml.safe_load((CONFIGS / recipe.name).read_text())
        config["model"] |= {"encoder": str(encoder), "max_length": 32}
        config["trainer"] |= {"accelerator": "cpu", "max_epochs": 1}
        recipes[name] = tmp_path / recipe.name
        recipes[name].write_text(yaml.safe_dump(config))
    monkeypatch.setattr(small, "RECIPES", recipes)
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    return Workbench("small", make_data_root(tmp_path / "data", make_rows(200)), tmp_path / "out")


def test_both_recipes_learn_from_the_same_small_table(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = (Small(CELL, 50), Small(CELL, 0, small.NO_PRIOR))
    monkeypatch.setattr(small, "TABLES", tables)
    section = small.run(bench)
    text = section.markdown(bench.minutes)
    rows = [
        dict(zip(small.COLUMNS, (each.strip() for each in line.split("|")[1:-1]), strict=True))
        for line in text.splitlines()
        if line.startswith("| Tiny |")
    ]
    learned = [int(row["prompts learned from"]) for row in rows]
    judged = {int(row["judged"]) for row in rows}
    assert learned[0] == 50
    assert learned[1] + judged.pop() == 200
    assert not judged
    for row in rows:
        tuned, solved, gain = (
            float(row[f"{name} [95 %]"].split()[0]) for name in (TUNED, SOLVED, small.GAIN)
        )
        assert gain == pytest.approx(tuned - solved, abs=0.0011)
        assert solved > 0.5
        assert row[f"{TUNED}, minutes"]
    assert rows[0][f"{SOLVED} [95 %]"] != rows[1][f"{SOLVED} [95 %]"]
    shown = re.escape(rows[0][f"{small.GAIN} [95 %]"].split()[0])
    assert re.search(rf"is {shown} \[.+\] of 50 prompts \(1 cells\)", section.short)
    minutes = bench.minutes
    again = Workbench(bench.experiment, bench.data_root, bench.out)
    assert small.run(again).markdown(minutes) == text


def test_more_prompts_hold_the_fewer_ones_and_none_that_is_judged(bench: Workbench) -> None:
    parts = [
        pq.read_table(small.table_of(bench, Small(CELL, count))).to_pylist()
        for count in (20, 60, 0)
    ]
    taught, judged = (
        [{row["prompt"] for row in part if row["split"] == split} for part in parts]
        for split in ("train", "test")
    )
    assert taught[0] < taught[1] < taught[2]
    assert [len(each) for each in taught[:2]] == [20, 60]
    assert judged[0] == judged[1] == judged[2]
    assert not judged[0] & taught[2]


def test_the_prior_has_learned_from_none_of_the_tables_that_have_it() -> None:
    learned = {source.dataset for source in LISTED}
    with_prior = {each.cell.dataset for each in small.TABLES if each.more != small.NO_PRIOR}
    assert not learned & with_prior
    assert learned & {each.cell.dataset for each in small.TABLES} != set()


def test_it_is_run_from_the_root(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "RECIPES", {TUNED: tmp_path / "no.yaml"})
    with pytest.raises(InputError, match=r"no\.yaml does not exist: run this from the root"):
        small.run(bench)
