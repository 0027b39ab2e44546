"""Expected work of a request in vLLM: what its place in the waiting queue is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pars_vllm.policy import Policy

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request

_PREFILL_COUNTS = 0.05
"""The prefix cache is asked only where the prompt is at least this share of the response's work."""


class ExpectedWork:
    """Decode steps that requests of ``scheduler`` are expected to need."""

    def __init__(self, scheduler: Scheduler, policy: Policy) -> None:
        self._scheduler = scheduler
        self._policy = policy

    def __call__(self, request: Request, tokens: float, waits: bool) -> float:
        """What is left of a waiting request, the whole of one that runs already.

        The latter only feeds the median, at which requests without a score stand.

        Args:
            request: One that is not over.
            tokens: Expected length of its response.
            waits: Whether it is in the waiting queue.
        """
        prompt = request.num_prompt_tokens
        counts = self._policy.prefill_weight * prompt >= _PREFILL_COUNTS * tokens
        cached = self._cached_tokens(request) if waits and counts else 0
        return self._policy.work(
            uncached_tokens=prompt - cached,
            expected_tokens=tokens,
            max_tokens=request.max_tokens,
            done=request.num_output_tokens if waits else 0,
        )

    def _cached_tokens(self, request: Request) -> int:
        """Prompt tokens whose KV blocks are in the prefix cache now."""
        scheduler = self._scheduler
        if not scheduler.cache_config.enable_prefix_caching or request.num_computed_tokens:
            return 0
        if scheduler.enable_kv_cache_events:  # the lookup may publish some
            return 0
        found = int(scheduler.kv_cache_manager.get_computed_blocks(request)[1])
        return min(found, int(request.num_prompt_tokens))  # of a preempted one also its answer's
