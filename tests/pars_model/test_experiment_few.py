from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pars_model.experiments import few, judging
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import frozen_cell
from pars_model.experiments.workbench import Workbench
from pars_model.universal.sources import LISTED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pars_model.conftest import MakeDataRoot, MakeRows

CELL = Cell("kinds", "tiny", "Tiny")


def test_the_default_predictor_has_learned_from_none_of_the_cells() -> None:
    learned = {source.dataset for source in LISTED}
    assert not learned & {cell.dataset for cell in few.CELLS}


def test_fits_to_few_prompts_stand_side_by_side(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(few, "CELLS", (CELL,))
    monkeypatch.setattr(few, "COUNTS", (30, 130, 10_000))
    root = make_data_root(tmp_path / "data", make_rows(200, 0))
    bench = Workbench("few", root, tmp_path / "out", seeds=2)
    section = few.run(bench)
    lines = [each for part in section.parts for each in part.splitlines() if "| Tiny |" in each]
    assert [line.split("|")[2].strip() for line in lines] == ["30", "130"]
    taus = [[float(each.split("[")[0]) for each in line.split("|")[3:9]] for line in lines]
    named = [dict(zip(few.METHODS, each, strict=True)) for each in taus]
    # Of 27 training prompts there is no half without a prior; of 117 there is one.
    assert named[0][few.SUM] == named[0][few.ALONE]
    assert named[1][few.SUM] != named[1][few.ALONE]
    assert named[0][few.PRIOR] != named[0][few.ALONE]
    assert named[0][few.UNTRAINED] == named[1][few.UNTRAINED]
    assert "of 30, " in section.short
    assert "10,000" not in section.short
    for draw in section.pictures.values():
        draw(tmp_path / "few.png")
    assert (tmp_path / "few.png").stat().st_size > 1000


def test_more_prompts_hold_the_fewer_ones_and_none_that_is_judged(
    make_data_root: MakeDataRoot, make_rows: MakeRows, tmp_path: Path
) -> None:
    root = make_data_root(tmp_path / "data", make_rows(200, 0))
    frozen = frozen_cell(Workbench("few", root, tmp_path / "out", seeds=1), CELL)
    judged = frozen.part(0) == "judge"
    learned = []
    for count in (30, 100):
        part = few.part_of(frozen, count, 0)
        assert ((part == "judge") == judged).all()
        assert (part == "val").sum() == round(count * few.VAL)
        assert np.isin(part, ("train", "val")).sum() == count
        learned.append(set(np.flatnonzero(np.isin(part, ("train", "val")))))
    assert learned[0] < learned[1]
