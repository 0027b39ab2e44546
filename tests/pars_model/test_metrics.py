"""Tau, accuracy, intervals and ceilings against loops over pairs and against scipy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from pars_export.errors import InputError
from pars_model.lengths import LengthTable, read_lengths
from pars_model.metrics import (
    Estimate,
    Floats,
    Ints,
    bootstrap,
    kendall_tau,
    noise_ceiling,
    pair_accuracy,
    pair_counts,
    tau_and_accuracy,
)

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeTable

Item = tuple[int, int, bool]
"""Score, length, whether it is cut off."""

ITEMS = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(0, 6), st.booleans()), min_size=2, max_size=14
)


def sign(x: int) -> int:
    return (x > 0) - (x < 0)


def reference(items: Sequence[Item]) -> tuple[int, int, int]:
    """Balance, known pairs and pairs of different score, by the definition."""
    balance = known = distinct = 0
    for (s, a, a_cut), (t, b, b_cut) in itertools.combinations(items, 2):
        a_longer, b_longer = a > b and not b_cut, b > a and not a_cut
        truly_equal = a == b and not a_cut and not b_cut
        if a_longer or b_longer:
            known += 1
            balance += sign(s - t) * (1 if a_longer else -1)
        if a_longer or b_longer or truly_equal:
            distinct += s != t
    return balance, known, distinct


def ends(estimate: Estimate) -> tuple[float, float]:
    """The interval of an estimate, which must have one."""
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


@given(ITEMS)
def test_pair_counts_with_cut_off_lengths(items: list[Item]) -> None:
    scores, lengths, censored = map(np.array, zip(*items, strict=True))
    counts = pair_counts(scores, lengths, censored)
    balance, known, distinct = reference(items)
    assert (counts.balance, counts.known, counts.distinct) == (balance, known, distinct)
    if known:
        assert counts.accuracy == pytest.approx((known + balance) / (2 * known))
        if distinct:
            assert counts.tau == pytest.approx(balance / math.sqrt(known * distinct))


@given(st.integers(0, 1000), st.integers(2, 60), st.integers(2, 20))
def test_tau_is_scipys_where_nothing_is_cut_off(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, levels, size=(2, n))
    wanted = kendalltau(x, y).statistic if len(set(x)) > 1 and len(set(y)) > 1 else None
    found = kendall_tau(x, y)
    if wanted is not None:
        assert found == pytest.approx(wanted)
    else:
        assert found == 0 if len(set(y)) > 1 else math.isnan(found)


def test_large_tables_are_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(30_000).astype(float)
    assert pair_counts(order, order).balance == 30_000 * 29_999 // 2
    assert pair_counts(-order, order).tau == -1
    assert abs(kendall_tau(rng.random(30_000), order)) < 0.02


def test_accuracy_counts_equal_scores_half_and_leaves_equal_truths_out() -> None:
    assert pair_accuracy([1, 1], [3, 4]) == 0.5
    assert pair_accuracy([1, 2, 9], [3, 4, 4]) == 1
    assert pair_accuracy([2, 1], [3, 4]) == 0


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="1 of 3 scores are NaN"):
        kendall_tau([1, float("nan"), 2], [1, 2, 3])
    with pytest.raises(InputError, match="expected one each"):
        kendall_tau([1, 2], [1, 2, 3])


def test_the_interval_holds_the_true_tau_about_as_often_as_it_says() -> None:
    # Gaussian scores with correlation rho have tau 2/pi asin(rho).
    rho = 0.6
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(40):
        x, noise = rng.normal(size=(2, 80))
        y = rho * x + math.sqrt(1 - rho**2) * noise
        tau, _ = tau_and_accuracy(x, y, np.zeros(80, dtype=bool), np.arange(80), 100, seed)
        low, high = ends(tau)
        inside += low <= 2 / math.pi * math.asin(rho) <= high
    assert 33 <= inside <= 40


def test_items_of_one_prompt_are_drawn_together() -> None:
    prompt = np.array([5, 5, 7, 7, 9])
    seen: list[Ints] = []

    def statistic(items: Ints) -> Floats:
        seen.append(items)
        return np.array([float(len(items)), np.nan])

    low, high = bootstrap(statistic, prompt, resamples=50)
    for items in seen:
        counts = np.bincount(items, minlength=5)
        assert counts[0] == counts[1]
        assert counts[2] == counts[3]
    assert 3 <= low[0] <= high[0] <= 6
    assert np.isnan([low[1], high[1]]).all()


def test_more_prompts_give_narrower_intervals() -> None:
    rng = np.random.default_rng(1)
    width = []
    for n in (50, 800):
        x = rng.normal(size=n)
        tau, _ = tau_and_accuracy(
            x, x + rng.normal(size=n), np.zeros(n, dtype=bool), np.arange(n), 200
        )
        low, high = ends(tau)
        assert low < tau.value < high
        width.append(high - low)
    assert width[0] > 2 * width[1]


def test_two_prompts_have_a_tau_and_seldom_an_interval() -> None:
    two, none = np.array([1.0, 2.0]), np.zeros(2, dtype=bool)
    found = [tau_and_accuracy(two, two, none, np.arange(2), 500, seed)[0] for seed in range(6)]
    assert {each.value for each in found} == {1.0}
    assert None in {each.low for each in found}, "half of the draws are one prompt twice"


def samples_table(
    make_table: MakeTable, noise: float, samples: int, finish: str = "stop", prompts: int = 150
) -> LengthTable:
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"p{number}",
            "response_tokens": int(1e6 * math.exp(level + noise * rng.normal())),
            "finish_reason": finish,
        }
        for number, level in enumerate(rng.normal(size=prompts))
        for _ in range(samples)
    ]
    return read_lengths(make_table(rows))


def test_the_ceiling_is_the_tau_of_reruns(make_table: MakeTable) -> None:
    # Levels N(0, 1), noise N(0, 1): two runs correlate by 1/2; a run and a mean of many by .7.
    found = noise_ceiling(samples_table(make_table, 1.0, 9, prompts=400))
    assert found is not None
    rerun, median = found
    assert median is not None
    assert rerun.value == pytest.approx(2 / math.pi * math.asin(0.5), abs=0.06)
    assert median.value == pytest.approx(2 / math.pi * math.asin(0.66), abs=0.07)
    low, high = ends(rerun)
    assert low < rerun.value < high


def test_reruns_that_never_differ_leave_no_noise(make_table: MakeTable) -> None:
    found = noise_ceiling(samples_table(make_table, 0.0, 3))
    assert found is not None
    rerun, median = found
    assert median is not None
    assert rerun.value == median.value == 1


def test_what_samples_cannot_tell_is_none(make_table: MakeTable) -> None:
    assert noise_ceiling(samples_table(make_table, 1.0, 1)) is None
    found = noise_ceiling(samples_table(make_table, 1.0, 2))
    assert found is not None
    assert found[1] is None
    assert noise_ceiling(samples_table(make_table, 1.0, 3, finish="length")) is None
