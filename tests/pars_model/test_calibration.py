"""Scores to tokens: isotonic, strictly increasing, and sound with cut-off lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    tokens = calibration.tokens_of(spread).astype(float)
    assert (np.diff(tokens) > 0).all() or lengths.max() == 0 or tokens[-1] == tokens[0] == 1


def test_expected_tokens_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=4000)
    lengths = np.exp(4 + scores) * rng.gamma(4, 0.25, size=4000)
    calibration = Calibration.from_json(fit_calibration(scores, lengths))
    fresh = np.linspace(-1.5, 1.5, 7)
    np.testing.assert_allclose(calibration.tokens_of(fresh), np.exp(4 + fresh), rtol=0.2)


def test_one_odd_response_does_not_bend_an_end() -> None:
    scores = np.arange(500.0)
    lengths = 100 + scores
    lengths[-1] = 50_000
    tokens = Calibration.from_json(fit_calibration(scores, lengths)).tokens_of([400.0, 499.0])
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
    sound = Calibration.from_json(fit_calibration(scores, seen, cut)).tokens_of([0.0, 2.0])
    naive = Calibration.from_json(fit_calibration(scores, seen)).tokens_of([0.0, 2.0])
    assert sound[0] == pytest.approx(np.exp(5), rel=0.1)
    assert sound[1] == pytest.approx(cap, rel=0.05)
    assert (naive < 0.8 * sound).all()


def test_scores_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(InputError, match="1 of them not finite"):
        fit_calibration([1.0, np.inf], [1, 2])
    with pytest.raises(InputError, match="0 scores"):
        fit_calibration([], [])
