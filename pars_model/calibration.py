"""From scores to expected tokens: a strictly increasing map, so that the order stays the same.

Isotonic regression of the lengths on the scores (pool adjacent violators), over bins of scores
that hold several prompts each, so that a single odd response does not bend an end of the curve.
Between the knots the map is linear, and the outer knots lie far beyond the scores seen: no two
scores tie. ``pars_export.calibration`` reads the knots.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pars_export.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Beyond the scores seen, the curve goes on to this many times their range.
REACH = 100.0
# A rise of a thousandth over the range seen keeps an order where the data shows none.
LEAST_RISE = 1e-3


def pool_adjacent_violators(values: Floats, weights: Floats) -> tuple[Floats, Floats, Ints]:
    """Weighted isotonic (non-decreasing) least squares.

    Args:
        values: (n,) in order of the predictor.
        weights: (n,) positive.

    Returns:
        Blocks of equal fitted value: their value, weight and number of points.
    """
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            total = before[1] + block[1]
            mean = (before[0] * before[1] + block[0] * block[1]) / total
            block = (mean, total, before[2] + block[2])
        blocks.append(block)
    fitted, mass, count = zip(*blocks, strict=True)
    return np.array(fitted), np.array(mass), np.array(count, dtype=np.int64)


def fit_calibration(
    scores: ArrayLike, lengths: ArrayLike, censored: ArrayLike | None = None, bins: int = 64
) -> dict[str, list[float]]:
    """Knots of the map from score to expected tokens.

    A cut-off length is a lower bound: it pulls the curve up to its cap where the curve would
    lie below, and otherwise counts as lying on the curve (squared error from below only, found
    by repeating the fit). Nothing is assumed about what lies beyond a cap, so where most
    responses are cut off the map says the cap, not more.

    Args:
        scores: (n,) finite scores.
        lengths: (n,) tokens.
        censored: (n,) which are lower bounds; none by default.
        bins: most bins of scores.

    Returns:
        ``{"scores": [...], "tokens": [...]}``, both strictly increasing.

    Raises:
        InputError: no scores, or a score that is not finite.
    """
    s = np.asarray(scores, dtype=np.float64)
    y = np.asarray(lengths, dtype=np.float64)
    cut = np.zeros(len(y), dtype=bool) if censored is None else np.asarray(censored, dtype=bool)
    if not len(s) or not np.isfinite(s).all():
        raise InputError(
            f"Calibration got {len(s)} scores, {int((~np.isfinite(s)).sum())} of them not finite: "
            "expected finite scores of at least one prompt."
        )
    bin_of = _bins(s, bins)
    weight = np.bincount(bin_of).astype(np.float64)
    centre = np.bincount(bin_of, s) / weight
    y_now = y
    for _ in range(50):
        mean = np.bincount(bin_of, y_now) / weight
        fitted, mass, count = pool_adjacent_violators(mean, weight)
        curve = np.repeat(fitted, count)[bin_of]
        bounded = np.where(cut, np.maximum(y, curve), y)
        if np.allclose(bounded, y_now, rtol=1e-4):
            break
        y_now = bounded
    block_of = np.repeat(np.arange(len(count)), count)
    knots = np.bincount(block_of, centre * weight) / mass
    return _strict(knots, fitted, float(s.min()), float(s.max()))


def _bins(scores: Floats, bins: int) -> Ints:
    """Bin of each score: about equally filled, equal scores together, at least 10 in each."""
    bins = max(1, min(bins, len(scores) // 10))
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)[1]


def _strict(knots: Floats, tokens: Floats, low: float, high: float) -> dict[str, list[float]]:
    span = max(high - low, 1e-3)
    slope = LEAST_RISE * max(float(tokens.mean()), 1.0) / span
    far = REACH * span
    # Below the first knot the curve sinks towards zero and never reaches it.
    first = max(float(tokens[0]), 1e-3)
    below = max(first - slope * far, first / 2)
    above = float(max(tokens[-1], first)) + slope * far
    xs = np.concatenate([[knots[0] - far], knots, [knots[-1] + far]])
    ys = np.concatenate([[below], np.maximum(tokens, first), [above]])
    keep = np.concatenate([[True], (np.diff(ys) > 0) & (np.diff(xs) > 0)])
    return {"scores": xs[keep].tolist(), "tokens": ys[keep].tolist()}
