from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_model.experiments import borrowed, judging
from pars_model.experiments.cells import Cell, write_table
from pars_model.experiments.workbench import Workbench
from pars_model.lengths import read_lengths
from pars_model.metrics import kendall_tau

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows

CELL = Cell("chat", "tiny-1", "Tiny")


@pytest.fixture
def data_root(tmp_path: Path, make_rows: MakeRows) -> Path:
    """An LLM that is noisy, one of its kin, and three others that are not."""
    noise = np.random.default_rng(0)
    answers = [
        {
            "dataset": "chat",
            "prompt_id": str(number),
            "prompt": row["prompt"],
            "model": name,
            "sample": 0,
            "length": int(row["response_tokens"] * np.exp(spread * noise.standard_normal())) + 1,
            "max_new_tokens": -1,
            "finish": None,
        }
        for name, spread in {"tiny-1": 1.5, "tiny-2": 1.5, "a": 0.1, "b": 0.1, "c": 0.1}.items()
        for number, row in enumerate(make_rows(240, 0))
    ]
    root = tmp_path / "data"
    root.mkdir()
    whole = pa.Table.from_pylist(answers)
    first = whole.slice(0, 240).select(["dataset", "prompt_id", "prompt"])
    pq.write_table(first, root / "prompts.parquet")
    pq.write_table(whole.drop_columns(["prompt"]), root / "lengths.parquet")
    return root


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 10)
    monkeypatch.setattr(borrowed, "CELLS", {CELL: "^tiny"})


def test_kin_and_held_back_prompts_lend_nothing(data_root: Path, tmp_path: Path) -> None:
    bench = Workbench("borrowed", data_root, tmp_path / "out")
    lengths = read_lengths(write_table(CELL, data_root, tmp_path))
    others = borrowed.others_of(bench, CELL, lengths)
    assert others.shape == (3, len(lengths.prompts))
    train = np.arange(len(lengths.prompts)) % 2 == 0
    found = borrowed.labelled(lengths, others, train, 0.0)
    np.testing.assert_array_equal(found.length[~train], lengths.length[~train])
    assert set(found.length[train]) <= set(lengths.length[train])
    quiet, nowhere = others[0, train], np.zeros(train.sum(), dtype=np.bool_)
    was, became = (kendall_tau(each.length[train], quiet, nowhere) for each in (lengths, found))
    assert was + 0.2 < became
    others[:, ~train] = np.nan
    again = borrowed.labelled(lengths, others, train, 0.0)
    np.testing.assert_array_equal(again.length, found.length)


def test_each_kind_of_label_stands_beside_the_ridge_by_the_same(
    data_root: Path, tmp_path: Path
) -> None:
    section = borrowed.run(Workbench("borrowed", data_root, tmp_path / "out", seeds=2))
    text = section.markdown(0.0)
    rows = {
        cells[1]: cells[2:-1]
        for line in text.splitlines()
        if line.startswith("|")
        for cells in [[cell.strip() for cell in line.split("|")]]
    }
    for name in borrowed.WEIGHTS:
        tau, ridge = (float(rows[name][place].split()[0]) for place in (0, 2))
        assert float(rows[name][3]) == pytest.approx(tau - ridge, abs=0.0011)
    assert rows[borrowed.OWN][1] == "reference"
    assert len({rows[name][0] for name in borrowed.WEIGHTS}) == len(borrowed.WEIGHTS)
    assert "3 other LLMs" in text
    assert section.short in text
