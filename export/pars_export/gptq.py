"""Rounding a weight matrix to eight bits so that its products, not its entries, change least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
PAIR = 128
"""Most that two neighbouring weights of one sign may add up to where they come in pairs: times the
largest unsigned byte, 255, that fits into sixteen signed bits."""
_TOPS = (64, 72, 80, 90, 100, 113, LARGEST)
_DAMPING = 0.01  # of the mean of the diagonal; makes the Gram matrix safe to invert


def column_scales(weight: NDArray[np.float64], top: int = LARGEST) -> NDArray[np.float64]:
    """Scale of each column (n,) of a weight (k, n): the largest entry becomes ``top``."""
    largest = np.abs(weight).max(axis=0)
    return np.where(largest > 0, largest / top, 1.0)


def paired_scales(weight: NDArray[np.float64], gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale of each column (n,) where rows come in pairs that keep to `PAIR`.

    The finer the scale, the more pairs are too large for it; of `_TOPS` each column gets the one
    whose errors, of rounding and of cutting pairs down, weigh least on the diagonal of ``gram``.
    """
    weigh = np.diag(gram)[:, None]
    scales = np.stack([column_scales(weight, top) for top in _TOPS])
    errors = [(weigh * np.square(_cut(weight / s) * s - weight)).sum(axis=0) for s in scales]
    best = np.argmin(errors, axis=0)
    found: NDArray[np.float64] = scales[best, np.arange(weight.shape[1])]
    return found


def _cut(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole numbers nearest to ``weight`` (k, n), pairs of one sign cut down to `PAIR` together."""
    whole = np.rint(weight)
    for sign in (1, -1):
        part = np.maximum(sign * whole, 0)
        even, odd = part[: len(part) // 2 * 2 : 2], part[1::2]
        over = np.maximum(even + odd - PAIR, 0)
        whole[1::2] -= sign * np.minimum(over, odd)
    return whole


def round_weight(
    weight: NDArray[np.float64],
    gram: NDArray[np.float64],
    scales: NDArray[np.float64],
    paired: bool = False,
) -> NDArray[np.int8]:
    """Whole numbers (k, n) whose product with ``scales`` stands for ``weight`` (k, n).

    Rows are rounded one after another, and what a row's rounding changes in the products of real
    inputs is taken up by the rows that follow (GPTQ, Frantar et al. 2022).

    Args:
        weight: inputs are multiplied from the left: x @ weight.
        gram: sum of the outer products of real inputs with themselves, (k, k).
        scales: one per column, (n,).
        paired: whether rows 0 and 1, 2 and 3 and so on keep to `PAIR` together.
    """
    rows = len(weight)
    # Rows that weigh most are rounded first, while there are still rows to take up their error.
    order = np.argsort(-np.diag(gram), kind="stable")
    damped = gram[np.ix_(order, order)] + np.eye(rows) * max(
        _DAMPING * float(np.diag(gram).mean()), 1e-12
    )
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weight[order].copy()
    whole = np.empty_like(left)
    place = np.empty(rows, dtype=int)
    place[order] = np.arange(rows)
    for row in range(rows):
        low, high = np.full(len(scales), -float(LARGEST)), np.full(len(scales), float(LARGEST))
        mate = int(order[row]) ^ 1
        if paired and mate < rows and place[mate] < row:
            beside = whole[place[mate]]
            low = np.maximum(low, -PAIR - np.minimum(beside, 0))
            high = np.minimum(high, PAIR - np.maximum(beside, 0))
        whole[row] = np.clip(np.rint(left[row] / scales), low, high)
        error = (left[row] - whole[row] * scales) / upper[row, row]
        left[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    found = np.empty_like(whole)
    found[order] = whole
    return found.astype(np.int8)
