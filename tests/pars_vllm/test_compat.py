"""The queue of vLLM 0.28 to 0.30 for requests set aside, on whatever version is installed."""

from __future__ import annotations

import pytest
from modelless import Job, make_request
from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue
from vllm.v1.request import Request, RequestStatus

from pars_vllm.compat import BlockHolders, has_skipped_waiting, holds_kv_blocks
from pars_vllm.policy import Policy
from pars_vllm.queue import ParsRequestQueue


def request(name: str, status: RequestStatus, computed: int = 0) -> Request:
    made = make_request(Job(name, [11, 12, 13], 3))
    made.status = status
    made.num_computed_tokens = computed
    return made


@pytest.fixture
def ordered() -> ParsRequestQueue:
    return ParsRequestQueue(Policy())


@pytest.fixture(params=[SchedulingPolicy.FCFS, SchedulingPolicy.PRIORITY])
def aside(request: pytest.FixtureRequest, ordered: ParsRequestQueue) -> BlockHolders:
    return BlockHolders(create_request_queue(request.param), ordered)


GRAMMAR = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
REMOTE = RequestStatus.WAITING_FOR_REMOTE_KVS
STREAM = RequestStatus.WAITING_FOR_STREAMING_REQ


def test_who_holds_blocks() -> None:
    assert holds_kv_blocks(request("loading", REMOTE))
    assert holds_kv_blocks(request("loaded", RequestStatus.WAITING, computed=16))
    assert holds_kv_blocks(request("session", STREAM, computed=16))
    assert not holds_kv_blocks(request("compiling", GRAMMAR))
    assert not holds_kv_blocks(request("plain", RequestStatus.WAITING))
    assert not holds_kv_blocks(request("preempted", RequestStatus.PREEMPTED))


def test_only_block_holders_stay_and_the_others_are_ordered(
    aside: BlockHolders, ordered: ParsRequestQueue
) -> None:
    compiling, loading = request("compiling", GRAMMAR), request("loading", REMOTE)
    aside.add_request(compiling)
    aside.add_request(loading)
    assert list(aside) == [loading]
    assert list(ordered) == [compiling]
    assert len(aside) == 1
    assert aside.peek_request() is loading
    assert aside.pop_request() is loading
    assert not aside
    aside.prepend_request(loading)
    aside.remove_request(loading)
    assert not aside
    assert ordered.peek_request() is compiling


def test_set_aside_in_a_pass_means_back_to_the_own_place(
    aside: BlockHolders, ordered: ParsRequestQueue
) -> None:
    waiting = [request(name, GRAMMAR) for name in "abc"]
    for each, work in zip(waiting, (30.0, 10.0, 20.0), strict=True):
        ordered.add_request(each)
        ordered.order.rescore(each.request_id, work)
    passed = create_request_queue(SchedulingPolicy.FCFS)
    for _ in range(2):
        passed.prepend_request(ordered.pop_request())
    loading = request("loading", REMOTE)
    passed.prepend_request(loading)
    aside.prepend_requests(passed)
    assert [each.request_id for each in ordered] == ["b", "c", "a"]
    assert list(aside) == [loading]


def test_aborted_requests_leave_both_queues(aside: BlockHolders, ordered: ParsRequestQueue) -> None:
    both = [request("compiling", GRAMMAR), request("loading", REMOTE)]
    for each in both:
        aside.add_request(each)
    ordered.remove_requests(both)
    aside.remove_requests(both)
    assert not ordered
    assert not aside


def test_which_versions_have_that_queue() -> None:
    assert [has_skipped_waiting(f"0.{minor}.0+cpu") for minor in range(28, 34)] == [True] * 3 + (
        [False] * 3
    )
    assert not has_skipped_waiting("dev")
