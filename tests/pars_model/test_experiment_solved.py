"""A head in closed form beside one by gradients: what each learns from, and what the page says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pars_model.experiments import judging, solved
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import frozen_cell
from pars_model.experiments.workbench import Workbench
from pars_model.ngram_half import FittedHalf, fit_half
from pars_model.solved_head import SolvedHead, solve_head

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pars_export.inputs import TextTokenizer
    from pars_model.lengths import LengthTable
    from tests.pars_model.conftest import MakeDataRoot, MakeRows

CELL = Cell("kinds", "tiny", "Tiny")


def test_cells_of_the_half_and_of_the_filter_stand_once() -> None:
    places = [(cell.dataset, cell.llm) for cell in solved.CELLS]
    assert len(places) == len(set(places))
    assert {"GSM8K, Llama-3.1-405B", "MATH level 5, GPT-4o"} <= {c.title for c in solved.CELLS}


def test_the_head_is_solved_from_all_prompts_but_the_judged(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(solved, "CELLS", (CELL,))
    learned, taught = [], []

    def spy(vectors: NDArray[np.float32], target: NDArray[np.float64]) -> SolvedHead:
        learned.append(vectors)
        return solve_head(vectors, target)

    def half(
        lengths: LengthTable, known: NDArray[np.bool_], tokenizer: TextTokenizer
    ) -> FittedHalf:
        taught.append(known)
        return fit_half(lengths, known, tokenizer)

    monkeypatch.setattr(solved, "solve_head", spy)
    monkeypatch.setattr(solved, "fit_half", half)
    root = make_data_root(tmp_path / "data", make_rows(200, 0))
    bench = Workbench("solved", root, tmp_path / "out", seeds=1)
    section = solved.run(bench)
    cell = frozen_cell(bench, CELL)
    # By 128 tokens and by 512; no prompt has more, so both see the same. Halves of them may follow.
    free = [cell.part(seed) != "judge" for seed in range(solved.SMALL_SEEDS) for _ in range(2)]
    for place, known in enumerate(free):
        np.testing.assert_allclose(learned[place], cell.features[known], atol=1e-5)
        assert np.array_equal(taught[place], known)
    (line,) = [each for part in section.parts for each in part.splitlines() if "| Tiny |" in each]
    _, _, prompts, seeds, gradients, head, long, ridge, *_ = line.split("|")
    assert (prompts.strip(), seeds.strip()) == ("200", str(solved.SMALL_SEEDS))
    # What the made-up lengths hang on is one word.
    assert min(float(each.split("[")[0]) for each in (gradients, head, long, ridge)) > 0.5
    assert head == long
    lead = float(head.split("[")[0]) - float(ridge.split("[")[0])
    assert f"in {int(lead >= 0.03)} of 1 cells" in section.short


def test_where_the_lead_is_short_the_page_says_how_it_grows_with_the_prompts(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(solved, "CELLS", (CELL,))
    monkeypatch.setattr(solved, "OVER_RIDGE", 2.0)
    root = make_data_root(tmp_path / "data", make_rows(200, 0))
    bench = Workbench("solved", root, tmp_path / "out", seeds=1)
    (line,) = [
        each for part in solved.run(bench).parts for each in part.splitlines() if "of lead" in each
    ]
    found = re.match(
        r"- Tiny: learning from (\d+) prompts instead of (\d+) is worth (\S+) \[.*\] of lead over "
        r"the n-gram ridge, which then is [+-]\d\.\d{3}; on that line (.*)\.$",
        line,
    )
    assert found, line
    all_of_them, half, gain, reached = found.groups()
    parts = [frozen_cell(bench, CELL).part(seed) for seed in range(solved.SMALL_SEEDS)]
    assert int(all_of_them) == round(np.mean([(part != "judge").sum() for part in parts]))
    assert 0.4 < int(half) / int(all_of_them) < 0.6
    if float(gain) > 0:
        assert re.match(r"2 takes [\d,]+, and the data set has 200$", reached)
    else:
        assert reached == "more prompts come no nearer to 2"
