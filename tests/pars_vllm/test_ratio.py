"""The log-normal of true over expected tokens, against brute force and integration."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pars_export.survival import Flags, Floats, product_limit_quantiles
from pars_vllm.ratio import Ratio, fit_ratio


def test_mean_beyond_is_the_conditional_mean() -> None:
    ratio = Ratio(-0.2, 0.8)
    # Equally probable values of the distribution, by its quantiles.
    quantiles = np.random.default_rng(0).standard_normal(2_000_000)
    values = np.exp(ratio.location + ratio.spread * quantiles)
    assert ratio.mean == pytest.approx(values.mean(), rel=0.01)
    for beyond in (0.0, 0.3, 1.0, 3.0, 6.0):
        assert ratio.mean_beyond(beyond) == pytest.approx(values[values > beyond].mean(), rel=0.01)


@given(st.floats(-3, 3), st.floats(0.05, 3), st.floats(0, 1e12), st.floats(0, 1e12))
def test_mean_beyond_grows_and_stays_beyond(
    location: float, spread: float, one: float, other: float
) -> None:
    ratio = Ratio(location, spread)
    low, high = sorted((one, other))
    assert low <= ratio.mean_beyond(low) <= ratio.mean_beyond(high) * (1 + 1e-6)
    assert math.isfinite(ratio.mean_beyond(high))


def test_the_far_tail_goes_on_where_the_near_one_ends() -> None:
    ratio = Ratio(0.0, 0.5)
    near, far = math.exp(0.5 * 24.999), math.exp(0.5 * 25.001)
    assert ratio.mean_beyond(far) / ratio.mean_beyond(near) == pytest.approx(far / near, rel=1e-2)


def test_a_runaway_is_not_nearly_done() -> None:
    ratio = Ratio.prior()
    assert ratio.mean == pytest.approx(1.0)
    fresh, late, runaway = (ratio.remaining(100.0, done, 10_000) for done in (0, 90, 1000))
    assert fresh == pytest.approx(100.0)
    assert 1 < late < fresh  # 10 by subtraction
    assert runaway > fresh  # -900 by subtraction
    assert ratio.remaining(100.0, 1000, 1024) == 24
    assert ratio.remaining(100.0, 1024, 1024) == 1


def kaplan_meier(samples: list[tuple[float, bool]], level: float) -> float | None:
    """From the definition: the first end at which survival is at most 1 - level."""
    for value in sorted({value for value, end in samples if end}):
        survival = 1.0
        for earlier in sorted({v for v, end in samples if end and v <= value}):
            at_risk = sum(v >= earlier for v, _ in samples)
            survival *= 1 - sum(v == earlier and end for v, end in samples) / at_risk
        if survival <= 1 - level + 1e-9:
            return value
    return None


def arrays(samples: list[tuple[float, bool]]) -> tuple[Floats, Flags]:
    return np.array([v for v, _ in samples], float), np.array([end for _, end in samples], bool)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8).map(float), st.booleans()), max_size=30))
def test_quantiles_against_the_definition(samples: list[tuple[float, bool]]) -> None:
    levels = (0.25, 0.5, 0.75)
    assert product_limit_quantiles(*arrays(samples), levels) == [
        kaplan_meier(samples, level) for level in levels
    ]


def test_the_fit_sees_through_censoring() -> None:
    draw = random.Random(0)
    samples = []
    for _ in range(5000):
        value, cut = draw.gauss(0.4, 0.7), draw.gauss(0.8, 1.0)
        samples.append((min(value, cut), value <= cut))
    fitted = fit_ratio(*arrays(samples))
    assert fitted is not None
    assert fitted.location == pytest.approx(0.4, abs=0.06)
    assert fitted.spread == pytest.approx(0.7, abs=0.06)
    ended = [value for value, is_end in samples if is_end]
    assert sum(ended) / len(ended) < 0.2  # what the ended ones alone would say


def test_no_fit_without_a_median() -> None:
    assert fit_ratio(*arrays([])) is None
    assert fit_ratio(*arrays([(1.0, True), (2.0, False), (2.0, False)])) is None
