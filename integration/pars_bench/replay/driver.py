"""One run: the real scheduler stepped through a traffic in virtual time.

A step is what the engine core does in one turn of its loop (``EngineCore.step`` and
``step_with_batch_queue``): requests that have arrived are added, ``schedule()`` decides, the pass
takes as long as the step-time model says, and ``update_from_output()`` takes in made-up tokens.
With asynchronous scheduling the second batch is scheduled before the first one's tokens are known.
Idle time costs nothing: the clock leaps to the next arrival.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pars_bench.replay.costmodel import StepTime
from pars_bench.replay.record import Record
from pars_bench.replay.requests import OTHER_TOKEN, STOP_TOKEN, RequestMaker
from pars_bench.replay.traffic import TrafficRequest
from pars_export.errors import ParsError

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request

_BATCHES_IN_FLIGHT = 2  # of asynchronous scheduling without pipeline parallelism


class ReplayError(ParsError):
    """The replay came to a state that a real engine must not come to."""


@dataclass
class Clock:
    """Virtual seconds since the start of the traffic."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@dataclass(slots=True)
class _Live:
    """A request that is not finished."""

    index: int
    request: Request
    length: int


@dataclass(slots=True)
class _Batch:
    """A scheduled batch whose tokens are not taken in yet."""

    output: SchedulerOutput
    names: list[str]
    sampling: list[bool]
    """Whether a token comes out: not in the middle of a prompt."""
    ends: float
    """Virtual second at which its tokens are there."""


@dataclass
class Driver:
    """Steps ``scheduler`` through ``arrivals`` until every request is answered."""

    scheduler: Scheduler
    arrivals: Iterator[TrafficRequest]
    step_time: StepTime
    maker: RequestMaker
    record: Record
    clock: Clock
    priority: Callable[[int], int] = field(default=lambda _index: 0)
    """The ``priority`` that a client sends with a request, by its number."""
    on_finish: Callable[[int], None] = field(default=lambda _finished: None)
    """Called with the number of finished requests."""

    def __post_init__(self) -> None:
        asynchronous = self.scheduler.scheduler_config.async_scheduling
        self._depth = _BATCHES_IN_FLIGHT if asynchronous else 1
        self._flying: deque[_Batch] = deque()
        self._live: dict[str, _Live] = {}
        self._left: dict[str, int] = {}
        self._unanswered: set[str] = set()
        self._device_free = 0.0
        self._added = 0
        self._next = next(self.arrivals, None)

    def run(self) -> Record:
        """Until all is answered."""
        scheduler = self.scheduler
        while True:
            self._arrive()
            if not self._flying and not scheduler.has_requests():
                if self._next is None:
                    return self.record
                self.clock.now = max(self.clock.now, self._next.arrival_s)
                continue
            self._turn()

    def _arrive(self) -> None:
        now = self.clock.now
        while self._next is not None and self._next.arrival_s <= now:
            index, request = self._added, self._next
            name = str(index)
            self._added += 1
            made = self.maker.make(request, index, name, self.priority(index))
            self._live[name] = _Live(index, made, request.output_tokens)
            self._left[name] = request.output_tokens
            self._unanswered.add(name)
            self.scheduler.add_request(made)
            self._next = next(self.arrivals, None)

    def _turn(self) -> None:
        """``step_with_batch_queue``; with one batch in flight it is ``step``."""
        if self.scheduler.has_requests():
            started = time.process_time()
            batch = self._launch()
            self.record.scheduling_s += time.process_time() - started
            self._flying.append(batch)
            if len(self._flying) < self._depth and (batch.names or self.scheduler.has_requests()):
                return
        self._take_in(self._flying.popleft())

    def _launch(self) -> _Batch:
        scheduler, record, now = self.scheduler, self.record, self.clock.now
        output = scheduler.schedule()
        names = list(output.num_scheduled_tokens)
        if not names:
            if not self._flying and scheduler.has_unfinished_requests():
                raise ReplayError(
                    f"nothing runs and nothing can be scheduled at {now:.3f} s, though "
                    f"{len(self._live)} requests wait: the next one does not fit into the engine."
                )
            return _Batch(output, names, [], now)
        for new in output.scheduled_new_reqs:
            record.admit(self._live[new.req_id].index, now, new.num_computed_tokens)
        requests = scheduler.requests
        sampling = [not requests[name].is_prefill_chunk for name in names]
        tokens, context, pairs = work_of(output)
        record.step(tokens, len(names), scheduler.get_request_counts()[1])
        ready = now + self.step_time.host_s
        start = max(ready, self._device_free)
        self._device_free = start + float(self.step_time.device_s(tokens, context, pairs))
        self.clock.now = ready
        return _Batch(output, names, sampling, self._device_free)

    def _take_in(self, batch: _Batch) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        self.clock.now = now = max(self.clock.now, batch.ends)
        started = time.process_time()
        left, other = self._left, [OTHER_TOKEN]
        sampled: list[list[int]] = []
        ended: list[str] = []
        for name, samples in zip(batch.names, batch.sampling, strict=True):
            if not samples:
                sampled.append([])
                continue
            missing = left.get(name)
            sampled.append(other)
            if missing is None:  # it ended while this batch was on its way
                self.record.wasted += 1
                continue
            left[name] = missing - 1
            if missing == 1:
                sampled[-1] = [STOP_TOKEN]
                ended.append(name)
        result = ModelRunnerOutput(
            req_ids=batch.names,
            req_id_to_index={name: index for index, name in enumerate(batch.names)},
            sampled_token_ids=sampled,
        )
        self.scheduler.update_from_output(batch.output, result)
        self.record.scheduling_s += time.process_time() - started
        if self._unanswered:
            for name in [name for name in batch.names if name in self._unanswered]:
                if left[name] < self._live[name].length:
                    self._unanswered.discard(name)
                    self.record.first_token(self._live[name].index, now)
        for name in ended:
            self._finish(name, now)

    def _finish(self, name: str, now: float) -> None:
        live = self._live.pop(name)
        del self._left[name]
        found = live.request.num_output_tokens
        if not live.request.is_finished() or found != live.length:
            raise ReplayError(
                f"request {live.index} has {found} tokens and status "
                f"{live.request.status.name} where {live.length} tokens should end it."
            )
        self.record.finish(live.index, now, live.request.num_preemptions)
        self.on_finish(self.record.finished)


def work_of(output: SchedulerOutput) -> tuple[int, int, float]:
    """(tokens, context, pairs) of a batch; see :meth:`costmodel.StepTime.device_s`."""
    scheduled = output.num_scheduled_tokens
    tokens = output.total_num_scheduled_tokens
    cached = output.scheduled_cached_reqs
    before = sum(cached.num_computed_tokens)
    before += sum(new.num_computed_tokens for new in output.scheduled_new_reqs)
    if tokens == len(scheduled):  # one token each
        return tokens, before + tokens, float(before + tokens)
    starts = list(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    starts += [(new.req_id, new.num_computed_tokens) for new in output.scheduled_new_reqs]
    pairs = 0.0
    for name, computed in starts:
        count = scheduled[name]
        pairs += count * (computed + (count + 1) / 2)
    return tokens, before + tokens, pairs
