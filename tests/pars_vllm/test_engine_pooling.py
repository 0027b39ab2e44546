"""Embeddings through our scheduler: there is nothing to predict, and nothing may change."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm import LLM

from pars_export.table import write_length_predictor
from pars_vllm import ParsScheduler

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def test_pooling_requests_pass_untouched(tiny_model: Path, tmp_path: Path) -> None:
    write_length_predictor(tmp_path / "length")
    llm = LLM(
        model=str(tiny_model),
        runner="pooling",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=2,
        scheduler_cls="pars_vllm.ParsScheduler",
        additional_config={"pars": {"predictor": str(tmp_path / "length")}},
    )
    try:
        scheduler = llm.llm_engine.engine_core.engine_core.scheduler
        assert isinstance(scheduler, ParsScheduler)
        assert scheduler.pars_scorer is not None
        assert scheduler.pars_scorer.wait(60)
        texts = ["a long text " * 20, "short", "of middle length " * 5, "x"]
        together = [out.outputs.embedding for out in llm.embed(texts, use_tqdm=False)]
        alone = [llm.embed([text], use_tqdm=False)[0].outputs.embedding for text in texts]
        for ours, reference in zip(together, alone, strict=True):
            assert ours == pytest.approx(reference, abs=2e-2)  # bfloat16
        counters = scheduler.pars_counters
        assert (counters.requests, counters.scored, counters.finished) == (0, 0, 0)
        assert scheduler.pars_queue is not None
        assert scheduler.pars_queue.order.admissions == 8
        assert not scheduler.requests
    finally:
        llm.llm_engine.engine_core.shutdown()
