"""A head in closed form: ridge regression on what the encoder says of prompts, as it is.

Of few prompts a fine-tuning learns little that holds, and forgets some of what the encoder knew: a
linear probe extrapolates better (Kumar et al. 2022, arXiv 2202.10054). The probe's targets are the
normal deviates of ranks, as those of the n-gram half; five folds choose the penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pars_model.metrics import kendall_tau

Doubles = NDArray[np.float64]

PENALTIES = tuple(float(f"{10 ** (half / 2):.3g}") for half in range(10))
"""Of squared coefficients of standardised inputs: 1 to 31,600."""
_FOLDS = 5
_LEAST_SPREAD = 1e-6
"""Of an input, or of scores, that they are divided by."""


@dataclass(frozen=True)
class SolvedHead:
    """Scores are ``vectors @ weight + bias``, with mean 0 and deviation 1 where they were fitted.

    Attributes:
        weight: (width,).
        bias: what is added.
        penalty: the one of `PENALTIES` with the best tau in the mean over folds that have an order.
    """

    weight: Doubles
    bias: float
    penalty: float


def solve_head(vectors: NDArray[np.float32], target: Doubles) -> SolvedHead:
    """Fit a head.

    Args:
        vectors: pooled vectors of prompts, (n, width).
        target: what to predict of each, (n,); higher means longer.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    spread = np.maximum(vectors.std(axis=0, dtype=np.float64), _LEAST_SPREAD)
    inputs, wanted = (vectors - mean) / spread, target - target.mean()
    fold = np.arange(len(target)) % _FOLDS
    # Sums over folds, so that no fit reads the inputs again.
    squares = np.stack([inputs[fold == each].T @ inputs[fold == each] for each in range(_FOLDS)])
    products = np.stack([inputs[fold == each].T @ wanted[fold == each] for each in range(_FOLDS)])
    whole, told = squares.sum(axis=0), products.sum(axis=0)
    taus: list[list[float]] = [[] for _ in PENALTIES]
    for each in range(_FOLDS):
        mine = fold == each
        found = _ridges(whole - squares[each], told - products[each], PENALTIES)
        for place, scores in enumerate((inputs[mine] @ found).T):
            taus[place].append(kendall_tau(scores, wanted[mine]))
    told_by = [[tau for tau in each if np.isfinite(tau)] for each in taus]
    means = [float(np.mean(each)) if each else -1.0 for each in told_by]
    best = max(reversed(range(len(PENALTIES))), key=means.__getitem__)
    (weight,) = _ridges(whole, told, PENALTIES[best : best + 1]).T
    weight /= spread * max(float((inputs @ weight).std()), _LEAST_SPREAD)
    return SolvedHead(weight, -float(mean @ weight), PENALTIES[best])


def _ridges(squares: Doubles, products: Doubles, penalties: tuple[float, ...]) -> Doubles:
    """Coefficients (width, penalties) by sums of squares (width, width) and products (width,)."""
    values, vectors = np.linalg.eigh(squares)
    along = vectors.T @ products
    factors = np.maximum(values, 0.0)[:, None] + np.array(penalties)
    found: Doubles = vectors @ (along[:, None] / factors)
    return found
