"""Drives vLLM's real scheduler without a model: made-up tokens, one batch or two in flight."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from pars_bench import modelless
from pars_bench.modelless import BLOCK as BLOCK
from pars_bench.modelless import STOP
from pars_bench.modelless import make_config as make_config
from pars_bench.modelless import make_scheduler as make_scheduler
from pars_vllm import ParsScheduler

OTHER = 5


@dataclass
class Job:
    """A request to be made, and what will become of it."""

    id: str
    prompt: list[int]
    length: int
    """Tokens after which it stops by itself."""
    at: int = 0
    """Step before which it arrives."""
    abort_at: int | None = None
    max_tokens: int = 1000
    priority: int = 0


@dataclass
class Step:
    """What one schedule() decided."""

    tokens: list[tuple[str, int]]
    new: list[str]
    resumed: list[str]
    preempted: list[str]


@dataclass
class History:
    """What happened to a workload."""

    steps: list[Step] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    """In the order of their ends, aborted ones left out."""

    @property
    def admitted(self) -> list[str]:
        return [name for step in self.steps for name in step.new]

    @property
    def preemptions(self) -> int:
        return sum(len(step.preempted) for step in self.steps)


@contextmanager
def pars_scheduler(model: Path, pars: dict[str, object], **options: Any) -> Iterator[ParsScheduler]:
    """A ``ParsScheduler`` with these settings, shut down at the end."""
    scheduler = make_scheduler(ParsScheduler, make_config(model, pars=pars, **options))
    assert isinstance(scheduler, ParsScheduler)
    try:
        yield scheduler
    finally:
        scheduler.shutdown()


def make_request(job: Job, *, hashing: bool = True) -> Request:
    """A request as the engine core makes one."""
    return modelless.make_request(
        job.id,
        job.prompt,
        max_tokens=job.max_tokens,
        priority=job.priority,
        arrival=float(job.at),
        hashing=hashing,
    )


class Driver:
    """Steps a scheduler; with an asynchronous one, a second batch is scheduled before the first
    one's output is known, as the engine core does it."""

    def __init__(self, scheduler: Scheduler, jobs: Sequence[Job] = ()) -> None:
        self.scheduler = scheduler
        self.history = History()
        self._lengths: dict[str, int] = {}
        self._depth = 2 if scheduler.scheduler_config.async_scheduling else 1
        self._flying: deque[tuple[SchedulerOutput, list[str]]] = deque()
        self._future = sorted(jobs, key=lambda job: job.at)
        self._aborts = [job for job in jobs if job.abort_at is not None]
        self._step = 0

    def add(self, job: Job) -> Request:
        self._lengths[job.id] = job.length
        request = make_request(job)
        self.scheduler.add_request(request)
        return request

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def run(self, limit: int = 20_000) -> History:
        """Until all is done."""
        while self._future or self.scheduler.has_unfinished_requests() or self._flying:
            assert self._step < limit, "the workload does not end"
            self.step()
        return self.history

    def step(self) -> Step | None:
        """One turn of the engine's loop."""
        while self._future and self._future[0].at <= self._step:
            self.add(self._future.pop(0))
        for job in self._aborts:
            if job.abort_at == self._step:
                self.abort(job.id)
        self._step += 1
        output = self.scheduler.schedule()
        step = Step(
            tokens=list(output.num_scheduled_tokens.items()),
            new=[new.req_id for new in output.scheduled_new_reqs],
            resumed=sorted(output.scheduled_cached_reqs.resumed_req_ids),
            preempted=sorted(output.preempted_req_ids or ()),
        )
        self.history.steps.append(step)
        requests = self.scheduler.requests
        samples = [
            name for name in output.num_scheduled_tokens if not requests[name].is_prefill_chunk
        ]
        if output.num_scheduled_tokens:
            self._flying.append((output, samples))
        if len(self._flying) == self._depth or (self._flying and not output.num_scheduled_tokens):
            self._update()
        return step

    def _update(self) -> None:
        output, samples = self._flying.popleft()
        names = list(output.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for name in names:
            request = self.scheduler.requests.get(name)
            token = OTHER
            if request is not None and request.num_output_tokens + 1 >= self._lengths[name]:
                token = STOP
            sampled.append([token] if name in samples else [])
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        for outputs in self.scheduler.update_from_output(output, result).values():
            ended = [each.request_id for each in outputs.outputs if each.finish_reason is not None]
            self.history.finished += ended


def with_children(jobs: list[Job], seed: int) -> list[Job]:
    """The same with ``n > 1`` for some: children that arrive together, named as vLLM names them."""
    draw = random.Random(seed)
    found = []
    for job in jobs:
        n = draw.choice((1, 1, 1, 3))
        lengths = [job.length] + [max(1, int(draw.lognormvariate(3, 1))) for _ in range(n - 1)]
        for index, length in enumerate(lengths):
            name = job.id if n == 1 else f"{index}_{job.id}"
            found.append(replace(job, id=name, prompt=list(job.prompt), length=length))
    return found


def random_jobs(seed: int, count: int = 60, **fixed: Any) -> list[Job]:
    """A recorded workload: bursts, shared prefixes, long prompts, aborts, priorities."""
    draw = random.Random(seed)
    prefixes = [[draw.randrange(10, 250) for _ in range(64)] for _ in range(3)]
    jobs = []
    at = 0
    for index in range(count):
        at += draw.choice((0, 0, 0, 1, 5, 20))
        own = [draw.randrange(10, 250) for _ in range(draw.choice((3, 20, 90, 300)))]
        job = Job(
            id=f"r{index}",
            prompt=draw.choice(prefixes) + own if draw.random() < 0.5 else own,
            length=max(1, int(draw.lognormvariate(3, 1))),
            at=at,
            abort_at=at + draw.randrange(0, 60) if draw.random() < 0.15 else None,
            max_tokens=draw.choice((30, 200, 200)),
            priority=draw.choice((0, 0, 1, -3)),
        )
        for name, value in fixed.items():
            setattr(job, name, value)
        jobs.append(job)
    return jobs
