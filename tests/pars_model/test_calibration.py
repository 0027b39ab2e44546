"""Scores to tokens: isotonic, strictly increasing, and sound with cut-off lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from pars_export.calibration import Calibration
from pars_export.errors import InputError
from pars_model.calibration import fit_calibration, pool_adjacent_violators

VALUES = st.lists(st.floats(0, 100), min_size=1, max_size=30)


@given(VALUES, st.data())
def test_pooling_is_isotonic_regression(values: list[float], data: st.DataObject) -> None:
    weights = [data.draw(st.floats(0.5, 5)) for _ in values]
    fitted, mass, count = pool_adjacent_violators(np.array(values), np.array(weights))
    wanted = isotonic_regression(values, weights=weights).x
    np.testing.assert_allclose(np.repeat(fitted, count), wanted, atol=1e-8)
    assert mass.sum() == pytest.approx(sum(weights))


@given(
    st.lists(
        st.tuples(st.floats(-50, 50, width=32), st.integers(0, 5000), st.booleans()),
        min_size=1,
        max_size=80,
    )
)
def test_knots_always_increase_and_orders_survive(items: list[tuple[float, int, bool]]) -> None:
    scores, lengths, censored = map(np.array, zip(*items, strict=True))
    knots = fit_calibration(scores, lengths, censored)
    calibration = Calibration.from_json(knots)  # refuses knots that do not increase
    spread = np.unique(scores)
    spread = spread[np.diff(spread, prepend=-np.inf) > 1e-2]
    tokens = calibration.expected_tokens(spread).astype(float)
    assert (np.diff(tokens) > 0).all() or lengths.max() == 0 or tokens[-1] == tokens[0] == 1


def test_expected_tokens_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=4000)
    lengths = np.exp(4 + scores) * rng.gamma(4, 0.25, size=4000)
    calibration = Calibration.from_json(fit_calibration(scores, lengths))
    fresh = np.linspace(-1.5, 1.5, 7)
    np.testing.assert_allclose(calibration.expected_tokens(fresh), np.exp(4 + fresh), rtol=0.2)


def test_one_odd_response_does_not_bend_an_end() -> None:
    scores = np.arange(500.0)
    lengths = 100 + scores
    lengths[-1] = 50_000
    tokens = Calibration.from_json(fit_calibration(scores, lengths)).expected_tokens([400.0, 499.0])
    assert tokens[0] == pytest.approx(500, rel=0.05)
    assert tokens[1] < 10_000


def test_cut_off_lengths_never_pull_the_curve_down() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=3000)
    truth = np.exp(5 + scores)
    cap = 400.0
    cut = truth > cap
    seen = np.minimum(truth, cap)
    # Cut off early, at random, wherever they would have ended: lower bounds that say little.
    early = rng.random(3000) < 0.3
    seen, cut = np.where(early, np.minimum(seen, 20), seen), cut | (early & (seen > 20))
    sound = Calibration.from_json(fit_calibration(scores, seen, cut)).expected_tokens([0.0, 2.0])
    naive = Calibration.from_json(fit_calibration(scores, seen)).expected_tokens([0.0, 2.0])
    assert sound[0] == pytest.approx(np.exp(5), rel=0.1)
    assert sound[1] == pytest.approx(cap, rel=0.05)
    assert (naive < 0.8 * sound).all()


def noisy(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores, and lengths around them that spread the more the longer they are."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count)
    spread = 0.3 + 0.1 * np.clip(scores + 2, 0, 4)
    return scores, np.ceil(np.exp(5 + scores + spread * rng.normal(size=count)))


@given(
    st.lists(
        st.tuples(st.floats(-50, 50, width=32), st.integers(0, 5000), st.booleans()),
        min_size=1,
        max_size=80,
    ),
    st.lists(st.floats(0, 10_000), min_size=2, max_size=5),
)
def test_longer_scores_never_promise_less(
    items: list[tuple[float, int, bool]], done: list[float]
) -> None:
    scores, lengths, censored = map(np.array, zip(*items, strict=True))
    calibration = Calibration.from_json(fit_calibration(scores, lengths, censored))
    asked = np.linspace(-60, 60, 25)
    table = np.stack([calibration.quantile_tokens(asked, p) for p in (0.05, 0.3, 0.5, 0.9, 0.99)])
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()
    np.testing.assert_allclose(
        calibration.remaining_tokens(asked, 0), calibration.expected_tokens(asked), rtol=1e-3
    )
    # An answer that has more tokens already is expected to be no shorter in all.
    totals = [calibration.remaining_tokens(asked, k).astype(float) + k for k in sorted(done)]
    assert (np.diff(totals, axis=0) >= -1e-3 * np.array(totals[:-1])).all()


@pytest.mark.parametrize("cap", [None, 300.0])
def test_intervals_hold_what_they_promise(cap: float | None) -> None:
    scores, lengths = noisy(3000, 0)
    cut = lengths > (cap or np.inf)
    calibration = Calibration.from_json(
        fit_calibration(scores, np.minimum(lengths, cap or np.inf), cut)
    )
    fresh, true = noisy(3000, 1)
    narrow = abs(fresh + 0.8) < 0.2 if cap else np.full(3000, True)
    for level in (0.1, 0.5, 0.9):
        below = (true <= calibration.quantile_tokens(fresh, level))[narrow].mean()
        assert below == pytest.approx(level, abs=0.05)


def test_what_is_left_is_what_was_left_of_fresh_answers() -> None:
    calibration = Calibration.from_json(fit_calibration(*noisy(4000, 0)))
    fresh, true = noisy(20_000, 1)
    near = abs(fresh - 0.5) < 0.1
    for done in (0, 50, 200, 400):
        longer = true[near & (true > done)]
        found = calibration.remaining_tokens([0.5], done)[0]
        assert found == pytest.approx((longer - done).mean(), rel=0.25)


def test_scores_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(InputError, match="1 of them not finite"):
        fit_calibration([1.0, np.inf], [1, 2])
    with pytest.raises(InputError, match="0 scores"):
        fit_calibration([], [])
