"""What one operation on the waiting queue costs: ours against stock vLLM's two.

The three queues hold the same requests. Stock's priority queue gets the expected work as the
clients' priority, which is how one would order by length without us.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy, create_request_queue
from vllm.v1.request import Request, RequestStatus

from pars_bench.modelless import make_request
from pars_bench.sidebyside import FCFS, OURS, PRIORITY, Case, Stopwatch, case_of, take_turns
from pars_vllm.policy import Policy
from pars_vllm.queue import ParsRequestQueue

CALLS = 200
"""Calls in a sample, at most half of what waits; of removals, which are slow in stock, a 40th."""
LOSSES = 25
"""Most samples of a loss of all scores, which takes long to make good again."""


class WaitingQueue:
    """One queue with its requests waiting in it; each method is one sample in microseconds."""

    def __init__(self, queue: RequestQueue, waiting: int, seed: int) -> None:
        self._queue = queue
        self._draw = random.Random(seed)
        self._calls = min(CALLS, waiting // 2)
        requests = self._make("r", waiting + self._calls)
        self._waiting, self._newcomers = requests[:waiting], requests[waiting:]
        self._put_back(self._waiting)

    def add(self) -> float:
        """New arrivals, without a score yet."""
        watch = Stopwatch()
        with watch.running():
            for request in self._newcomers:
                self._queue.add_request(request)
        self._queue.remove_requests(self._newcomers)
        return watch.each(len(self._newcomers))

    def pop(self) -> float:
        """Peek, pop and run, as ``schedule()`` admits a request."""
        watch = Stopwatch()
        popped = []
        with watch.running():
            for _ in range(self._calls):
                self._queue.peek_request()
                request = self._queue.pop_request()
                request.status = RequestStatus.RUNNING
                popped.append(request)
        for request in popped:
            request.status = RequestStatus.WAITING
        self._put_back(popped)
        return watch.each(self._calls)

    def remove(self) -> float:
        """Single requests from anywhere, as when a client goes away."""
        gone = self._draw.sample(self._waiting, max(1, self._calls // 40))
        watch = Stopwatch()
        with watch.running():
            for request in gone:
                self._queue.remove_requests([request])
        self._put_back(gone)
        return watch.each(len(gone))

    def set_aside(self) -> float:
        """Peek, pop and put back, as ``schedule()`` does with what cannot run yet."""
        watch = Stopwatch()
        popped = []
        with watch.running():
            for _ in range(self._calls):
                self._queue.peek_request()
                popped.append(self._queue.pop_request())
            self._queue.prepend_requests(popped)
        return watch.each(self._calls)

    def lose_scores(self) -> float:
        """All scores at once, and the first step after the next one has come."""
        assert isinstance(self._queue, ParsRequestQueue)
        order = self._queue.order
        watch = Stopwatch()
        with watch.running():
            order.drop_scores()
            order.rescore(self._waiting[0].request_id, 1.0)
            order.begin(0)
        for request in self._waiting:
            order.rescore(request.request_id, float(request.priority))
        order.begin(0)
        return watch.each(1)

    def rescore(self) -> float:
        """Another expected length for single requests."""
        assert isinstance(self._queue, ParsRequestQueue)
        order = self._queue.order
        scores = [
            (request.request_id, self._draw.lognormvariate(5, 1))
            for request in self._draw.sample(self._waiting, self._calls)
        ]
        watch = Stopwatch()
        with watch.running():
            for request_id, work in scores:
                order.rescore(request_id, work)
        return watch.each(self._calls)

    def _make(self, name: str, count: int) -> list[Request]:
        return [
            make_request(
                f"{name}{index}",
                [1, 2, 3],
                priority=int(self._draw.lognormvariate(5, 1)),
                arrival=float(index),
                hashing=False,
            )
            for index in range(count)
        ]

    def _put_back(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._queue.add_request(request)
        if isinstance(self._queue, ParsRequestQueue):
            self._queue.order.begin(0)  # what was popped is running: an admission
            for request in requests:
                self._queue.order.rescore(request.request_id, float(request.priority))
            self._queue.order.begin(0)


def measure_queue(waiting: int, rounds: int, seed: int) -> list[Case]:
    """Every operation at ``waiting`` requests in the queue."""
    queues = {
        OURS: WaitingQueue(ParsRequestQueue(Policy()), waiting, seed),
        FCFS: WaitingQueue(create_request_queue(SchedulingPolicy.FCFS), waiting, seed),
        PRIORITY: WaitingQueue(create_request_queue(SchedulingPolicy.PRIORITY), waiting, seed),
    }
    operations: dict[str, Callable[[WaitingQueue], float]] = {
        "add": WaitingQueue.add,
        "pop": WaitingQueue.pop,
        "remove": WaitingQueue.remove,
        "set aside": WaitingQueue.set_aside,
    }
    cases = []
    for operation, sample in operations.items():
        contestants = {name: _bind(sample, queue) for name, queue in queues.items()}
        cases.append(case_of(operation, waiting, take_turns(contestants, rounds)))
    ours: dict[str, tuple[Callable[[], float], int]] = {
        "re-score": (queues[OURS].rescore, rounds),
        "lose all scores": (queues[OURS].lose_scores, min(rounds, LOSSES)),
    }
    for operation, (sample_of_ours, turns) in ours.items():
        cases.append(case_of(operation, waiting, take_turns({OURS: sample_of_ours}, turns)))
    return cases


def _bind(sample: Callable[[WaitingQueue], float], queue: WaitingQueue) -> Callable[[], float]:
    return lambda: sample(queue)
