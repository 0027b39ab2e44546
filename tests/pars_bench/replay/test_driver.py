"""The replay steps the scheduler as vLLM's own engine core does, and keeps its books right."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from queue import Queue

import pytest
from replay_bursts import SHARED, mixed, small_engine
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.outputs import ModelRunnerOutput

from pars_bench.replay.columns import read_columns
from pars_bench.replay.driver import Clock, Driver, ReplayError, work_of
from pars_bench.replay.engine import EngineOptions, make_engine
from pars_bench.replay.fit import FittedStepTime
from pars_bench.replay.record import ConservationError, Record
from pars_bench.replay.requests import OTHER_TOKEN, STOP_TOKEN, RequestMaker, prompt_ids
from pars_bench.replay.traffic import TrafficRequest
from pars_vllm import ParsScheduler

Shape = list[tuple[str, int]]

TENTH = FittedStepTime(0.1, 0, 0, steps=10, relative_error=0, total_error=0, r_squared=1)
"""Every pass takes a tenth of a second."""


@dataclass(frozen=True)
class Overhead:
    """Passes of ``device`` seconds behind ``host_s`` seconds of the host."""

    host_s: float
    device: float

    def device_s(self, tokens: object, context: object, pairs: object) -> float:
        return self.device

    def facts(self) -> dict[str, object]:
        return {}


def shapes_of(scheduler: Scheduler) -> list[Shape]:
    """The list that every scheduled batch's tokens are noted in, empty batches left out."""
    shapes: list[Shape] = []
    schedule = scheduler.schedule

    def noted(*args: object) -> SchedulerOutput:
        output: SchedulerOutput = schedule(*args)
        if output.num_scheduled_tokens:
            shapes.append(list(output.num_scheduled_tokens.items()))
        return output

    scheduler.schedule = noted
    return shapes


def replayed(
    options: EngineOptions, requests: Sequence[TrafficRequest], forced: bool = False
) -> tuple[list[Shape], Record]:
    scheduler = make_engine(options, {"ranking": "off"})
    shapes = shapes_of(scheduler)
    record = Record(read_columns(requests, options))
    maker = RequestMaker(options, SHARED, forced)
    Driver(scheduler, iter(requests), TENTH, maker, record, Clock()).run()
    scheduler.shutdown()
    record.check()
    return shapes, record


@dataclass
class MadeUpExecutor:
    """Stands in for the executor: tokens become known when the engine core asks for them."""

    scheduler: Scheduler
    lengths: dict[str, int]
    _last: list[ModelRunnerOutput | None] = field(default_factory=list)

    def execute_model(self, output: SchedulerOutput, non_block: bool) -> Future[ModelRunnerOutput]:
        requests = self.scheduler.requests
        self._output = output
        self._samples = {
            name for name in output.num_scheduled_tokens if not requests[name].is_prefill_chunk
        }
        return self._future()

    def sample_tokens(self, grammar: object, non_block: bool = True) -> Future[ModelRunnerOutput]:
        return self._future()

    def _future(self) -> Future[ModelRunnerOutput]:
        output, samples, executor = self._output, self._samples, self

        class Later(Future[ModelRunnerOutput]):
            def result(self, timeout: float | None = None) -> ModelRunnerOutput:
                return executor.tokens(output, samples)

        return Later()

    def tokens(self, output: SchedulerOutput, samples: set[str]) -> ModelRunnerOutput:
        names = list(output.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for name in names:
            request = self.scheduler.requests.get(name)
            ends = request is not None and request.num_output_tokens + 1 >= self.lengths[name]
            sampled.append([STOP_TOKEN if ends else OTHER_TOKEN] if name in samples else [])
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )


def by_the_engine_core(
    options: EngineOptions, requests: Sequence[TrafficRequest], forced: bool
) -> list[Shape]:
    """The same burst under vLLM's own ``EngineCore.step`` or ``step_with_batch_queue``."""
    scheduler = make_engine(options, {"ranking": "off"})
    shapes = shapes_of(scheduler)
    maker = RequestMaker(options, SHARED, forced)
    lengths = {str(index): request.output_tokens for index, request in enumerate(requests)}
    core = object.__new__(EngineCore)
    core.scheduler = scheduler
    core.model_executor = MadeUpExecutor(scheduler, lengths)
    core.batch_queue = deque(maxlen=2)
    core.batch_queue_size = 2
    core.is_mm_encoder_only = core.is_pooling_model = core.check_for_draft_tokens = False
    core.aborts_queue = Queue()
    core._weight_version = None
    core.log_error_detail = lambda _output: nullcontext()
    core.capture_iteration_details = lambda _output: nullcontext()
    for index, request in enumerate(requests):
        scheduler.add_request(maker.make(request, index, str(index)))
    step = core.step_with_batch_queue if options.asynchronous else core.step
    while scheduler.has_requests() or core.batch_queue:
        step()
    scheduler.shutdown()
    return shapes


