"""Whom a full KV cache preempts, and who may pass a giant; vLLM's real scheduler and KV cache."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest
from modelless import Driver, Job, make_config, make_scheduler, pars_scheduler, random_jobs
from tiny import byte_ids
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import SlidingWindowSpec

from pars_bench import modelless
from pars_export.table import write_length_predictor, write_table_predictor
from pars_vllm import ParsScheduler
from pars_vllm.kv import fits

pytestmark = pytest.mark.usefixtures("no_orphans")
WAIT = 60.0
BOTH = {"preempt_longest": True, "pass_over": True}


def table(folder: Path, **expected: float) -> str:
    """A predictor that expects these lengths of the prompts ``prompt(NAME)``."""
    known = {name.ljust(16): tokens for name, tokens in expected.items()}
    write_table_predictor(folder / "table", known)
    return str(folder / "table")


def job(name: str, length: int, size: int = 16) -> Job:
    return Job(name, byte_ids(name.ljust(16).ljust(size, ".")), length)


def put(driver: Driver, *jobs: Job) -> None:
    for each in jobs:
        driver.add(each)
    scheduler = driver.scheduler
    assert isinstance(scheduler, ParsScheduler)
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.wait(WAIT)


def victims(driver: Driver) -> list[str]:
    driver.run()
    return [name for step in driver.history.steps for name in step.preempted]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("longest", "victim"), [(False, "short"), (True, "long")])
def test_the_victim_has_the_most_work_left(
    tiny_model: Path, tmp_path: Path, longest: bool, victim: str, asynchronous: bool
) -> None:
    pars = {"predictor": table(tmp_path, long=300.0, short=100.0), "preempt_longest": longest}
    with pars_scheduler(tiny_model, pars, blocks=14, slots=2, asynchronous=asynchronous) as found:
        driver = Driver(found)
        put(driver, job("long", 150))
        driver.step()
        put(driver, job("short", 100))  # the last one that came: stock vLLM's victim
        assert victims(driver)[0] == victim
        assert sorted(driver.history.finished) == ["long", "short"]


def test_a_runaway_is_not_taken_for_nearly_done(tiny_model: Path, tmp_path: Path) -> None:
    pars = {"predictor": table(tmp_path, runaway=60.0, late=20.0), "preempt_longest": True}
    with pars_scheduler(tiny_model, pars, blocks=14, slots=2) as scheduler:
        driver = Driver(scheduler)
        put(driver, job("runaway", 190))
        for _ in range(150):
            driver.step()
        put(driver, job("late", 20))
        # 150 of 60 tokens are there: some 50 more are to be expected, against 20.
        assert victims(driver)[0] == "runaway"


def test_with_room_the_running_requests_keep_their_order(tiny_model: Path, tmp_path: Path) -> None:
    expected = {f"r{i}": 100.0 - i for i in range(8)}
    pars = {"predictor": table(tmp_path, **expected), "preempt_longest": True}
    with pars_scheduler(tiny_model, pars, blocks=1000, slots=8) as scheduler:
        driver = Driver(scheduler)
        put(driver, *(job(name, 60) for name in expected))
        driver.step()
        before = [request.request_id for request in scheduler.running]
        for _ in range(30):
            driver.step()
        assert [request.request_id for request in scheduler.running] == before


def giant_and_small(driver: Driver) -> None:
    """A cache mostly taken by "holder"; the shorter answer needs the longer prompt."""
    put(driver, job("holder", 90))
    driver.step()
    put(driver, job("giant", 2, size=216), job("small", 10), job("other", 10))


def expecting(folder: Path) -> str:
    known = {"holder".ljust(16): 90.0, "small".ljust(16): 10.0, "other".ljust(16): 10.0}
    known["giant".ljust(16).ljust(216, ".")] = 2.0
    write_table_predictor(folder / "table", known)
    return str(folder / "table")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("passes", [False, True])
def test_those_that_fit_pass_the_giant_that_does_not(
    tiny_model: Path, tmp_path: Path, passes: bool, asynchronous: bool
) -> None:
    pars = {"predictor": expecting(tmp_path), "pass_over": passes, "prefill_weight": 0.0}
    with pars_scheduler(tiny_model, pars, blocks=15, slots=4, asynchronous=asynchronous) as found:
        driver = Driver(found)
        giant_and_small(driver)
        assert found.pars_scorer is not None
        found._take_scores(found.pars_scorer)
        assert next(iter(found.waiting)).request_id == "giant"
        assert not fits(found, found.requests["giant"])
        assert fits(found, found.requests["small"])
        driver.run()
        order = ["holder", "small", "other", "giant"]
        assert driver.history.admitted == (
            order if passes else ["holder", "giant", "small", "other"]
        )
        assert found.pars_counters.passed_over == passes


def test_a_giant_for_the_estimate_alone_is_not_held_for_ever(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sliding window needs fewer blocks than the prompt has, and with nothing running no step
    counts towards patience."""
    monkeypatch.setattr(
        modelless,
        "FullAttentionSpec",
        functools.partial(SlidingWindowSpec, sliding_window=64),
    )
    write_length_predictor(tmp_path / "length")
    pars: dict[str, object] = {"predictor": str(tmp_path / "length"), "pass_over": True}
    with pars_scheduler(tiny_model, pars, blocks=60, prefix_caching=False) as scheduler:
        driver = Driver(scheduler)
        put(driver, job("giant", 3, size=1500))
        driver.run(limit=100)
        assert driver.history.finished == ["giant"]


