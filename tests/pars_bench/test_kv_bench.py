"""The experiment on vLLM's real scheduler and KV cache, in a small form."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest

from pars_bench.kv import bench
from pars_bench.kv.drive import Job, drive
from pars_bench.modelless import describe_model
from pars_export.errors import InputError


def test_time_and_recomputed_tokens_by_hand(tmp_path: Path) -> None:
    model = describe_model(tmp_path / "model")
    jobs = [Job(0.0, [11] * 16, 40), Job(0.0, [12] * 16, 40), Job(500.0, [13] * 20, 3)]
    found = drive(model, jobs, {"ranking": "off"}, slots=2, blocks=100, budget=64, prefill_cost=0.5)
    # 32 prompt tokens in the first step, which takes 17; then one step a token.
    assert found.latencies == pytest.approx([17 + 39, 17 + 39, 1 + 10 + 2])
    assert (found.recomputed, found.preemptions) == (0, 0)
    assert found.makespan == pytest.approx(513)
    small = drive(model, jobs[:2], {"ranking": "off"}, slots=2, blocks=6, budget=64, prefill_cost=0)
    # Five blocks hold 80 tokens: at 33 + 32 one of two gives its 32 up, and computes them again.
    assert small.preemptions == 1
    assert small.recomputed == 32
    with pytest.raises(InputError, match="56 tokens cannot end in a KV cache of 4 blocks"):
        drive(model, jobs[:1], {"ranking": "off"}, slots=2, blocks=4, budget=64, prefill_cost=0)


def test_every_arm_is_measured_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BLOCKS", (100,))
    monkeypatch.setattr(bench, "TAUS", (0.5,))
    parser = ArgumentParser()
    bench.add_arguments(parser)
    page = tmp_path / "page.md"
    args = parser.parse_args(
        ["--out", str(tmp_path / "out"), "--page", str(page), "--requests", "40", "--seeds", "1"]
    )
    assert bench.run(args) == 0
    text = page.read_text()
    monkeypatch.setattr(bench, "measure", None)  # nothing is computed again
    assert bench.run(args) == 0
    assert page.read_text() == text
    for arm in bench.ARMS:
        assert f"| {arm} |" in text
    assert "| least work first | " in text
    assert "| 1.00 | 1.00 |" in text
    assert "100 blocks, a predictor of tau 0.5" in text
