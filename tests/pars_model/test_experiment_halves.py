from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pars_model.experiments import halves, judging
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import frozen_cell
from pars_model.experiments.workbench import Workbench
from pars_model.ngram_half import FittedHalf, fit_half

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pars_export.inputs import TextTokenizer
    from pars_model.lengths import LengthTable
    from tests.pars_model.conftest import MakeDataRoot, MakeRows

CELL = Cell("kinds", "tiny", "Tiny")


def test_cells_stand_once() -> None:
    places = [(cell.dataset, cell.llm) for cell in halves.CELLS]
    assert len(places) == len(set(places)) > 10


def test_the_half_learns_from_the_prompts_that_the_head_learns_from(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(halves, "CELLS", (CELL,))
    learned = []

    def spy(table: LengthTable, train: NDArray[np.bool_], tokenizer: TextTokenizer) -> FittedHalf:
        learned.append({table.prompts[number] for number in np.flatnonzero(train)})
        return fit_half(table, train, tokenizer)

    monkeypatch.setattr(halves, "fit_half", spy)
    root = make_data_root(tmp_path / "data", make_rows(200, 0))
    bench = Workbench("halves", root, tmp_path / "out", seeds=2)
    section = halves.run(bench)
    cell = frozen_cell(bench, CELL)
    prompts = np.array(cell.table.prompts, dtype=object)
    assert learned == [set(prompts[cell.part(seed) == "train"]) for seed in range(2)]
    assert section.title == "The n-gram half"
    (line,) = [each for part in section.parts for each in part.splitlines() if "| Tiny |" in each]
    head, both, half, ridge = (float(each.split("[")[0]) for each in line.split("|")[3:7])
    # What the made-up lengths hang on is one word.
    assert half > 0.5
    assert ridge > 0.5
    assert both >= min(head, half)
    share = float(line.split("|")[-2])
    assert 0 < share < 0.9
    assert f"in {int(both - ridge >= 0.03)} of 1 cells" in section.short
