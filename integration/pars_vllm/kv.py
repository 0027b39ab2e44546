"""Order by memory: whom a full KV cache preempts, and who may go while a giant does not fit.

vLLM preempts the last of ``running`` (under its policy "fcfs") and stops admitting at the first
waiting request that does not fit. Both are steered from outside, before ``schedule()`` runs: by the
order of ``running``, and by setting waiting requests aside for one step. Nothing of vLLM's own
scheduling is copied, and where the cache has room nothing is touched.

The victim is the request with the most work left, ``E[L | L > done] - done``: least work first,
applied to memory. A waiting request that does not fit is passed over by others for at most
``patience`` times its expected work, counted from the first time; then it holds its place, and the
cache drains until it fits. Preempted requests are never passed: those that came in their place
would soon be preempted too, and tokens computed twice cost more than an idle block.

Read of vLLM's scheduler: ``running``, ``policy``, ``block_size``, ``max_num_scheduled_tokens``,
``num_lookahead_tokens``, ``scheduler_reserve_full_isl``, ``kv_cache_manager.block_pool``; written:
the order of ``running``. ``tests/pars_vllm/test_contract.py`` holds them to their meaning.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.request import Request

from pars_vllm.metrics import Counters
from pars_vllm.policy import Policy
from pars_vllm.queue import ParsRequestQueue
from pars_vllm.track_record import TrackRecord

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler

_LOOKED_AT = 8
"""Waiting requests that may be set aside in one step: a step must stay short."""


class RemainingWork:
    """Work that requests still need, in decode steps, as far as the predictor knows."""

    def __init__(self, policy: Policy, record: TrackRecord) -> None:
        self._policy = policy
        self._record = record

    def __call__(self, request: Request) -> float | None:
        """Tokens to compute before the next one, at their weight, and those still to come."""
        tokens = self._record.remaining(request)
        if tokens is None:
            return None
        uncomputed = request.num_tokens - request.num_computed_tokens
        return self._policy.prefill_weight * max(int(uncomputed), 0) + tokens


def preempt_longest(scheduler: Scheduler, remaining: RemainingWork) -> None:
    """Put the running requests with the most work left last, if this step may preempt.

    The token budget is given out in the same order, so an unfinished prefill with much to come
    gets what the others leave of it; only in such a step.
    """
    running = scheduler.running
    # A step computes at most the budget, and rounding up to blocks costs each request at most one.
    tokens = scheduler.max_num_scheduled_tokens + len(running) * scheduler.num_lookahead_tokens
    most = tokens // scheduler.block_size + len(running)
    if len(running) < 2 or free_blocks(scheduler) >= most:
        return
    if scheduler.policy == SchedulingPolicy.PRIORITY:
        return  # there the victim is chosen by priority, wherever it stands
    left = [remaining(request) for request in running]
    known = [value for value in left if value is not None]
    if not known:
        return
    median = statistics.median_low(known)
    keyed = zip((median if value is None else value for value in left), running, strict=True)
    # Stable: requests with as much to come stay in vLLM's order.
    running[:] = [request for _, request in sorted(keyed, key=lambda pair: pair[0])]


class PassOver:
    """Sets waiting requests aside that do not fit into the KV cache, for a step and for a time."""

    def __init__(
        self,
        scheduler: Scheduler,
        queue: ParsRequestQueue,
        remaining: RemainingWork,
        patience: float,
        counters: Counters,
    ) -> None:
        self._scheduler = scheduler
        self._queue = queue
        self._remaining = remaining
        self._patience = patience
        self._counters = counters
        self._until: dict[str, float] = {}
        self._aside: list[Request] = []

    def before(self, step: int) -> None:
        """Set aside the heads of the queue that do not fit now; ``after`` puts them back."""
        if not self._scheduler.running:
            return  # nobody will give blocks back: whether the head fits is for vLLM to say
        while self._queue and len(self._aside) < _LOOKED_AT:
            request = self._queue.peek_request()
            if request.num_preemptions or fits(self._scheduler, request):
                return
            if step >= self._limit(request, step):
                return
            self._aside.append(self._queue.pop_request())

    def after(self) -> None:
        """Put back what was set aside, each to its own place."""
        self._queue.prepend_requests(self._aside)
        self._aside.clear()
        if len(self._until) > 2 * len(self._queue) + _LOOKED_AT:
            waiting = self._queue.order
            self._until = {key: step for key, step in self._until.items() if key in waiting}

    def _limit(self, request: Request, step: int) -> float:
        """The step from which this request lets nobody pass; at once without a score."""
        limit = self._until.get(request.request_id)
        if limit is None:
            work = self._remaining(request)
            if work is None:
                return step
            limit = self._until[request.request_id] = step + self._patience * work
            self._counters.passed_over += 1
        return limit


def free_blocks(scheduler: Scheduler) -> int:
    """KV blocks that nobody holds, cached ones included."""
    return int(scheduler.kv_cache_manager.block_pool.get_num_free_blocks())


def fits(scheduler: Scheduler, request: Request) -> bool:
    """False if the KV cache surely has no room for a waiting request now.

    "Surely": its uncached tokens alone need more blocks than are free. vLLM may still find that one
    does not fit that passes here (running requests take blocks first); it then stops as ever.
    """
    free, block = free_blocks(scheduler), scheduler.block_size
    tokens = request.num_tokens
    if not scheduler.scheduler_reserve_full_isl:  # then its first chunk is enough
        tokens = min(tokens, scheduler.max_num_scheduled_tokens)
    if tokens <= free * block:
        return True
    if not scheduler.cache_config.enable_prefix_caching or scheduler.enable_kv_cache_events:
        return False
    cached = int(scheduler.kv_cache_manager.get_computed_blocks(request)[1])
    return bool(min(tokens, request.num_tokens - cached) <= free * block)
