"""Random requests through a real engine on the tiny model, its scorer killed all along."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import scorer_processes
from soaking import KEPT, BoundWatch, kept_objects, trouble
from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind

from pars_export.table import write_length_predictor
from pars_vllm import ParsScheduler

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

SHARE = 0.2
FINAL = RequestOutputKind.FINAL_ONLY
MOST_WAITING = 300
"""Beyond it nothing arrives: the watch of the bound looks at all that wait in every step."""


@pytest.fixture
def engine(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Iterator[LLM]:
    """A KV cache for three requests of the four that may run; the predictor is wrong."""
    write_length_predictor(tmp_path / "length")
    pars = {
        "predictor": str(tmp_path / "length"),
        "patience": 1.0,
        "share": SHARE,
        "trust_priority": request.param,
        "preempt_longest": not request.param,
        "pass_over": request.param,  # the bound is of requests that fit
        "cache_entries": 256,
    }
    llm = LLM(
        model=str(tiny_model),
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        block_size=32,
        num_gpu_blocks_override=13,
        scheduling_policy="priority" if request.param else "fcfs",
        scheduler_cls="pars_vllm.ParsScheduler",
        additional_config={"pars": pars},
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()
    assert scorer_processes() == []


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        pytest.param(False, 120, id="short"),
        pytest.param(False, 10_000, id="bound", marks=pytest.mark.soak),
        pytest.param(True, 10_000, id="priorities", marks=pytest.mark.soak),
    ],
    indirect=["engine"],
)
def test_every_answer_comes_once_and_whole(
    engine: LLM, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr("pars_vllm.scorer._LAST_BACKOFF_S", 0.2)
    llm, draw = engine.llm_engine, random.Random(count)
    scheduler = llm.engine_core.engine_core.scheduler
    assert isinstance(scheduler, ParsScheduler)
    scorer, queue = scheduler.pars_scorer, scheduler.pars_queue
    assert scorer is not None
    assert queue is not None
    assert scorer.wait(60)
    trusted = scheduler.pars_settings.trust_priority
    kept = kept_objects(scheduler)
    watch = BoundWatch(queue.order, SHARE)
    if not trusted:
        monkeypatch.setattr(queue.order, "begin", watch.begin)
    wanted: dict[str, tuple[int, int]] = {}  # request -> answers, tokens of each
    ended: set[str] = set()
    aborted: set[str] = set()
    made = 0
    while made < count or llm.has_unfinished_requests():
        if made < count and len(queue) < MOST_WAITING and draw.random() < 0.2:
            for _ in range(draw.choice((1, 2, 10))):
                name, n = f"r{made}", draw.choice((1, 1, 1, 3))
                tokens = draw.randint(1, draw.choice((60,) if count < 1_000 else (6, 6, 6, 60)))
                params = SamplingParams(
                    n=n, max_tokens=tokens, ignore_eos=True, seed=made, output_kind=FINAL
                )
                ids = [draw.randrange(256) for _ in range(draw.choice((3, 20, 90)))]
                priority = draw.choice((0, 0, 1, -1))
                llm.add_request(name, {"prompt_token_ids": ids}, params, priority=priority)
                wanted[name] = n, tokens
                made += 1
        if wanted and draw.random() < 0.02:
            name = draw.choice(sorted(wanted))
            llm.abort_request([name])
            del wanted[name]
            aborted.add(name)
        for output in llm.step():
            if not output.finished or output.request_id in aborted:
                continue
            assert output.request_id not in ended
            ended.add(output.request_id)
            n, tokens = wanted.pop(output.request_id)
            assert [len(answer.token_ids) for answer in output.outputs] == [tokens] * n
        trouble(scorer, draw)
    assert not wanted
    assert aborted
    counters = scheduler.pars_counters
    assert counters.losses > 0
    assert counters.scored > 0
    assert counters.preemptions > 0
    assert counters.admitted_urgent > 0
    assert trusted or watch.watched > 0
    scorer.wait(30)
    scheduler.schedule()
    assert not scheduler.requests
    assert not queue
    assert not scorer.pending
    assert not scheduler.pars_record._feedback._expected
    assert kept_objects(scheduler) - kept < KEPT
