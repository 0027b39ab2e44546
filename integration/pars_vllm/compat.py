"""What differs between the supported vLLM versions, for the queue that we replace.

Up to vLLM 0.30 every request that a scheduling pass sets aside moves to a queue of its own,
``skipped_waiting``, and goes before all of ``waiting`` in the next pass; so does a request that
arrives before its grammar is compiled. Since 0.31 only requests that hold KV blocks stand apart
(``kv_holding_waiting``), and all others go back to ``waiting``.

An order over ``waiting`` alone would therefore be no order for structured output on the older
versions. There ``skipped_waiting`` is replaced too, by one that keeps the block holders and gives
everything else to the ordered queue: the rule of vLLM 0.31.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import vllm
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from pars_vllm.versions import is_before


def has_skipped_waiting(version: str) -> bool:
    """Whether this vLLM version keeps all requests set aside in ``skipped_waiting``."""
    return is_before(version, "0.31")


def replace_waiting(scheduler: Scheduler, ordered: RequestQueue) -> None:
    """Make ``ordered`` the waiting queue of a scheduler that has no requests yet."""
    scheduler.waiting = ordered
    if has_skipped_waiting(vllm.__version__):
        scheduler.skipped_waiting = BlockHolders(scheduler.skipped_waiting, ordered)


def holds_kv_blocks(request: Request) -> bool:
    """Whether a waiting request has KV blocks: loaded, being loaded, or of its session so far."""
    return bool(
        request.num_computed_tokens > 0 or request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    )


class BlockHolders(RequestQueue):  # type: ignore[misc]  # vLLM ships no types we read
    """``skipped_waiting`` of vLLM 0.28 to 0.30, with the requests alone that hold KV blocks.

    They wait in ``holders``, vLLM's own queue, which goes first: nobody may wait for blocks that
    are held by a request behind them. All others go to ``ordered``.
    """

    def __init__(self, holders: RequestQueue, ordered: RequestQueue) -> None:
        self._holders = holders
        self._ordered = ordered

    def _queue_of(self, request: Request) -> RequestQueue:
        return self._holders if holds_kv_blocks(request) else self._ordered

    def add_request(self, request: Request) -> None:
        """A request that cannot be scheduled yet."""
        self._queue_of(request).add_request(request)

    def prepend_request(self, request: Request) -> None:
        """A request set aside in this scheduling pass."""
        # In the plural: to the ordered queue, the singular means a preempted request.
        self._queue_of(request).prepend_requests([request])

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Requests set aside in this scheduling pass, the last one first."""
        for request in requests:
            self.prepend_request(request)

    def pop_request(self) -> Request:
        """Take out the block holder that goes first."""
        return self._holders.pop_request()

    def peek_request(self) -> Request:
        """The block holder that goes first; IndexError when there is none."""
        return self._holders.peek_request()

    def remove_request(self, request: Request) -> None:
        """Take a block holder out."""
        self._holders.remove_request(request)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Take out the block holders among these; ``waiting`` is given the same list."""
        self._holders.remove_requests(requests)

    def __bool__(self) -> bool:
        return bool(self._holders)

    def __len__(self) -> int:
        return len(self._holders)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._holders)
