"""vLLM's ``RequestQueue`` over :class:`WaitingOrder`; it replaces ``Scheduler.waiting`` alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

from pars_vllm.order import WaitingOrder
from pars_vllm.policy import Policy

_CHILD = re.compile(r"\d+_(.+)", re.DOTALL)


def parent_of(request_id: str) -> str | None:
    """Id of the ``n > 1`` request whose child this is, by vLLM's naming ("0_PARENT"), or None.

    Unrelated ids of that shape do little harm: of equal work, and where urgent, such requests go as
    one group.
    """
    found = _CHILD.fullmatch(request_id)
    return found[1] if found else None


# A request whose KV blocks are loaded from elsewhere holds them already: leaving this queue is its
# admission.
_ADMITTED = (RequestStatus.RUNNING, RequestStatus.WAITING_FOR_REMOTE_KVS)


def _was_admitted(request: Request) -> bool:
    return request.status in _ADMITTED


class ParsRequestQueue(RequestQueue):  # type: ignore[misc]  # vLLM ships no types we read
    """Waiting requests, least expected work first. Scores and urgency come in by ``order``."""

    def __init__(self, policy: Policy) -> None:
        self.order: WaitingOrder[Request] = WaitingOrder(policy, _was_admitted)

    def add_request(self, request: Request) -> None:
        """A new arrival."""
        # vLLM may queue a preempted streaming session again while it stands here.
        self.order.discard(request.request_id)
        self.order.add(request.request_id, request, request.priority, parent_of(request.request_id))

    def pop_request(self) -> Request:
        """Take out the request that ``peek_request`` gives."""
        return self.order.pop()

    def peek_request(self) -> Request:
        """The next request; IndexError when there is none."""
        return self.order.peek()

    def prepend_request(self, request: Request) -> None:
        """A preempted request: first of its class."""
        self.order.resume(request.request_id, request, request.priority)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Requests set aside in this scheduling pass: each back to its own place.

        One that does not come from here has lost its KV blocks, as where loading them from
        elsewhere failed: it had its turn, and like a preempted one it goes first again.
        """
        for request in requests:
            if not self.order.restore(request.request_id):
                self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        """Take a request out; ValueError if it is not here."""
        if not self.order.discard(request.request_id):
            raise ValueError(f"request {request.request_id} is not in the waiting queue")

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Take out those that are here; vLLM gives the same list to two queues."""
        for request in requests:
            self.order.discard(request.request_id)

    def __bool__(self) -> bool:
        return len(self.order) > 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.order)
