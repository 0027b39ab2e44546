from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pars_bench.measures import (
    Latencies,
    decile_means,
    deciles_by_length,
    oracle_gap,
    price,
    summary,
    tau_interval,
    work_waited,
)

positive = st.floats(0.01, 1e4)


def columns(**given_columns: list[float]) -> Latencies:
    return Latencies(**{name: np.asarray(values) for name, values in given_columns.items()})


def reference_percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@given(st.lists(positive, min_size=1, max_size=60))
def test_summary_agrees_with_a_plain_reference(values: list[float]) -> None:
    found = summary(np.asarray(values))
    assert found is not None
    assert found["mean"] == pytest.approx(statistics.fmean(values))
    assert found["max"] == max(values)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert found[name] == pytest.approx(reference_percentile(values, share))  # type: ignore[literal-required]  # from the list above


def test_summary_of_nothing_is_none() -> None:
    assert summary(np.asarray([])) is None


def test_latencies_by_hand() -> None:
    run = columns(
        arrival=[0.0, 1.0, 2.0], ttft=[0.5, 1.0, 4.0], ttlt=[2.5, 1.0, 10.0], tokens=[5.0, 1.0, 4.0]
    )
    assert run.per_token.tolist() == [0.5, 1.0, 2.5]
    assert run.tpot.tolist() == [0.5, 2.0]  # the answer of one token has no pace
    assert run.makespan == 12.0
    assert run.throughput == pytest.approx(10 / 12)


def test_makespan_counts_from_the_first_arrival() -> None:
    run = columns(arrival=[3.0, 4.0], ttft=[1.0, 1.0], ttlt=[1.0, 2.0], tokens=[1.0, 2.0])
    assert run.makespan == 3.0


def test_the_clock_of_tokens_by_hand() -> None:
    # Two slots. The first delivers tokens at 1, 2, 3, the second at 1 and 3, the third at 4.
    run = columns(
        arrival=[0.0, 0.0, 2.0], ttft=[1.0, 1.0, 2.0], ttlt=[3.0, 3.0, 2.0], tokens=[3.0, 2.0, 1.0]
    )
    # At 3 five tokens are delivered; at 2, where the third arrives, 2 + 1 + half a token.
    assert work_waited(run).tolist() == [5.0, 5.0, 6.0 - 3.5]


@given(
    st.lists(
        # Whole numbers and powers of two: a tie of two moments stays a tie at every speed.
        st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 50), st.integers(1, 9)),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([0.25, 0.5, 2.0, 8.0]),
)
def test_the_clock_of_tokens_knows_no_speed(
    rows: list[tuple[int, int, int, int]], speed: float
) -> None:
    arrival, ttft, tokens, decode = np.asarray(rows, dtype=float).T
    ttlt = ttft + np.where(tokens > 1, decode, 0.0)
    run = Latencies(arrival, ttft, ttlt, tokens)
    slower = Latencies(arrival * speed, ttft * speed, ttlt * speed, tokens)
    assert work_waited(slower) == pytest.approx(work_waited(run), abs=1e-6)
    # A plain reference, one moment and one request at a time.
    first, last = arrival + ttft, arrival + ttlt

    def delivered(moment: float) -> float:
        total = 0.0
        for begin, end, count in zip(first, last, tokens, strict=True):
            if moment >= begin:
                done = 1.0 if end == begin else min(1.0, (moment - begin) / (end - begin))
                total += 1 + (count - 1) * done
        return total

    expected = [delivered(b) - delivered(a) for a, b in zip(arrival, last, strict=True)]
    assert work_waited(run) == pytest.approx(expected, abs=1e-6)


def test_oracle_gap_by_hand() -> None:
    fcfs = np.full(50, 10.0) + np.linspace(0, 1, 50)
    gap = oracle_gap(fcfs, fcfs - 3.0, fcfs - 4.0)
    assert gap is not None
    assert gap.closed == pytest.approx(0.75)
    assert gap.interval == pytest.approx((0.75, 0.75))


