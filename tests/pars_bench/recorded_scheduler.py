"""The shipped scheduler class, which says in the engine's log which requests it starts.

A client that does not get to run for seconds reads a whole burst at once, and then its clock says
nothing about the order in which the answers began. It is the class itself and no subclass, for it
chooses its base by the deployment. Only a server imports this, by `--scheduler-cls`.
"""

from __future__ import annotations

import sys

from vllm.v1.core.sched.output import SchedulerOutput

from pars_vllm import ParsScheduler

_schedule = ParsScheduler.schedule


def _recorded(self: ParsScheduler, *args: object, **kwargs: object) -> SchedulerOutput:
    output = _schedule(self, *args, **kwargs)
    for request in output.scheduled_new_reqs:
        size = len(request.prompt_token_ids)
        print(f"started a request of {size} tokens", file=sys.stderr, flush=True)
    return output


ParsScheduler.schedule = _recorded  # type: ignore[method-assign]
