"""Highest response ratio next, a queue for comparison only.

The ratio of every waiting request changes with every moment, so each look at the queue costs time
in proportion to its length: fit for a replay, not for an engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request


class HrrnQueue(RequestQueue):  # type: ignore[misc]  # vLLM ships no types we read
    """Largest (wait + service) / service first; preempted requests before all, as in vLLM.

    Args:
        clock: Seconds; must stand still during a scheduling step.
        service_s: Expected seconds that a request takes by itself.
    """

    def __init__(self, clock: Callable[[], float], service_s: Callable[[Request], float]) -> None:
        self._clock = clock
        self._service_s = service_s
        self._front: deque[Request] = deque()
        self._requests: list[Request] = []
        self._places: dict[str, int] = {}
        self._arrival = np.empty(64)
        self._service = np.empty(64)
        self._first: int | None = None
        self._first_at = 0.0

    def add_request(self, request: Request) -> None:
        """A new arrival."""
        place = len(self._requests)
        if place == self._arrival.size:
            self._arrival = np.concatenate((self._arrival, np.empty(place)))
            self._service = np.concatenate((self._service, np.empty(place)))
        self._arrival[place] = request.arrival_time
        self._service[place] = self._service_s(request)
        self._places[request.request_id] = place
        self._requests.append(request)
        self._first = None

    def peek_request(self) -> Request:
        """The next request; IndexError when there is none."""
        return self._front[0] if self._front else self._requests[self._best()]

    def pop_request(self) -> Request:
        """Take out the request that ``peek_request`` gives."""
        return self._front.popleft() if self._front else self._take(self._best())

    def prepend_request(self, request: Request) -> None:
        """A preempted request."""
        self._front.appendleft(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Requests that were set aside; they come in reverse order."""
        self._front.extendleft(requests)

    def remove_request(self, request: Request) -> None:
        """Take a request out; ValueError if it is not here."""
        place = self._places.get(request.request_id)
        if place is None:
            self._front.remove(request)
        else:
            self._take(place)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Take out those that are here."""
        for request in requests:
            if request.request_id in self._places or request in self._front:
                self.remove_request(request)

    def __bool__(self) -> bool:
        return bool(self._front or self._requests)

    def __len__(self) -> int:
        return len(self._front) + len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        yield from self._front
        yield from (self._requests[place] for place in np.argsort(-self._ratios(), kind="stable"))

    def _ratios(self) -> np.ndarray:
        count = len(self._requests)
        waited = self._clock() - self._arrival[:count]
        ratios: np.ndarray = 1 + waited / self._service[:count]
        return ratios

    def _best(self) -> int:
        if not self._requests:
            raise IndexError("peek or pop from an empty waiting queue")
        # The clock stands still inside a step, so the first look holds until something changes
        # or time passes.
        now = self._clock()
        if self._first is None or self._first_at != now:
            self._first, self._first_at = int(self._ratios().argmax()), now
        return self._first

    def _take(self, place: int) -> Request:
        request = self._requests[place]
        last = self._requests.pop()
        if last is not request:
            end = len(self._requests)
            self._requests[place] = last
            self._arrival[place], self._service[place] = self._arrival[end], self._service[end]
            self._places[last.request_id] = place
        del self._places[request.request_id]
        self._first = None
        return request
