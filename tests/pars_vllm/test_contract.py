"""What we rely on in vLLM beyond its public interface; fails loudly where a release changes it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import vllm
import vllm.v1.engine.core
from modelless import BLOCK, Driver, Job, make_config, make_request, make_scheduler
from vllm import SamplingParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy, create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.request import Request, RequestStatus

from pars_vllm import ParsScheduler
from pars_vllm.compat import BlockHolders, has_skipped_waiting, holds_kv_blocks
from pars_vllm.kv import free_blocks
from pars_vllm.queue import ParsRequestQueue, parent_of
from pars_vllm.versions import is_supported


def test_this_version_is_declared_supported() -> None:
    assert is_supported(vllm.__version__)


def test_the_queue_has_exactly_these_abstract_methods() -> None:
    assert RequestQueue.__abstractmethods__ == {
        "add_request",
        "pop_request",
        "peek_request",
        "prepend_request",
        "prepend_requests",
        "remove_request",
        "remove_requests",
        "__bool__",
        "__len__",
        "__iter__",
    }
    assert not ParsRequestQueue.__abstractmethods__


def test_the_scheduler_makes_its_queues_where_we_replace_one(tiny_model: Path) -> None:
    scheduler = make_scheduler(Scheduler, make_config(tiny_model))
    stock = type(create_request_queue(SchedulingPolicy.FCFS))
    assert type(scheduler.waiting) is stock
    if has_skipped_waiting(vllm.__version__):
        assert type(scheduler.skipped_waiting) is stock
    else:
        assert type(scheduler.kv_holding_waiting) is stock
        assert scheduler.deferred_waiting == set()
    assert scheduler.running == []
    assert scheduler.requests == {}
    assert scheduler.policy == SchedulingPolicy.FCFS
    assert scheduler.cache_config.enable_prefix_caching is True
    assert scheduler.enable_kv_cache_events is False
    scheduler.shutdown()


def test_our_queue_replaces_waiting_alone(tiny_model: Path, tmp_path: Path) -> None:
    from pars_export.table import write_table_predictor

    write_table_predictor(tmp_path / "table", {})
    config = make_config(tiny_model, pars={"predictor": str(tmp_path / "table")})
    scheduler = make_scheduler(ParsScheduler, config)
    assert isinstance(scheduler.waiting, ParsRequestQueue)
    stock = type(create_request_queue(SchedulingPolicy.FCFS))
    if has_skipped_waiting(vllm.__version__):
        assert isinstance(scheduler.skipped_waiting, BlockHolders)
        assert type(scheduler.skipped_waiting._holders) is stock
    else:
        assert type(scheduler.kv_holding_waiting) is stock
    scheduler.shutdown()


def test_block_holders_are_vllms_own(tiny_model: Path) -> None:
    """What holds KV blocks is what vLLM says since it has a queue of its own for these."""
    if has_skipped_waiting(vllm.__version__):
        pytest.skip("this version has no such queue")
    for status in RequestStatus:
        for computed in (0, 16):
            request = make_request(Job("r", [11, 12, 13], 3))
            request.status, request.num_computed_tokens = status, computed
            assert holds_kv_blocks(request) == Scheduler._holds_kv_blocks(request)


def test_requests_set_aside_come_back_by_prepend_requests() -> None:
    """Where ``schedule`` puts them, and that nothing else adds to the queue we replace."""
    source = inspect.getsource(Scheduler)
    if has_skipped_waiting(vllm.__version__):
        assert "self.skipped_waiting.prepend_requests(step_skipped_waiting)" in source
        assert "self.waiting.prepend_requests(" not in source
        assert "return self.skipped_waiting or self.waiting or None" in source
    else:
        assert "self.waiting.prepend_requests(step_skipped_waiting)" in source
        assert "self.kv_holding_waiting.prepend_requests(step_skipped_kv_holding)" in source
    assert source.count("self.waiting.prepend_request(") == 1
    assert "self.waiting.prepend_request(request)" in inspect.getsource(Scheduler._preempt_request)


def test_async_scheduler_is_a_scheduler_and_super_reaches_it() -> None:
    from pars_vllm.scheduler import _AsyncParsScheduler

    order = _AsyncParsScheduler.__mro__
    assert order.index(ParsScheduler) < order.index(AsyncScheduler) < order.index(Scheduler)


def test_signatures_of_what_we_override() -> None:
    assert list(inspect.signature(Scheduler.add_request).parameters) == ["self", "request"]
    assert "request" in inspect.signature(Scheduler._free_request).parameters
    assert list(inspect.signature(Scheduler.shutdown).parameters) == ["self"]
    names = list(inspect.signature(Scheduler.__init__).parameters)
    assert names[1] == "vllm_config"
    source = inspect.getsource(vllm.v1.engine.core)
    assert "Scheduler(\n            vllm_config=vllm_config," in source


def test_schedule_pops_what_it_peeked_and_runs_it(tiny_model: Path) -> None:
    """A pop that admits leaves the request RUNNING; that is how admissions are told from skips."""
    scheduler = make_scheduler(Scheduler, make_config(tiny_model))
    driver = Driver(scheduler)
    request = driver.add(Job("r", [11, 12, 13], 3))
    assert request.status == RequestStatus.WAITING
    step = driver.step()
    assert step is not None
    assert step.new == ["r"]
    assert request.status == RequestStatus.RUNNING
    assert scheduler.schedule().total_num_scheduled_tokens == 1
    scheduler.shutdown()


def test_attributes_of_a_request() -> None:
    request = make_request(Job("r", [11, 12, 13], 3, priority=4, max_tokens=7))
    assert isinstance(request, Request)
    assert request.request_id == "r"
    assert request.prompt_token_ids == [11, 12, 13]
    assert request.num_prompt_tokens == 3
    assert request.num_output_tokens == 0
    assert request.num_computed_tokens == 0
    assert request.num_tokens == 3
    assert not request.is_finished()
    assert request.num_preemptions == 0
    assert request.max_tokens == 7
    assert request.use_structured_output is False
    assert request.priority == 4
    assert request.pooling_params is None
    assert request.sampling_params is not None
    assert request.sampling_params.stop == []
    assert SamplingParams(stop="END").stop == ["END"]


def test_every_end_of_a_request_frees_it_once_while_it_is_known(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[tuple[str, RequestStatus]] = []
    free = Scheduler._free_request

    def spy(self: Scheduler, request: Request, *args: object, **kwargs: object) -> object:
        assert self.requests[request.request_id] is request
        freed.append((request.request_id, request.status))
        return free(self, request, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "_free_request", spy)
    scheduler = make_scheduler(Scheduler, make_config(tiny_model, slots=3))
    driver = Driver(scheduler)
    for job in (
        Job("stops", [11, 12], 3),
        Job("capped", [11, 13], 9, max_tokens=4),
        Job("aborted while it runs", [11, 14], 9),
        Job("aborted while it waits", [11, 15], 9),
    ):
        driver.add(job)
    driver.step()
    assert len(scheduler.waiting) == 1
    driver.abort("aborted while it runs")
    driver.abort("aborted while it waits")
    driver.run()
    assert dict(freed) == {
        "stops": RequestStatus.FINISHED_STOPPED,
        "capped": RequestStatus.FINISHED_LENGTH_CAPPED,
        "aborted while it runs": RequestStatus.FINISHED_ABORTED,
        "aborted while it waits": RequestStatus.FINISHED_ABORTED,
    }
    assert len(freed) == 4
    assert not scheduler.requests
    scheduler.shutdown()


def test_preemptions_of_a_request_are_counted(tiny_model: Path) -> None:
    scheduler = make_scheduler(Scheduler, make_config(tiny_model, blocks=8, slots=4))
    driver = Driver(scheduler)
    made = [driver.add(Job(f"r{index}", [11 + index] * 30, 40)) for index in range(3)]
    history = driver.run()
    assert history.preemptions > 0
    assert sum(request.num_preemptions for request in made) == history.preemptions
    scheduler.shutdown()


def test_what_the_scorer_process_is_told_of_the_model(tiny_model: Path) -> None:
    whole = make_config(tiny_model)
    assert whole.diffusion_config is None
    config = whole.model_config
    assert config.tokenizer == str(tiny_model)
    assert config.tokenizer_revision is None
    assert config.trust_remote_code is False


def test_cached_tokens_are_the_second_of_the_lookup(tiny_model: Path) -> None:
    scheduler = make_scheduler(Scheduler, make_config(tiny_model))
    driver = Driver(scheduler)
    prompt = list(range(10, 74))
    driver.add(Job("first", prompt, 2))
    driver.run()
    again = make_request(Job("again", [*prompt, 99], 2))
    assert scheduler.kv_cache_manager.get_computed_blocks(again)[1] == 64
    other = make_request(Job("other", [99, *prompt], 2))
    assert scheduler.kv_cache_manager.get_computed_blocks(other)[1] == 0
    scheduler.shutdown()


def test_children_are_named_after_their_parent() -> None:
    core = EngineCoreRequest(
        request_id="cmpl-7_x",
        prompt_token_ids=[1],
        mm_features=None,
        sampling_params=SamplingParams(n=2),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        external_req_id="cmpl-7_x",
    )
    parent = ParentRequest(core)
    assert parent_of(parent.get_child_info(1)[0]) == "cmpl-7_x"
    assert parent_of("cmpl-7_x") is None


def test_finished_and_preempted_states() -> None:
    assert RequestStatus.is_finished(RequestStatus.FINISHED_ABORTED)
    assert not RequestStatus.is_finished(RequestStatus.PREEMPTED)


def test_what_is_read_of_the_kv_cache(tiny_model: Path) -> None:
    """Free blocks, block size, budget, lookahead, and the admission of whole prompts."""
    scheduler = make_scheduler(Scheduler, make_config(tiny_model, blocks=20, budget=64))
    assert free_blocks(scheduler) == 19  # one stands for "none"
    assert scheduler.block_size == BLOCK
    assert scheduler.max_model_len == scheduler.vllm_config.model_config.max_model_len
    assert scheduler.max_num_scheduled_tokens == 64
    assert scheduler.num_lookahead_tokens == 0
    assert scheduler.scheduler_reserve_full_isl is True
    driver = Driver(scheduler)
    driver.add(Job("r", list(range(11, 51)), 5))
    driver.step()
    assert free_blocks(scheduler) == 16
    assert len(scheduler.running) == 1
    scheduler.shutdown()


@pytest.mark.parametrize(
    ("length", "status"),
    [(5, RequestStatus.FINISHED_STOPPED), (6, RequestStatus.FINISHED_LENGTH_CAPPED)],
)
def test_only_an_answer_longer_than_its_cap_is_cut(
    tiny_model: Path, length: int, status: RequestStatus
) -> None:
    """One that stops at its cap has stopped; what is cut there would have been longer."""
    scheduler = make_scheduler(Scheduler, make_config(tiny_model))
    driver = Driver(scheduler)
    request = driver.add(Job("r", [11, 12, 13], length, max_tokens=5))
    step = driver.step()
    assert step is not None
    assert request.num_output_tokens == 1
    driver.run()
    assert request.status == status
    assert request.num_output_tokens == 5
    scheduler.shutdown()


def test_a_servers_own_sampling_parameters_are_a_dictionary(tiny_model: Path) -> None:
    assert make_config(tiny_model).model_config.get_diff_sampling_param().get("max_tokens") is None


def test_new_requests_of_a_step_are_named(tiny_model: Path) -> None:
    scheduler = make_scheduler(Scheduler, make_config(tiny_model))
    scheduler.add_request(make_request(Job("r", [11, 12, 13], 5)))
    assert [new.req_id for new in scheduler.schedule().scheduled_new_reqs] == ["r"]
    scheduler.shutdown()
