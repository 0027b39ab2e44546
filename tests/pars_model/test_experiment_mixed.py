from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_model.experiments import judging, mixed
from pars_model.experiments.cells import Cell
from pars_model.experiments.workbench import Workbench

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows

DATASETS = {"short": 1, "long": 20}
"""Data sets, and how much longer answers there are."""


@pytest.fixture
def data_root(tmp_path: Path, make_rows: MakeRows) -> Path:
    """One LLM on two data sets."""
    answers = [
        {
            "dataset": dataset,
            "prompt_id": str(number),
            "prompt": f"{row['prompt']} {dataset}",
            "model": row["model"],
            "sample": 0,
            "length": times * row["response_tokens"],
            "max_new_tokens": -1,
            "finish": None,
        }
        for seed, (dataset, times) in enumerate(DATASETS.items())
        for number, row in enumerate(make_rows(120, seed))
    ]
    root = tmp_path / "data"
    root.mkdir()
    whole = pa.Table.from_pylist(answers)
    names = ["dataset", "prompt_id", "prompt"]
    pq.write_table(whole.select(names), root / "prompts.parquet")
    pq.write_table(whole.drop_columns(["prompt"]), root / "lengths.parquet")
    return root


def test_mixed_traffic_is_judged_as_a_whole_and_by_data_set(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(mixed, "CELLS", (Cell("short", "tiny", "Tiny", more=("long",)),))
    monkeypatch.setattr(mixed, "NAMES", {name: name for name in DATASETS})
    text = mixed.run(Workbench("mixed", data_root, tmp_path / "out", seeds=2)).markdown(0.0)
    rows = {
        cells[1]: cells[2:-1]
        for line in text.splitlines()
        if line.startswith("|")
        for cells in [[cell.strip() for cell in line.split("|")]]
    }
    assert list(rows) == ["traffic", "---", mixed.MIX, *DATASETS]
    alone, median = (1 + mixed.METHODS.index(name) for name in (mixed.ALONE, mixed.MEDIAN))
    assert rows[mixed.MIX][alone] == rows[mixed.MIX][-1] == "-"
    assert [rows[name][median] for name in DATASETS] == ["-", "-"]
    taus = {name: float(cells[1].split()[0]) for name, cells in rows.items() if name in DATASETS}
    assert all(tau > 0.5 for tau in taus.values())
    # Data sets apart, and each in order: better than what tells only data sets apart.
    assert float(rows[mixed.MIX][1].split()[0]) > float(rows[mixed.MIX][median].split()[0]) > 0.3
    judged = [int(rows[name][0]) for name in (*DATASETS, mixed.MIX)]
    assert judged[0] + judged[1] == judged[2] > 0
    assert np.isfinite(float(rows["short"][-1].split()[0]))
