"""The real engine, ours against stock: a KV cache too small, prompts in chunks, shared prefixes.

Both engines get the same prompts as token ids, and what they answer is compared. The order decides
which requests share a batch, and a batch decides in which order floating-point numbers are summed:
on another CPU single answers may differ where two tokens are nearly equally likely.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import scorer_processes
from vllm import LLM, SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler

from pars_export.table import write_length_predictor
from pars_vllm import ParsScheduler

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

BUDGET = 64
"""Tokens of a step: most prompts are longer."""


@contextmanager
def engine(model: Path, **options: object) -> Iterator[tuple[LLM, Scheduler]]:
    llm = LLM(
        model=str(model),
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=6,
        max_num_batched_tokens=BUDGET,
        num_gpu_blocks_override=24,
        block_size=32,
        enable_prefix_caching=True,
        disable_log_stats=False,
        **options,
    )
    try:
        yield llm, llm.llm_engine.engine_core.engine_core.scheduler
    finally:
        llm.llm_engine.engine_core.shutdown()


@dataclass
class Served:
    """What became of the prompts."""

    answers: list[list[int]]
    order: list[int]
    """Prompts in the order of their ends."""
    cached: int
    """Prompt tokens that came out of the prefix cache."""
    preemptions: int
    chunks: int
    """Steps in which a prompt was not computed to its end."""


def prompts() -> list[list[int]]:
    draw = random.Random(7)
    shared = [draw.randrange(3, 250) for _ in range(64)]
    lengths = [draw.choice((20, 70, 150)) for _ in range(18)]
    return [shared + [draw.randrange(3, 250) for _ in range(length)] for length in lengths]


def serve(llm: LLM, scheduler: Scheduler) -> Served:
    params = SamplingParams(max_tokens=100, temperature=0, ignore_eos=True)
    asked = prompts()
    for index, ids in enumerate(asked):
        llm.llm_engine.add_request(str(index), {"prompt_token_ids": ids}, params)
    requests = dict(scheduler.requests)
    assert len(requests) == len(asked)
    served = Served([[] for _ in asked], [], 0, 0, 0)
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                index = int(output.request_id)
                served.order.append(index)
                served.answers[index] = list(output.outputs[0].token_ids)
                served.cached += output.num_cached_tokens or 0
        served.chunks += any(request.is_prefill_chunk for request in scheduler.running)
    served.preemptions = sum(request.num_preemptions for request in requests.values())
    return served


def test_same_answers_as_stock(
    tiny_model: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with engine(tiny_model) as (llm, scheduler):
        assert type(scheduler) is Scheduler
        stock = serve(llm, scheduler)
    write_length_predictor(tmp_path / "length")
    pars = {"predictor": str(tmp_path / "length"), "patience": 1e6, "prefill_weight": 1.0}
    with engine(
        tiny_model,
        scheduler_cls="pars_vllm.ParsScheduler",
        additional_config={"pars": pars},
    ) as (llm, scheduler):
        assert isinstance(scheduler, ParsScheduler)
        assert scheduler.pars_scorer is not None
        assert scheduler.pars_scorer.wait(60)
        ours = serve(llm, scheduler)
        counters = scheduler.pars_counters
    assert scorer_processes() == []
    for served in (stock, ours):
        assert sorted(served.order) == list(range(18))
        assert served.preemptions > 0
        assert served.cached > 0
        assert served.chunks > 0
    assert stock.order != ours.order
    assert counters.scored == counters.requests == 18
    assert counters.preemptions == ours.preemptions
    differing = [i for i in range(18) if stock.answers[i] != ours.answers[i]]
    record_property("answers that differ from stock", str(differing))
    assert len(differing) <= 1, f"answers of {differing} differ from stock"
