"""Ranking off: stock vLLM's schedule, step for step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelless import Driver, History, make_config, make_scheduler, random_jobs
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from pars_vllm import ParsScheduler

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunked prefill": {"budget": 48},
    "no prefix cache": {"prefix_caching": False},
    "preemption": {"blocks": 45, "slots": 8},
    "priority": {"policy": "priority"},
    "priority and preemption": {"policy": "priority", "blocks": 45, "slots": 8},
}


def play(cls: type[Scheduler], model: Path, seed: int, **options: Any) -> History:
    scheduler = make_scheduler(cls, make_config(model, **options))
    try:
        return Driver(scheduler, random_jobs(seed)).run()
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


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_base_is_the_one_that_stock_vllm_chooses(tiny_model: Path, asynchronous: bool) -> None:
    config = make_config(tiny_model, asynchronous=asynchronous, pars={"ranking": "off"})
    scheduler = make_scheduler(ParsScheduler, config)
    assert isinstance(scheduler, ParsScheduler)
    assert isinstance(scheduler, AsyncScheduler) == asynchronous
    scheduler.shutdown()
