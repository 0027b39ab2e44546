"""From scores to the distribution of response lengths; no order changes on the way.

First a curve: isotonic regression of the lengths on the scores (pool adjacent violators), over bins
of scores that hold several prompts each, so that a single odd response does not bend an end of it.
Between the knots it is linear, and the outer knots lie far beyond the scores seen: no two scores
tie. Then how lengths lie around it: quantiles of length over curve, by the product-limit estimate
in wider bins, and beyond the last of them a tail that makes the mean right: the curve's own, but
where answers were cut off. ``pars_export.calibration`` reads the result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pars_export.calibration import Spread
from pars_export.errors import InputError
from pars_export.survival import last_ends, product_limit_quantiles, restricted_mean

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Beyond the scores seen, the curve goes on to this many times their range.
REACH = 100.0
# A rise of a thousandth over the range seen keeps an order where the data shows none.
LEAST_RISE = 1e-3

LEVELS = tuple(step / 20 for step in range(19))
"""Levels of the quantiles, 0 to 0.9: above them too few answers lie in a bin."""
SPREAD_BINS = 10
"""Most bins of scores with a spread of their own, of 100 answers or more each."""
LEAST_EXCESS = 0.05
"""Of the last quantile: an answer that has passed it is never done for sure."""
LEAST_RATIO = 1e-3
"""Of a length to the curve; an empty answer is no reason for a quantile of 0."""


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
) -> dict[str, object]:
    """The calibration of scores, ready for a manifest.

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
        What `pars_export.calibration.Calibration.from_json` reads.

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
    knots, curve = _strict(knots, fitted, float(s.min()), float(s.max()))
    spread = _spread(s, y / np.interp(s, knots, curve), cut, knots, curve)
    return {
        "scores": knots.tolist(),
        "tokens": spread.means().tolist(),
        "levels": list(spread.levels),
        "quantiles": [list(row) for row in spread.quantiles],
        "excess": list(spread.excess),
    }


def _spread(scores: Floats, ratios: Floats, cut: Bools, knots: Floats, curve: Floats) -> Spread:
    """Distribution at each knot, from the ratios of lengths to the curve."""
    bin_of = _bins(scores, min(SPREAD_BINS, len(scores) // 100))
    of_bin = np.array(
        [_of_ratios(ratios[bin_of == b], cut[bin_of == b]) for b in np.unique(bin_of)]
    )
    centre = np.bincount(bin_of, scores) / np.bincount(bin_of)
    rows = np.column_stack([np.interp(knots, centre, column) for column in of_bin.T])
    rows = np.maximum.accumulate(rows * curve[:, None], axis=0)
    # Where all columns stood still, the mean must rise nonetheless.
    rows *= 1 + 1e-4 * np.linspace(0, 1, len(rows))[:, None]
    quantiles, excess = rows[:, :-1], rows[:, -1]
    return Spread(LEVELS, tuple(map(tuple, quantiles.tolist())), tuple(excess.tolist()))


def _of_ratios(ratios: Floats, cut: Bools) -> Floats:
    """Quantiles at LEVELS, and the mean excess over the last of them that makes the mean right."""
    ratios = np.maximum(ratios, LEAST_RATIO)
    ended = last_ends(ratios, ~cut)
    quantiles = np.array(product_limit_quantiles(ratios, ended, LEVELS), dtype=np.float64)
    # The curve is the mean already but for answers that were cut off, which it takes to end on it.
    mean = restricted_mean(ratios, ended) / float(
        np.where(cut, np.maximum(ratios, 1.0), ratios).mean()
    )
    body = float((np.diff(LEVELS) * (quantiles[1:] + quantiles[:-1]) / 2).sum())
    top = quantiles[-1]
    excess = (mean - body) / (1 - LEVELS[-1]) - top
    return np.append(quantiles, max(excess, LEAST_EXCESS * top))


def _bins(scores: Floats, bins: int) -> Ints:
    """Bin of each score: about equally filled, equal scores together, at least 10 in each."""
    bins = max(1, min(bins, len(scores) // 10))
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)[1]


def _strict(knots: Floats, tokens: Floats, low: float, high: float) -> tuple[Floats, Floats]:
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
    return xs[keep], ys[keep]
