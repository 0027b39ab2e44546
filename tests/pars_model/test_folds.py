from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pars_model.folds import FOLDS, best_penalty, folds, mean_tau, out_of_fold


def test_each_is_scored_once_by_a_fit_that_has_not_seen_it() -> None:
    train = np.arange(40) % 3 > 0
    learned = np.flatnonzero(train)
    seen: list[int] = []

    def score(others: np.ndarray, inner: np.ndarray) -> np.ndarray:
        assert sorted([*others, *inner]) == list(range(len(learned)))
        seen.extend(inner)
        found: np.ndarray = learned[inner] * 10.0
        return found

    found = out_of_fold(train, score)
    assert sorted(seen) == list(range(len(learned)))
    assert_array_equal(found[train], learned * 10)
    assert np.isnan(found[~train]).all()


def test_of_fewer_than_there_are_folds_each_is_one() -> None:
    assert [inner.tolist() for _, inner in folds(3)] == [[0], [1], [2]]
    assert len(list(folds(100))) == FOLDS


def test_the_penalty_is_that_which_orders_the_unseen_best() -> None:
    target = np.random.default_rng(0).normal(size=50)

    def score(others: np.ndarray, inner: np.ndarray, penalty: float) -> np.ndarray:
        assert not set(others) & set(inner)
        found: np.ndarray = target[inner] * (1.0 if penalty == 2.0 else -1.0)
        return found

    assert best_penalty((1.0, 2.0, 4.0), target, score) == 2.0
    assert best_penalty((1.0, 4.0), target, score) == 4.0, "of equals the largest"
    assert best_penalty((1.0, 2.0), np.zeros(50), score) == 2.0, "where nothing can tell"


def test_folds_without_an_order_have_no_say() -> None:
    assert mean_tau([0.5, math.nan, 0.3]) == pytest.approx(0.4)
    assert mean_tau([math.nan]) == -1.0
