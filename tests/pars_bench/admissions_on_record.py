"""The scheduler with a line in the engine's log for each request that it starts.

A client that does not get to run for seconds reads a whole burst at once, and then its clock says
nothing about the order in which the answers began.
"""

from __future__ import annotations

import sys

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput

from pars_vllm import ParsScheduler

STARTED = "started a request of"


class AdmissionsOnRecord(ParsScheduler, AsyncScheduler):  # type: ignore[misc]  # vLLM has no types
    """Says on stderr how many prompt tokens each request has, as it starts."""

    def schedule(self, *args: object, **kwargs: object) -> SchedulerOutput:
        """The scheduler's own step, told afterwards."""
        output = super().schedule(*args, **kwargs)
        for request in output.scheduled_new_reqs:
            print(STARTED, len(request.prompt_token_ids), "tokens", file=sys.stderr, flush=True)
        return output