@pytest.mark.parametrize("forced", [False, True], ids=["stopped", "forced lengths"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("blocks", [400, 40], ids=["roomy", "preempting"])
def test_a_burst_is_stepped_as_by_the_engine_core(
    blocks: int, asynchronous: bool, forced: bool
) -> None:
    options = small_engine(blocks=blocks, asynchronous=asynchronous)
    requests = mixed(30, seed=blocks)
    shapes, record = replayed(options, requests, forced)
    assert shapes == by_the_engine_core(options, requests, forced)
    assert record.steps == len(shapes)
    assert (record.preemptions.sum() > 0) == (blocks == 40)
    assert (record.recomputed_tokens > 0) == (blocks == 40)
    assert record.cached_tokens.sum() > 0


def test_one_batch_ahead_costs_one_token_a_response_unless_its_end_is_known() -> None:
    requests = mixed(12)
    options = small_engine(slots=12, asynchronous=True)
    # One token is the prompt's own batch, behind which nothing was scheduled ahead in vain.
    assert 0 < replayed(options, requests)[1].wasted <= 12
    assert replayed(options, requests, forced=True)[1].wasted == 0
    assert replayed(small_engine(slots=12), requests)[1].wasted == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_class_is_the_one_that_serves(asynchronous: bool) -> None:
    scheduler = make_engine(small_engine(asynchronous=asynchronous), {"ranking": "off"})
    assert isinstance(scheduler, ParsScheduler)
    assert isinstance(scheduler, AsyncScheduler) == asynchronous
    scheduler.shutdown()


def test_scores_can_come_from_elsewhere_and_then_no_process_is_started() -> None:
    asked: list[tuple[str, int]] = []
    closed: list[bool] = []

    class Elsewhere:
        lost = recovered = False

        @property
        def outstanding(self) -> int:
            return len(asked)

        def submit(self, request_id: str, token_ids: Sequence[int], known: bytes = b"") -> None:
            asked.append((request_id, len(token_ids)))

        def poll(self) -> list[tuple[str, float | None]]:
            return [(name, 5.0) for name, _ in asked]

        def close(self) -> None:
            closed.append(True)

    options = small_engine()
    scheduler = make_engine(options, {"predictor": "elsewhere"}, scores=Elsewhere())
    assert scheduler.pars_scorer is None
    scheduler.add_request(RequestMaker(options, SHARED).make(TrafficRequest(0, 30, 2), 0, "a"))
    assert asked == [("a", 30)]
    scheduler.schedule()
    assert scheduler.pars_counters.scored == 1
    scheduler.shutdown()
    assert closed == [True]


def test_times_by_hand() -> None:
    """Two slots of 0.1 s steps; the third waits for the first's two tokens, the last comes late."""
    requests = [
        TrafficRequest(0.0, 3, 2),
        TrafficRequest(0.0, 3, 4),
        TrafficRequest(0.05, 3, 1),
        TrafficRequest(9.0, 3, 2),
    ]
    _, record = replayed(small_engine(slots=2), requests)
    assert record.admitted_s == pytest.approx([0.0, 0.0, 0.2, 9.0])
    assert record.first_token_s == pytest.approx([0.1, 0.1, 0.3, 9.1])
    assert record.last_token_s == pytest.approx([0.2, 0.4, 0.3, 9.2])
    assert record.steps == 6  # the idle time between took none


@pytest.mark.parametrize(
    ("asynchronous", "step_s"), [(False, 0.13), (True, 0.1)], ids=["sync", "async"]
)
def test_the_host_works_behind_the_device_when_asynchronous(
    asynchronous: bool, step_s: float
) -> None:
    options = small_engine(asynchronous=asynchronous)
    requests = [TrafficRequest(0.0, 3, 11)]
    scheduler, record = (
        make_engine(options, {"ranking": "off"}),
        Record(read_columns(requests, options)),
    )
    Driver(
        scheduler,
        iter(requests),
        Overhead(host_s=0.03, device=0.1),
        RequestMaker(options, SHARED),
        record,
        Clock(),
    ).run()
    scheduler.shutdown()
    assert record.last_token_s[0] - record.first_token_s[0] == pytest.approx(10 * step_s)


def test_work_of_a_batch_counts_every_token_and_pair() -> None:
    options = small_engine()
    scheduler: Scheduler = make_engine(options, {"ranking": "off"})
    maker = RequestMaker(options, SHARED)
    found = []
    schedule = scheduler.schedule

    def noted(*args: object) -> SchedulerOutput:
        output: SchedulerOutput = schedule(*args)
        found.append(work_of(output))
        return output

    scheduler.schedule = noted
    requests = [TrafficRequest(0.0, 300, 3), TrafficRequest(0.0, 10, 3)]
    record = Record(read_columns(requests, options))
    Driver(scheduler, iter(requests), TENTH, maker, record, Clock()).run()
    scheduler.shutdown()
    assert found[:3] == [
        (256, 256, 256 * 257 / 2),
        # The last 44 tokens of the first prompt, and the second one.
        (54, 310, 44 * (256 + 45 / 2) + 10 * 11 / 2),
        (2, 301 + 11, 301 + 11),
    ]


def test_prompts_share_what_their_blocks_share_and_no_more() -> None:
    one = prompt_ids(TrafficRequest(0, 200, 1, blocks=(7, 8)), 0, SHARED)
    two = prompt_ids(TrafficRequest(0, 150, 1, blocks=(7, 9)), 1, SHARED)
    assert len(one) == 200
    assert one[:SHARED] == two[:SHARED]
    assert one[SHARED : 2 * SHARED] != two[SHARED : 2 * SHARED]
    assert one == prompt_ids(TrafficRequest(5, 200, 3, blocks=(7, 8)), 0, SHARED)
    short = prompt_ids(TrafficRequest(0, 100, 1, blocks=(7, 8)), 2, SHARED)
    assert short == one[:100]
    alike = [prompt_ids(TrafficRequest(0, 30, 1, prompt="same"), index, 0) for index in (1, 2)]
    assert alike[0] == alike[1]
    assert prompt_ids(TrafficRequest(0, 30, 1), 1, 0) != prompt_ids(TrafficRequest(0, 30, 1), 2, 0)


def test_texts_that_begin_alike_share_a_prefix_and_hit_the_cache() -> None:
    shared = "You answer in rhymes. " * 30
    texts = [shared + end for end in ("Why?", "How?", "Why?")]
    requests = [TrafficRequest(10.0 * n, 170, 2, prompt=text) for n, text in enumerate(texts)]
    one, two, again = (prompt_ids(request, n, 0) for n, request in enumerate(requests))
    assert len(one) == 170
    assert one == again
    assert one[:160] == two[:160]
    assert one[160:] != two[160:]
    assert prompt_ids(TrafficRequest(0, 170, 1, prompt="!" + shared), 0, 0)[:16] != one[:16]
    # Fewer tokens than its bytes would make: the last ones tell it from others all the same.
    few = [prompt_ids(TrafficRequest(0, 33, 1, prompt=text), 0, 0) for text in texts[:2]]
    assert few[0][:32] == few[1][:32]
    assert few[0][32:] != few[1][32:]
    assert prompt_ids(TrafficRequest(0, 1, 1, prompt=shared), 0, 0)

    _, record = replayed(small_engine(), requests)
    assert record.cached_tokens.tolist() == [0, 160, 160]


def test_nothing_that_can_run_is_an_error_and_no_endless_loop() -> None:
    options = small_engine(blocks=10)
    requests = [TrafficRequest(0.0, 300, 2)]
    record = Record(read_columns(requests, small_engine()))  # a larger engine's check
    scheduler = make_engine(options, {"ranking": "off"})
    driver = Driver(
        scheduler, iter(requests), TENTH, RequestMaker(options, SHARED), record, Clock()
    )
    with pytest.raises(ReplayError, match="does not fit into the engine"):
        driver.run()
    scheduler.shutdown()


def test_lost_requests_and_lost_order_are_noticed() -> None:
    record = Record(read_columns(mixed(2), small_engine()))
    with pytest.raises(ConservationError, match="0 requests finished and 2 did not, of 2"):
        record.check()
    for index in range(2):
        record.admit(index, 1.0, 0)
        record.finish(index, 3.0, 0)
        record.first_token(index, 2.0 if index else 4.0)
    with pytest.raises(ConservationError, match="1 requests were not admitted, answered and"):
        record.check()
