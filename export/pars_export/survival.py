"""Distributions of lengths of which some are only known to be longer (right-censored).

The product-limit estimate of Kaplan and Meier (1958), by which neither the answers still running
nor those cut off at their cap bend what the others say. Everywhere ``values`` are (n,), and
``ended`` (n,) says which of them are ends: where not, the true value is larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def product_limit(values: Floats, ended: Flags) -> tuple[Floats, Floats]:
    """The ends, rising (m,), and the share that outlives each (m,). O(n log n)."""
    # Of equal values the ends come first: what is censored there lasted longer.
    order = np.lexsort((~ended, values))
    at_risk = np.arange(len(values), 0, -1)
    survival = np.cumprod(1 - ended[order] / at_risk)
    at = np.flatnonzero(ended[order])
    return values[order[at]], survival[at]


def product_limit_quantiles(
    values: Floats, ended: Flags, levels: Sequence[float]
) -> list[float | None]:
    """Quantiles at ``levels``; None where none is reached."""
    ends, survival = product_limit(values, ended)
    reached = np.searchsorted(-survival, [level - 1 - 1e-12 for level in levels])
    return [float(ends[at]) if at < len(ends) else None for at in reached]


def product_limit_shares(values: Floats, ended: Flags, points: Sequence[float]) -> Floats:
    """Share that ended at or below each of ``points``."""
    ends, survival = product_limit(values, ended)
    outlived: Floats = np.append(1.0, survival)[np.searchsorted(ends, points, side="right")]
    return 1 - outlived


def last_ends(values: Floats, ended: Flags) -> Flags:
    """``ended`` with the largest value taken for an end, so that every share is told (Efron 1967).

    Nothing is assumed of what lies beyond it: means are those of lengths under the values' caps.
    """
    last: Flags = values == values.max()
    return ended | last


def restricted_mean(values: Floats, ended: Flags) -> float:
    """Mean, the largest value taken for an end: the area under the survival curve."""
    ends, survival = product_limit(values, last_ends(values, ended))
    return float(ends @ -np.diff(survival, prepend=1.0))
