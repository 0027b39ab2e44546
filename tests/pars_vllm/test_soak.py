"""Many random requests while the scorer process is killed again and again."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from modelless import Driver, make_config, make_scheduler, random_jobs

from pars_export.table import write_length_predictor
from pars_vllm import ParsScheduler
from pars_vllm.scorer import Scorer

pytestmark = pytest.mark.usefixtures("no_orphans")


@pytest.mark.parametrize("count", [pytest.param(500), pytest.param(20_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_none_lost_none_twice_nothing_left_behind(
    tiny_model: Path,
    tmp_path: Path,
    count: int,
    asynchronous: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr("pars_vllm.scorer._LAST_BACKOFF_S", 0.2)
    write_length_predictor(tmp_path / "length")
    pars = {"predictor": str(tmp_path / "length"), "patience": 3.0, "trust_priority": True}
    config = make_config(
        tiny_model, pars=pars, blocks=60, slots=8, policy="priority", asynchronous=asynchronous
    )
    scheduler = make_scheduler(ParsScheduler, config)
    assert isinstance(scheduler, ParsScheduler)
    scorer, queue = scheduler.pars_scorer, scheduler.pars_queue
    assert isinstance(scorer, Scorer)
    assert queue is not None
    draw = random.Random(count)
    jobs = random_jobs(11, count=count)
    driver = Driver(scheduler, jobs)
    assert scorer.wait(60)
    try:
        while driver._future or scheduler.has_unfinished_requests() or driver._flying:
            driver.step()
            if draw.random() < 0.005 and scorer.pid is not None and scorer.ready:
                os.kill(scorer.pid, draw.choice((signal.SIGKILL, signal.SIGTERM)))
            elif draw.random() < 0.02:
                scorer.wait(2)
        history = driver.history
        assert len(set(history.finished)) == len(history.finished)
        assert {job.id for job in jobs if job.abort_at is None} <= set(history.finished)
        assert history.preemptions > 0
        assert scheduler.pars_counters.losses > 0
        assert scheduler.pars_counters.scored > 0
        assert queue.order.admitted_urgent > 0
        scorer.wait(30)
        scheduler.schedule()
        assert not scheduler.requests
        assert not queue
        assert not queue.order._groups
        assert not queue.order._aside
        assert all(len(lane._heap) <= 64 for lane in queue.order._lanes)
        assert not scorer._waiters
    finally:
        scheduler.shutdown()