def test_oracle_gap_is_zero_for_fcfs_one_for_the_oracle_and_negative_for_worse() -> None:
    generator = np.random.default_rng(0)
    fcfs = generator.uniform(50, 100, 200)
    oracle = fcfs - generator.uniform(10, 20, 200)
    closed = [oracle_gap(fcfs, order, oracle) for order in (fcfs, oracle, fcfs + 5)]
    assert [gap.closed for gap in closed if gap] == pytest.approx([0, 1, closed[2].closed])  # type: ignore[union-attr]  # a None would fail here
    assert closed[2] is not None
    assert closed[2].closed < 0


@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_no_gap_where_the_oracle_gains_nothing(shift: float) -> None:
    generator = np.random.default_rng(1)
    fcfs = generator.uniform(50, 100, 200)
    oracle = fcfs - shift + generator.normal(0, 30, 200) * (shift == 0)
    oracle -= (oracle - fcfs).mean() * (shift == 0)  # exactly no gain on average
    assert oracle_gap(fcfs, fcfs - 1, oracle if shift == 0 else fcfs + 5) is None


def test_the_interval_of_the_gap_covers_the_gap_and_shrinks_with_requests() -> None:
    generator = np.random.default_rng(2)

    def width(requests: int) -> float:
        fcfs = generator.uniform(50, 100, requests)
        gap = oracle_gap(
            fcfs,
            fcfs - generator.uniform(0, 20, requests),
            fcfs - generator.uniform(10, 30, requests),
        )
        assert gap is not None
        assert gap.interval[0] < gap.closed < gap.interval[1]
        return gap.interval[1] - gap.interval[0]

    assert width(2000) < width(100) / 2


@given(arrays(np.float64, st.integers(1, 200), elements=st.integers(1, 5).map(float)))
def test_deciles_are_equal_in_size_and_ordered_even_with_ties(lengths: np.ndarray) -> None:
    deciles = deciles_by_length(lengths)
    sizes = np.bincount(deciles, minlength=10)
    assert sizes.max() - sizes.min() <= 1
    for low in range(9):
        here, above = lengths[deciles == low], lengths[deciles > low]
        if here.size and above.size:
            assert here.max() <= above.min()


def test_decile_means() -> None:
    lengths = np.arange(20, dtype=np.float64)
    assert decile_means(lengths * 2, deciles_by_length(lengths)) == [
        1.0 + 4 * decile for decile in range(10)
    ]
    assert decile_means(np.asarray([7.0]), np.asarray([3])) == [None] * 3 + [7.0] + [None] * 6


def test_price_by_hand() -> None:
    lengths = np.arange(1, 11, dtype=np.float64)  # the tenth request is the longest tenth
    fcfs, order = np.full(10, 20.0), np.full(10, 5.0)
    order[9] = 40.0
    cost = price(fcfs, order, lengths, seconds_per_token=0.5)
    assert cost.longest_tenth == 40.0
    assert cost.longest_tenth_ratio == 2.0
    assert cost.slower_share == 0.1
    assert cost.worst_slowdown == 10.0  # the first: 5 s for a token of 0.5 s
    assert price(fcfs, order, lengths, seconds_per_token=0.0).worst_slowdown is None


def test_tau_agrees_with_counted_pairs() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.permutation(30).astype(float), generator.permutation(30).astype(float)
    agree = sum(
        np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i in range(30) for j in range(i)
    ) / (30 * 29 / 2)
    found = tau_interval(a, b)
    assert found is not None
    tau, (low, high) = found
    assert tau == pytest.approx(agree)
    assert low < tau < high


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0], [1.0, math.nan, 2.0]])
def test_tau_of_what_cannot_be_ranked_is_none(values: list[float]) -> None:
    assert tau_interval(np.asarray(values), np.arange(len(values), dtype=np.float64)) is None