def test_nobody_is_passed_beyond_its_patience(tiny_model: Path, tmp_path: Path) -> None:
    pars = {
        "predictor": expecting(tmp_path),
        "pass_over": True,
        "prefill_weight": 0.0,
        "patience": 5.0,
    }
    with pars_scheduler(tiny_model, pars, blocks=15, slots=4) as scheduler:
        driver = Driver(scheduler)
        giant_and_small(driver)
        driver.step()
        assert driver.history.admitted == ["holder", "small", "other"]
        for _ in range(9):  # two expected tokens, patience of five times that: ten steps
            driver.step()
        put(driver, job("late", 5))
        driver.step()
        driver.run()
        assert driver.history.admitted == ["holder", "small", "other", "giant", "late"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_without_scores_it_is_stock(tiny_model: Path, tmp_path: Path, asynchronous: bool) -> None:
    options = {"asynchronous": asynchronous, "slots": 8, "blocks": 45}
    stock = make_scheduler(
        AsyncScheduler if asynchronous else Scheduler,
        make_config(tiny_model, **options),  # type: ignore[arg-type]
    )
    expected = Driver(stock, random_jobs(3)).run()
    stock.shutdown()
    assert expected.preemptions > 0
    pars: dict[str, object] = {"predictor": table(tmp_path), **BOTH}
    with pars_scheduler(tiny_model, pars, **options) as scheduler:
        assert Driver(scheduler, random_jobs(3)).run().steps == expected.steps


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_none_lost_none_twice(tiny_model: Path, tmp_path: Path, asynchronous: bool) -> None:
    write_length_predictor(tmp_path / "length")
    pars: dict[str, object] = {"predictor": str(tmp_path / "length"), **BOTH}
    jobs = random_jobs(6, count=150)
    with pars_scheduler(
        tiny_model, pars, blocks=45, slots=8, asynchronous=asynchronous
    ) as scheduler:
        driver = Driver(scheduler, jobs)
        while driver._future or scheduler.has_unfinished_requests() or driver._flying:
            driver.step()
            if random.Random(driver._step).random() < 0.2:
                assert scheduler.pars_scorer is not None
                assert scheduler.pars_scorer.wait(WAIT)
        history = driver.history
        assert history.preemptions > 0
        assert scheduler.pars_counters.passed_over > 0
        assert len(set(history.finished)) == len(history.finished)
        assert {each.id for each in jobs if each.abort_at is None} <= set(history.finished)
        assert not scheduler.requests
        assert not scheduler.waiting
