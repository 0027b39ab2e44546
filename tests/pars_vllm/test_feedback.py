"""Concordance against brute force; falling back and coming back on simulated answers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pars_vllm.feedback import Answers, Concordance, Feedback, concordance_sweep


class Sample(NamedTuple):
    """What is known of one answer."""

    expected: float
    tokens: int
    ended: bool


def concordance(samples: list[Sample]) -> Concordance | None:
    columns = zip(*samples, strict=True) if samples else ((), (), ())
    kinds = np.float64, np.int64, np.bool_
    expected, tokens, ended = [np.array(*pair) for pair in zip(columns, kinds, strict=True)]
    at_random = np.ones_like(ended)  # says nothing about an order
    sweep = concordance_sweep(Answers(expected, tokens, ended, at_random))
    while True:
        try:
            next(sweep)
        except StopIteration as done:
            result: Concordance | None = done.value
            return result


def longer(one: Sample, other: Sample) -> bool:
    """Whether ``one`` is known to be longer than ``other``."""
    if not other.ended:
        return False
    return one.tokens > other.tokens or (one.tokens == other.tokens and not one.ended)


def by_pairs(samples: list[Sample]) -> tuple[float, int]:
    """(concordant, comparable) by looking at every ordered pair."""
    good, pairs = 0.0, 0
    for one in samples:
        for other in samples:
            if one is not other and longer(one, other):
                pairs += 1
                good += (one.expected > other.expected) + (one.expected == other.expected) / 2
    return good, pairs


SAMPLES = st.lists(
    st.builds(
        Sample, expected=st.integers(1, 6).map(float), tokens=st.integers(0, 6), ended=st.booleans()
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(SAMPLES)
def test_concordance_is_the_share_of_all_pairs(samples: list[Sample]) -> None:
    good, pairs = by_pairs(samples)
    found = concordance(samples)
    if not pairs:
        assert found is None
        return
    assert found is not None
    assert found.pairs == pairs
    assert found.value == pytest.approx(good / pairs)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.ended == sum(sample.ended for sample in samples)


@settings(max_examples=100, deadline=None)
@given(SAMPLES)
def test_only_the_order_counts(samples: list[Sample]) -> None:
    scaled = [Sample(3 * s.expected**2 + 1, s.tokens, s.ended) for s in samples]
    assert concordance(scaled) == concordance(samples)
    turned = [Sample(7 - s.expected, s.tokens, s.ended) for s in samples]
    found, other = concordance(samples), concordance(turned)
    assert (found is None) == (other is None)
    if found is not None and other is not None:
        assert other.value == pytest.approx(1 - found.value)


def noisy(draw: random.Random, count: int, noise: float) -> list[Sample]:
    samples = []
    for _ in range(count):
        length = draw.lognormvariate(4, 1)
        cut = draw.lognormvariate(5, 1)
        expected = max(1.0, length * draw.lognormvariate(0, noise))
        samples.append(Sample(expected, int(min(length, cut)) + 1, length < cut))
    return samples


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = random.Random(1)
    everything = noisy(draw, 6000, 1.5)
    truth = concordance(everything)
    assert truth is not None
    inside, widths, values = 0, [], []
    for _ in range(300):
        found = concordance(draw.sample(everything, 150))
        assert found is not None
        inside += found.low <= truth.value <= found.high
        widths.append(found.high - found.low)
        values.append(found.value)
    assert inside >= 0.96 * 300
    # 99 % of a normal is 5.15 standard deviations wide.
    assert np.mean(widths) == pytest.approx(2 * 2.576 * np.std(values), rel=0.2)


def test_running_answers_count_as_longer() -> None:
    # Finished ones alone say "reversed"; those that still run say that it was right about them.
    ended = [Sample(10.0 - i, i + 1, True) for i in range(3)]
    running = [Sample(100.0, 50, False) for _ in range(9)]
    alone, all_ = concordance(ended), concordance(ended + running)
    assert alone is not None
    assert all_ is not None
    assert alone.value == 0.0
    assert all_.value == pytest.approx(27 / 30)


class Server:
    """A few slots, first come first served, each answer a token a step; feeds a ``Feedback``."""

    def __init__(
        self, slots: int = 16, stopped: float = 0.0, hang_up: int = 10**9, **options: float
    ) -> None:
        """``stopped``: share of requests whose end a stop string makes, so that it is an abort;
        ``hang_up``: tokens after which a client has gone.
        """
        self.running: dict[str, list[int]] = {}  # name -> [tokens so far, length]
        self.feedback = Feedback(lambda key: self.running[key][0], **options)  # type: ignore[arg-type]
        self.slots = slots
        self.stopped = stopped
        self.hang_up = hang_up
        self.draw = random.Random(0)
        self.by_string: set[str] = set()
        self.count = 0
        self.changes: list[bool] = []
        self.looked = 0

    def serve(self, requests: Iterator[tuple[float, int]], steps: int) -> None:
        for _ in range(steps):
            while len(self.running) < self.slots:
                expected, length = next(requests)
                name = f"r{self.count}"
                self.count += 1
                self.feedback.scored(name, expected)
                if self.draw.random() < self.stopped:
                    self.by_string.add(name)
                self.feedback.began(name, at_random=name not in self.by_string)
                self.running[name] = [0, length]
            for name, state in list(self.running.items()):
                state[0] += 1
                if state[0] in (state[1], self.hang_up):
                    del self.running[name]
                    cut = name in self.by_string or state[0] < state[1]
                    self.feedback.ended(name, state[0], by_itself=not cut)
            if self.feedback.step():
                self.changes.append(self.feedback.trusted)


def requests(
    seed: int, noise: float, sign: int = 1, scale: float = 1.0
) -> Iterator[tuple[float, int]]:
    draw = random.Random(seed)
    while True:
        length = max(1, int(draw.lognormvariate(3, 1)))
        relative = (length / math.exp(3)) ** sign
        yield scale * math.exp(3) * relative * draw.lognormvariate(0, noise), length


def test_falls_back_once_and_comes_back_once() -> None:
    server = Server(window=300)
    server.serve(requests(0, 0.7), 1500)
    assert server.feedback.trusted
    assert server.feedback.concordance is not None
    assert server.feedback.concordance.low > 0.65
    server.serve(requests(1, 0.7, sign=-1), 3000)
    assert server.changes == [False]
    server.serve(requests(2, 0.7), 3000)
    assert server.changes == [False, True]


def test_a_predictor_that_knows_nothing_is_found_out() -> None:
    server = Server(window=1024)
    server.serve(requests(3, 0.0, sign=0), 2000)  # a constant: every expectation ties
    assert server.feedback.concordance is not None
    assert server.feedback.concordance.value == 0.5
    assert server.changes == [False]
    noise = Server(window=1024)
    noise.serve(requests(4, 1.0, sign=0), 6000)
    assert noise.changes == [False]


def test_no_verdict_on_little_evidence_or_when_told_never() -> None:
    few = Server()
    few.serve(requests(5, 0.1, sign=-1), 60)
    assert few.feedback.trusted
    assert few.feedback.concordance is None
    never = Server(threshold=0.0)
    never.serve(requests(5, 0.1, sign=-1), 2000)
    assert never.feedback.trusted
    assert never.feedback.concordance is not None
    assert never.feedback.concordance.value < 0.2


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_the_scale_is_mended(scale: float) -> None:
    server = Server(window=1024)
    server.serve(requests(6, 0.5, scale=scale * math.exp(-(0.5**2) / 2)), 6000)
    # A log-normal error of spread .5 has expectation of the ratio 1/scale * exp(.5^2) here.
    assert server.feedback.correction == pytest.approx(math.exp(0.5**2) / scale, rel=0.15)
    assert server.feedback.ratio is not None
    assert server.feedback.ratio.spread == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("stopped", [0.3, 0.6])
def test_ends_by_stop_strings_do_not_bend_the_scale(stopped: float) -> None:
    server = Server(window=1024, stopped=stopped)
    server.serve(requests(6, 0.5, scale=math.exp(-(0.5**2) / 2)), 8000)
    assert server.feedback.correction == pytest.approx(math.exp(0.5**2), rel=0.15)


def test_answers_that_all_end_by_stop_strings_tell_no_scale() -> None:
    server = Server(window=300, stopped=1.0, least_ended=0, every=0)
    server.serve(requests(6, 0.5, scale=4.0), 500)
    assert server.feedback.ratio is None
    assert server.feedback.correction == 1.0


def test_clients_that_hang_up_do_not_bend_the_scale() -> None:
    server = Server(window=1024, hang_up=60)
    server.serve(requests(6, 0.5, scale=math.exp(-(0.5**2) / 2)), 8000)
    assert server.feedback.correction == pytest.approx(math.exp(0.5**2), rel=0.15)


def test_a_handful_of_answers_tells_no_scale() -> None:
    feedback = Feedback(lambda key: 0, window=300)
    for index, (expected, length) in enumerate(islice(requests(6, 0.5, scale=4.0), 250)):
        feedback.scored(str(index), expected)
        feedback.began(str(index), at_random=index % 10 == 0)
        feedback.ended(str(index), length, by_itself=True)
    while not feedback.evaluations:
        feedback.step()
    assert feedback.concordance is not None
    assert feedback.ratio is None
    assert feedback.correction == 1.0


def test_each_step_does_a_bounded_part() -> None:
    server = Server(slots=160, window=1000, every=1000, chunk=50)
    server.serve(requests(7, 0.5), 2000)
    seen: list[int] = []

    def progress(key: str) -> int:
        seen.append(1)
        return server.running[key][0]

    server.feedback._progress = progress

    def judging() -> bool:
        return server.feedback._evaluation is not None

    while not judging():
        seen.clear()
        server.serve(requests(8, 0.5), 1)
    parts = [len(seen)]
    while judging():
        seen.clear()
        server.feedback.step()
        parts.append(len(seen))
    # Those that run are read 50 at a time; then blocks of 1, 2, ... 512 answers are compared.
    assert parts[:2] == [50, 50]
    assert 0 < parts[2] <= 50
    assert len(parts) == 3 + 1 + 10 + 1
    assert not any(parts[3:])


def test_what_left_the_cohort_or_ended_while_it_was_read_is_no_answer_that_runs() -> None:
    tokens = dict.fromkeys(("a", "b", "c", "d", "e", "f"), 3)
    feedback = Feedback(lambda key: tokens[key], window=4, least_ended=2, every=2, chunk=1)
    for name in ("a", "b", "c", "d"):
        feedback.scored(name, 5.0 + ord(name))
        feedback.began(name)
    feedback.ended("a", 2, by_itself=True)
    feedback.ended("b", 4, by_itself=True)
    feedback.step()  # reads c
    feedback.scored("e", 9.0)
    feedback.began("e")  # in the place of a
    feedback.ended("d", 9, by_itself=True)
    del tokens["d"], tokens["a"]
    while feedback.concordance is None:
        feedback.step()
    # b (4), c (over 3) and d (9): b and d alone compare.
    assert feedback.concordance.ended == 2
    assert feedback.concordance.pairs == 1
    assert feedback.concordance.value == 1.0


def judged(feedback: Feedback) -> Concordance:
    while feedback.concordance is None:
        feedback.step()
    return feedback.concordance


def test_one_that_left_the_cohort_while_it_ran_ends_unseen() -> None:
    feedback = Feedback(lambda key: 0, window=2, least_ended=2, every=2)
    for name, expected in (("a", 50.0), ("b", 5.0), ("c", 9.0)):
        feedback.scored(name, expected)
        feedback.began(name)  # c in the place of a
    feedback.ended("a", 1, by_itself=True)
    feedback.ended("b", 4, by_itself=True)
    feedback.ended("c", 8, by_itself=True)
    found = judged(feedback)
    assert (found.ended, found.pairs, found.value) == (2, 1, 1.0)


def test_an_id_that_begins_again_counts_once() -> None:
    feedback = Feedback(lambda key: 20, window=8, least_ended=2, every=2)
    feedback.scored("a", 1.0)
    feedback.began("a")
    feedback.scored("b", 5.0)
    feedback.began("b")
    feedback.ended("b", 4, by_itself=True)
    feedback._new_ends = 2  # reads a, and finds too little
    while feedback.step() or feedback._evaluation is not None:
        pass
    feedback.scored("a", 9.0)
    feedback.began("a")
    feedback.ended("a", 8, by_itself=True)
    feedback._new_ends = 2
    found = judged(feedback)
    assert (found.ended, found.pairs, found.value) == (2, 1, 1.0)


def test_nothing_piles_up() -> None:
    server = Server(window=200)
    server.serve(requests(9, 0.5), 3000)
    assert len(server.feedback._cohort) <= len(server.running)
    assert set(server.feedback._expected) == set(server.running)
    server.feedback.scored("waits", 5.0)
    server.feedback.ended("waits", 0, by_itself=False)  # aborted before it ran
    server.feedback.ended("unknown", 3, by_itself=True)
    assert set(server.feedback._expected) == set(server.running)


def test_a_score_that_comes_after_the_start_counts() -> None:
    feedback = Feedback(lambda key: 0, least_ended=2, every=2)
    for name, expected, tokens in (("a", 5.0, 4), ("b", 9.0, 8)):
        feedback.began(name)
        feedback.scored(name, expected)
        feedback.ended(name, tokens, by_itself=True)
    while feedback.concordance is None:
        feedback.step()
    assert feedback.concordance.value == 1.0
