"""Ranking off: stock vLLM's schedule, step for step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelless import (
    Driver,
    History,
    Job,
    make_config,
    make_scheduler,
    random_jobs,
    with_children,
)
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from pars_vllm import ParsScheduler
from pars_vllm.queue import parent_of

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunked prefill": {"budget": 48},
    "no prefix cache": {"prefix_caching": False},
    "preemption": {"blocks": 45, "slots": 8},
    "preemption of chunked prefill": {"blocks": 45, "slots": 8, "budget": 48},
    "priority": {"policy": "priority"},
    "priority and preemption": {"policy": "priority", "blocks": 45, "slots": 8},
    "priority and preemption of chunked prefill": {
        "policy": "priority",
        "blocks": 45,
        "slots": 8,
        "budget": 48,
    },
}


def workload(seed: int) -> list[Job]:
    jobs = with_children(random_jobs(seed), seed)
    for index, job in enumerate(jobs[::4]):  # late enough for many of them to be running
        job.abort_at = job.at + 40 * (1 + index % 8)
    return jobs


def play(cls: type[Scheduler], model: Path, seed: int, **options: Any) -> History:
    scheduler = make_scheduler(cls, make_config(model, **options))
    try:
        return Driver(scheduler, workload(seed)).run()
    finally:
        scheduler.shutdown()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("case", CASES)
def test_off_is_stock(tiny_model: Path, case: str, asynchronous: bool) -> None:
    stock = AsyncScheduler if asynchronous else Scheduler
    options = {**CASES[case], "asynchronous": asynchronous}
    preemptions = 0
    for seed in (1, 2):
        expected = play(stock, tiny_model, seed, **options)
        found = play(ParsScheduler, tiny_model, seed, pars={"ranking": "off"}, **options)
        assert found.steps == expected.steps
        assert found.finished == expected.finished
        preemptions += found.preemptions
    assert (preemptions > 0) == ("preemption" in case)


def scheduled_tokens(history: History) -> dict[str, list[int]]:
    """Request -> tokens it was given, step by step."""
    found: dict[str, list[int]] = {}
    for step in history.steps:
        for name, tokens in step.tokens:
            found.setdefault(name, []).append(tokens)
    return found


def test_the_workload_has_what_identity_is_promised_for(tiny_model: Path) -> None:
    jobs = {job.id: job for job in workload(1)}
    plain = play(Scheduler, tiny_model, 1)
    chunked = play(Scheduler, tiny_model, 1, budget=48)
    by_priority = play(Scheduler, tiny_model, 1, policy="priority")

    def cached(history: History) -> set[str]:
        tokens = scheduled_tokens(history)
        return {name for name in history.finished if sum(tokens[name]) < len(jobs[name].prompt)}

    assert cached(plain)
    assert not cached(play(Scheduler, tiny_model, 1, prefix_caching=False))
    assert any(sum(n > 1 for n in tokens) > 1 for tokens in scheduled_tokens(chunked).values())
    aborted = set(jobs) - set(plain.finished)
    assert aborted & set(plain.admitted), "none was aborted while it ran"
    assert aborted - set(plain.admitted), "none was aborted while it waited"
    assert by_priority.admitted != plain.admitted
    assert any(parent_of(name) is not None for name in plain.finished)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_base_is_the_one_that_stock_vllm_chooses(tiny_model: Path, asynchronous: bool) -> None:
    config = make_config(tiny_model, asynchronous=asynchronous, pars={"ranking": "off"})
    scheduler = make_scheduler(ParsScheduler, config)
    assert isinstance(scheduler, ParsScheduler)
    assert isinstance(scheduler, AsyncScheduler) == asynchronous
    scheduler.shutdown()
