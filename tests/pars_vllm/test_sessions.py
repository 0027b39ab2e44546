"""Streaming input under our queue: a session waits for its next chunk and goes on as itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from modelless import Driver, Job, make_request, pars_scheduler
from vllm.v1.request import RequestStatus

from pars_export.table import write_length_predictor

pytestmark = pytest.mark.usefixtures("no_orphans")

CHUNKS = 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_sessions_are_served_to_their_end_while_the_cache_is_full(
    tiny_model: Path, tmp_path: Path, asynchronous: bool, seed: int
) -> None:
    write_length_predictor(tmp_path / "length")
    pars = {"predictor": str(tmp_path / "length"), "patience": 1.0}
    draw = random.Random(seed)
    with pars_scheduler(
        tiny_model, pars, blocks=24, slots=6, asynchronous=asynchronous
    ) as scheduler:
        assert scheduler.pars_queue is not None
        driver = Driver(scheduler)

        def send(name: str, resumable: bool = True) -> None:
            driver._lengths[name] = draw.randint(1, 24)
            request = make_request(Job(name, [draw.randrange(10, 250) for _ in range(20)], 0))
            request.resumable = resumable
            scheduler.add_request(request)

        left = {f"s{index}": CHUNKS for index in range(12)}
        for name in left:
            send(name)
        turns = 0
        while scheduler.requests or driver._flying:
            driver.step()
            for name in left:
                request = scheduler.requests.get(name)
                if request is None or request.status != RequestStatus.WAITING_FOR_STREAMING_REQ:
                    continue
                turns += 1
                left[name] -= 1
                send(name, resumable=left[name] > 0)  # what is not resumable ends the session
            assert driver._step < 2_000
        assert set(left.values()) == {0}
        assert turns == CHUNKS * len(left)
        assert driver.history.preemptions > 0
        assert not scheduler.pars_queue
        assert not scheduler.pars_queue.order._aside
        assert scheduler.pars_counters.requests == len(left)  # a chunk is no request of its own
