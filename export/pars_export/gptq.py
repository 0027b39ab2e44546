"""Rounding a weight matrix to eight bits so that its products, not its entries, change least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
_DAMPING = 0.01  # of the mean of the diagonal; makes the Gram matrix safe to invert


def column_scales(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale of each column (n,) of a weight (k, n): the largest entry becomes 127."""
    largest = np.abs(weight).max(axis=0)
    return np.where(largest > 0, largest / LARGEST, 1.0)


def round_weight(
    weight: NDArray[np.float64], gram: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Whole numbers (k, n) whose product with ``scales`` stands for ``weight`` (k, n).

    Rows are rounded one after another, and what a row's rounding changes in the products of real
    inputs is taken up by the rows that follow (GPTQ, Frantar et al. 2022).

    Args:
        weight: inputs are multiplied from the left: x @ weight.
        gram: sum of the outer products of real inputs with themselves, (k, k).
        scales: one per column, (n,).
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
    for row in range(rows):
        whole[row] = np.clip(np.rint(left[row] / scales), -LARGEST, LARGEST)
        error = (left[row] - whole[row] * scales) / upper[row, row]
        left[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    found = np.empty_like(whole)
    found[order] = whole
    return found.astype(np.int8)
