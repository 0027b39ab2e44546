"""A fit by two processes, and the metrics that one process finds of its weights."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pars_export.errors import ConfigError
from pars_model.checkpoint import load_ranker
from pars_model.datamodule import PromptLengthDataModule
from pars_model.evaluate import evaluate
from pars_model.module import ResponseLengthRanker
from pars_model.processes import rows_of_all_processes

CONFIG = Path(__file__).parents[2] / "configs" / "default.yaml"


def test_two_processes_fit_one_ranker(encoder: Path, table: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    arguments: list[object] = ["fit", "--config", CONFIG, "--data.path", table]
    arguments += ["--model.encoder", encoder, "--trainer.default_root_dir", root]
    arguments += ["--model.max_length", 32, "--model.lr", 3e-3, "--model.head_lr", 1e-2]
    arguments += ["--data.batch_size", 8, "--data.least_batches", 1, "--trainer.max_epochs", 6]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", 2]
    arguments += ["--trainer.strategy", "ddp"]
    done = subprocess.run(
        [sys.executable, "-m", "pars_model", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(root / "best.ckpt")) == 1, "one of them says where it is"
    ranker = load_ranker(root / "best.ckpt")
    # What both processes together found on their halves is what one finds on the whole.
    alone: dict[str, Any] = evaluate(ranker, table, "val", resamples=5)
    assert ranker.metrics["tau"] == pytest.approx(alone["tau"], abs=1e-6)
    assert ranker.metrics["tau"] > 0.4
    (metrics,) = (root / "log").glob("*/metrics.csv")
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    taus = [float(row["val/tau"]) for row in rows if row.get("val/tau")]
    assert len(taus) == 6
    assert max(taus) == pytest.approx(ranker.metrics["tau"], abs=1e-6)
    # Each takes every second batch, and all batches are taken.
    steps = [int(row["step"]) for row in rows if row.get("val/tau")]
    batches = -(-ranker.training_summary["data"]["prompts"]["train"] // 8)
    assert steps[-1] + 1 == 6 * -(-batches // 2)


class TwoProcesses(ResponseLengthRanker):
    """Sees what another process has seen too."""

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.ndim:
            return torch.stack([tensor, torch.tensor(2)])
        other = torch.tensor([[0.5, 7, 0, 1, 4], [0.25, 9, 1, 1, 3]], dtype=torch.float64)
        return torch.stack([tensor, torch.nn.functional.pad(other, (0, 0, 0, len(tensor) - 2))])


def test_what_processes_saw_is_joined_and_no_prompt_counts_twice(encoder: Path) -> None:
    ranker = TwoProcesses(str(encoder))
    mine = [
        np.array([0.1, 0.2, 0.3], dtype=np.float32),
        np.array([5.0, 6.0, 8.0]),
        np.array([False, True, False]),
        np.array([0, 0, 0]),
        np.array([1, 2, 3]),
    ]
    found = rows_of_all_processes(ranker, mine)
    assert [each.dtype for each in found] == [each.dtype for each in mine]
    np.testing.assert_allclose(found[0], [0.1, 0.2, 0.3, 0.5])
    assert found[1].tolist() == [5, 6, 8, 7]
    assert found[2].tolist() == [False, True, False, False]
    assert found[4].tolist() == [1, 2, 3, 4]


def test_batches_dealt_out_twice_are_refused(table: Path) -> None:
    data = PromptLengthDataModule(str(table))
    connector = SimpleNamespace(use_distributed_sampler=True)
    data.trainer = SimpleNamespace(world_size=2, _accelerator_connector=connector)
    with pytest.raises(ConfigError, match="use_distributed_sampler is True with several devices"):
        data.setup("fit")
