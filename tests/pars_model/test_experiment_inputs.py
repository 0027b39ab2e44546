from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pars_model.experiments import inputs, judging
from pars_model.experiments.cells import Cell
from pars_model.experiments.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pars_model.conftest import MakeDataRoot, MakeRows


def test_what_stands_in_the_middle_of_363_tokens_is_read_by_512_alone(
    make_data_root: MakeDataRoot,
    make_rows: MakeRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(inputs, "CELLS", (Cell("kinds", "tiny", "Tiny"),))
    words = "so " * 180
    rows = [{**row, "prompt": f"{words}{row['prompt']} {words}"} for row in make_rows(100, 0)]
    root = make_data_root(tmp_path / "data", rows)
    section = inputs.run(Workbench("inputs", root, tmp_path / "out", seeds=1))
    (line,) = [each for part in section.parts for each in part.splitlines() if "| Tiny |" in each]
    longer, *found = [each.split("[")[0].strip() for each in line.split("|")[3:-1]]
    assert longer == "100%"
    assert inputs.TOKENS == (64, 128, 256, 512)
    *taus, ridge, _ = map(float, found[:6])
    assert max(taus[:3]) < 0.2 < min(taus[3], ridge)
    for difference, tau in zip(found[6:], (taus[0], *taus[2:]), strict=True):
        assert float(difference) == pytest.approx(tau - taus[1], abs=0.002)
    assert f"of 512 tokens {found[-1]}" in section.short
