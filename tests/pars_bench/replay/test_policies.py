"""Orders by name, what they believe, and the queues that only a replay has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_bursts import mixed, small_engine
from scipy.stats import kendalltau
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from pars_bench.replay.columns import read_columns
from pars_bench.replay.hrrn import HrrnQueue
from pars_bench.replay.policies import (
    DEFAULT,
    Order,
    Scores,
    beliefs,
    check_order,
    choose_orders,
    greatest_tau,
)
from pars_bench.replay.requests import RequestMaker
from pars_bench.replay.scorer import ScorerSpeed, VirtualScorer
from pars_bench.replay.traffic import TrafficRequest
from pars_export.errors import ConfigError, InputError
from pars_export.table import write_table_predictor

REQUESTS = mixed(300)
COLUMNS = read_columns(REQUESTS, small_engine())


def test_a_score_model_says_so_in_its_name() -> None:
    names = [order.name for order in choose_orders(DEFAULT, None, (), None)]
    assert names == [
        "fcfs",
        "prompt_length",
        "pars@tau=0.5",
        "oracle",
        "hrrn@tau=0.5",
        "vllm_priority@tau=0.5",
    ]
    assert [order.name for order in choose_orders(("pars",), None, (0.3, 0.6), None)] == [
        "pars@tau=0.3",
        "pars@tau=0.6",
    ]
    assert choose_orders(("pars",), None, (), 0.2)[0].name == "pars@noise=0.2"
    assert choose_orders(("pars",), Path("folder"), (), None)[0].name == "pars"


@pytest.mark.parametrize(
    ("names", "predictor", "taus", "noise", "sentence"),
    [
        (("sjf",), None, (), None, "--orders sjf: unknown order; known: fcfs, prompt_length"),
        (("fcfs", "fcfs"), None, (), None, "fcfs is given twice"),
        (("pars",), Path("x"), (0.5,), None, "drop --tau and --noise"),
        (("pars",), None, (0.5,), 0.1, "give one"),
        (("pars",), None, (1.0,), None, "--tau is 1.0: expected more than 0 and less than 1"),
        (("pars",), None, (), -0.1, "--noise is -0.1"),
    ],
)
def test_orders_that_contradict_themselves_are_refused(
    names: tuple[str, ...],
    predictor: Path | None,
    taus: tuple[float, ...],
    noise: float | None,
    sentence: str,
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        choose_orders(names, predictor, taus, noise)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.8])
def test_a_score_model_has_the_tau_that_it_is_named_for(tau: float) -> None:
    order = choose_orders(("pars",), None, (tau,), None)[0]
    found = beliefs(order, COLUMNS, REQUESTS, seed=1)
    assert found is not None
    assert kendalltau(found.tokens, COLUMNS.output_tokens).statistic == pytest.approx(tau, abs=0.01)
    assert found.facts["tau"] == pytest.approx(tau, abs=0.01)
    assert found.facts["kind"] == "score model"
    again, other = (beliefs(order, COLUMNS, REQUESTS, seed) for seed in (1, 2))
    assert again is not None
    assert other is not None
    assert (again.tokens == found.tokens).all()
    assert (other.tokens != found.tokens).any()


def test_equal_lengths_can_have_no_tau() -> None:
    requests = [TrafficRequest(0.0, 5, 7)] * 9
    found = beliefs(
        Order("pars", "pars", Scores(tau=0.5)), read_columns(requests, small_engine()), requests, 0
    )
    assert found is not None
    assert len(set(found.tokens)) == 9
    assert found.facts["tau"] is None


@given(st.lists(st.integers(1, 4), min_size=2, max_size=30))
def test_ties_bound_tau(lengths: list[int]) -> None:
    found = greatest_tau(np.array(lengths))
    if len(set(lengths)) == 1:
        assert found == 0
    else:  # a ranking that errs nowhere, and still tells equal lengths apart
        best = np.array(lengths) + np.arange(len(lengths)) / 100
        assert found == pytest.approx(kendalltau(best, lengths).statistic)


def test_a_tau_that_ties_do_not_allow_is_refused_with_the_most_that_they_do() -> None:
    requests = [TrafficRequest(0.0, 5, 10 + 10 * (n % 2)) for n in range(40)]
    columns = read_columns(requests, small_engine())
    order = Order("pars", "pars", Scores(tau=0.9))
    with pytest.raises(
        InputError, match=r"the tau 0\.9: .* 0\.716 is the most; give --tau up to 0\.71"
    ):
        check_order(order, columns)
    found = beliefs(Order("pars", "pars", Scores(tau=0.71)), columns, requests, 0)
    assert found is not None
    assert found.facts["tau"] == pytest.approx(0.71, abs=0.02)


def test_what_each_order_believes() -> None:
    known = {
        "oracle": COLUMNS.output_tokens,
        "prompt_length": COLUMNS.prompt_tokens,
        "rerun": COLUMNS.rerun_tokens,
    }
    for kind, expected in known.items():
        found = beliefs(Order(kind, kind), COLUMNS, REQUESTS, 0)
        assert found is not None
        assert found.tokens.tolist() == expected.tolist()
    assert beliefs(Order("fcfs", "fcfs"), COLUMNS, REQUESTS, 0) is None


def test_rerun_needs_another_sample_of_every_response() -> None:
    requests = [*REQUESTS[:3], TrafficRequest(9.0, 5, 5)]
    columns = read_columns(requests, small_engine())
    with pytest.raises(InputError, match="1 of 4 requests have none"):
        beliefs(Order("rerun", "rerun"), columns, requests, 0)


def test_a_predictor_folder_scores_the_prompts(tmp_path: Path) -> None:
    texts = {f"Question {index}?": float(index % 50 + 1) for index in range(600)}
    write_table_predictor(tmp_path / "table", texts)
    requests = [TrafficRequest(0.0, 5, int(length), prompt=text) for text, length in texts.items()]
    columns = read_columns(requests, small_engine())
    order = Order("pars", "pars", Scores(predictor=tmp_path / "table"))
    found = beliefs(order, columns, requests, 0)
    assert found is not None
    assert found.tokens.tolist() == list(texts.values())
    assert found.facts["tau"] == pytest.approx(1)
    with pytest.raises(InputError, match="300 of 300 requests of the traffic have no text"):
        beliefs(order, COLUMNS, REQUESTS, 0)


def test_a_prompt_unknown_to_a_predictor_is_no_number_but_no_error(tmp_path: Path) -> None:
    write_table_predictor(tmp_path / "table", {"known": 5.0})
    requests = [TrafficRequest(0.0, 5, 4, prompt=text) for text in ("known", "unknown")]
    columns = read_columns(requests, small_engine())
    order = Order("pars", "pars", Scores(predictor=tmp_path / "table"))
    found = beliefs(order, columns, requests, 0)
    assert found is not None
    assert found.tokens[0] == 5.0
    assert np.isnan(found.tokens[1])
    assert found.facts["tau"] is None
    assert found.of(0) == 5.0
    assert found.of(1) is None
    assert found.guessed.tolist() == [5.0, 5.0]


def test_scores_come_in_turn_after_their_latency() -> None:
    now = [0.0]
    scorer = VirtualScorer(
        ScorerSpeed(latency_s=1.0, rate=2.0, max_pending=3), lambda: now[0], {"a": 1.0}.get
    )
    for name in ("a", "b", "c", "too many"):
        scorer.submit(name, [])
    assert scorer.poll() == []
    now[0] = 1.5
    assert scorer.poll() == [("a", 1.0)]
    now[0] = 9.0
    assert [name for name, _ in scorer.poll()] == ["b", "c"]
    scorer.submit("late", [])
    now[0] = 10.4
    assert scorer.poll() == []
    now[0] = 10.5
    assert scorer.poll() == [("late", None)]
    scorer.close()


def hrrn_of(requests: Sequence[Request], now: list[float]) -> HrrnQueue:
    service = {request.request_id: float(request.num_prompt_tokens) for request in requests}
    return HrrnQueue(lambda: now[0], lambda request: service[request.request_id])


def requests_for_queue(count: int) -> list[Request]:
    maker = RequestMaker(small_engine(), 0)
    draw = random.Random(5)
    return [
        maker.make(TrafficRequest(draw.uniform(0, 50), draw.randrange(1, 90), 3), i, str(i))
        for i in range(count)
    ]


def test_hrrn_agrees_with_a_plain_search() -> None:
    requests = requests_for_queue(150)
    now = [50.0]
    queue = hrrn_of(requests, now)
    assert isinstance(queue, RequestQueue)
    draw = random.Random(7)
    waiting: list[Request] = []
    for request in requests:
        queue.add_request(request)
        waiting.append(request)
        now[0] += draw.choice((0.0, 3.0))
        if draw.random() < 0.2:
            gone = waiting.pop(draw.randrange(len(waiting)))
            queue.remove_request(gone)
        if draw.random() < 0.5 and waiting:
            ratios = [1 + (now[0] - r.arrival_time) / r.num_prompt_tokens for r in waiting]
            assert queue.peek_request() is waiting[int(np.argmax(ratios))]
            best = queue.pop_request()
            waiting.remove(best)
    assert {r.request_id for r in queue} == {r.request_id for r in waiting}
    ratios = [1 + (now[0] - r.arrival_time) / r.num_prompt_tokens for r in queue]
    assert ratios == sorted(ratios, reverse=True)
    while waiting:
        waiting.remove(queue.pop_request())
    assert not queue
    with pytest.raises(IndexError):
        queue.peek_request()


def test_hrrn_puts_preempted_requests_first_and_skipped_ones_back() -> None:
    first, second, third, fourth = requests_for_queue(4)
    queue = hrrn_of([first, second, third, fourth], [60.0])
    queue.add_request(first)
    queue.prepend_request(second)
    assert queue.peek_request() is second
    queue.prepend_requests([third, fourth])  # reversed, as vLLM gives them
    assert [queue.pop_request() for _ in range(2)] == [fourth, third]
    assert len(queue) == 2
    queue.remove_requests([second, fourth])
    assert [request.request_id for request in queue] == [first.request_id]
