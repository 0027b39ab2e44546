"""Fits judged on what they have not seen, where no prompts are kept aside for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pars_model.metrics import kendall_tau

Ints = NDArray[np.int64]

FOLDS = 5
"""Parts of the training prompts, each of which has a say in which penalty is taken."""


def folds(count: int) -> Iterator[tuple[Ints, Ints]]:
    """Numbers below ``count`` that a fit learns from, and those that it then scores; each once."""
    fold = np.arange(count) % FOLDS
    for each in np.unique(fold):
        yield np.flatnonzero(fold != each), np.flatnonzero(fold == each)


def out_of_fold(
    train: NDArray[np.bool_], score: Callable[[Ints, Ints], NDArray[np.floating]]
) -> NDArray[np.float32]:
    """Scores (prompts,) of training prompts, each part of them by a fit to the others.

    Args:
        train: which of the prompts are learned from, (prompts,); the others have NaN.
        score: from numbers among the training prompts to learn from, (m,), and to score, (k,), to
            scores (k,).
    """
    found = np.full(len(train), np.nan, dtype=np.float32)
    learned = np.flatnonzero(train)
    for others, inner in folds(len(learned)):
        found[learned[inner]] = score(others, inner)
    return found


def best_penalty(
    penalties: Sequence[float],
    target: NDArray[np.float64],
    score: Callable[[Ints, Ints, float], NDArray[np.floating]],
) -> float:
    """The penalty whose fits order best what they have not seen; of equals the largest.

    Args:
        penalties: to choose from, in ascending order.
        target: of the training prompts, (n,).
        score: from numbers among them to learn from, (m,), and to score, (k,), and a penalty to
            scores (k,).
    """

    def tau(penalty: float) -> float:
        return mean_tau(
            [
                kendall_tau(score(others, inner, penalty), target[inner])
                for others, inner in folds(len(target))
            ]
        )

    return max(reversed(penalties), key=tau)


def mean_tau(taus: Sequence[float]) -> float:
    """The mean over folds that have an order, -1 where none has."""
    told = [tau for tau in taus if np.isfinite(tau)]
    return float(np.mean(told)) if told else -1.0
