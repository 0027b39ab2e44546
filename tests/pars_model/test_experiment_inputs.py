from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pars_model.experiments import inputs, judging
from pars_model.experiments.cells import Cell
from pars_model.experiments.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pars_model.conftest import MakeDataRoot, MakeRows


def test_cells_are_those_of_long_prompts() -> None:
    assert {cell.dataset for cell in inputs.CELLS} == set(inputs.DATASETS)


def test_what_stands_in_the_middle_is_read_by_longer_inputs_alone(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(inputs, "CELLS", (Cell("kinds", "tiny", "Tiny"),))
    around = "so " * 31
    rows = [{**row, "prompt": f"{around}{row['prompt']} {around}"} for row in make_rows(150, 0)]
    root = make_data_root(tmp_path / "data", rows)
    section = inputs.run(Workbench("inputs", root, tmp_path / "out", seeds=1))
    (line,) = [each for part in section.parts for each in part.splitlines() if "| Tiny |" in each]
    longer, *found = [each.split("[")[0].strip() for each in line.split("|")[3:-1]]
    assert longer == "0%"
    short, *long, ridge = map(float, found[:5])
    assert short < 0.2 < min(*long, ridge)
    assert found[6:] == [f"{short - long[0]:+.3f}", "+0.000", "+0.000"]
    assert f"of 64 tokens {found[6]}" in section.short
