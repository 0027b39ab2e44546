"""Scores to response tokens, by what a predictor folder holds: mean, quantiles, what is to come.

The length of an answer is a random number whose distribution depends on its prompt's score. A
folder holds it at some scores (*knots*), linear between them: quantiles at some levels, linear
between those, and beyond the last level an exponential tail. A larger score makes every quantile
and the mean at least as large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pars_export.errors import InputError, PredictorError

Floats = NDArray[np.float64]
_MEAN_ONLY = {"scores", "tokens"}
_WHOLE = _MEAN_ONLY | {"levels", "quantiles", "excess"}
_AGREE = 1e-3
"""Relative difference between `tokens` and the mean of the distribution beside it."""


@dataclass(frozen=True)
class Spread:
    """Distribution of the response length at each knot."""

    levels: tuple[float, ...]
    """Shares of answers, strictly increasing from 0 to less than 1; at least two."""
    quantiles: tuple[tuple[float, ...], ...]
    """Tokens that those shares do not exceed, (knots, levels); they fall nowhere either way."""
    excess: tuple[float, ...]
    """Mean tokens beyond the last quantile of the answers that pass it, per knot; positive."""

    def __post_init__(self) -> None:
        levels, quantiles, excess = self.arrays
        rising = len(levels) > 1 and levels[0] == 0 and levels[-1] < 1
        if not rising or not (np.diff(levels) > 0).all():
            raise PredictorError("calibration.levels must increase from 0 and end below 1.")
        if quantiles.shape != (len(excess), len(levels)):
            raise PredictorError(
                f"calibration.quantiles must be {len(excess)} lists of {len(levels)} numbers."
            )
        finite = np.isfinite(quantiles).all() and np.isfinite(excess).all()
        falls = (np.diff(quantiles, axis=0) < 0).any() or (np.diff(quantiles, axis=1) < 0).any()
        if not finite or falls or quantiles.min() < 0:
            raise PredictorError(
                "calibration.quantiles must be tokens that fall neither with the score nor with "
                "the level."
            )
        if (excess <= 0).any() or (np.diff(excess) < 0).any():
            raise PredictorError("calibration.excess must be positive and fall nowhere.")

    @property
    def arrays(self) -> tuple[Floats, Floats, Floats]:
        """Levels (q,), quantiles (k, q), excess (k,)."""
        ragged = len({len(row) for row in self.quantiles}) > 1
        return (
            np.array(self.levels),
            np.empty((0, 0)) if ragged else np.array(self.quantiles),
            np.array(self.excess),
        )

    def means(self) -> Floats:
        """Mean length at each knot, (k,)."""
        levels, quantiles, excess = self.arrays
        body = (np.diff(levels) * (quantiles[:, 1:] + quantiles[:, :-1]) / 2).sum(axis=1)
        mean: Floats = body + (1 - levels[-1]) * (quantiles[:, -1] + excess)
        return mean


@dataclass(frozen=True)
class Calibration:
    """Mean response length by score, strictly increasing, and where known its distribution."""

    scores: tuple[float, ...]
    """Knots, in units of score, strictly increasing; at least two."""
    tokens: tuple[float, ...]
    """Expected response length in tokens at each knot, strictly increasing."""
    spread: Spread | None = None
    """How lengths lie around it; None in folders of format version 1 and in baselines."""

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.tokens) or len(self.scores) < 2:
            raise PredictorError(
                f"calibration has {len(self.scores)} scores and {len(self.tokens)} tokens; it "
                "needs two or more of each, as many of one as of the other."
            )
        for name, knots in (("scores", self.scores), ("tokens", self.tokens)):
            if not all(math.isfinite(knot) for knot in knots):
                raise PredictorError(f"calibration.{name} holds a value that is not finite.")
            if not all(low < high for low, high in pairwise(knots)):
                raise PredictorError(
                    f"calibration.{name} must increase from each value to the next."
                )
        # Between knots, and of the whole curve, along which it goes on.
        with np.errstate(over="ignore", invalid="ignore"):
            rises, steps = (
                np.append(np.diff(values), values[-1] - values[0])
                for values in (self.tokens, self.scores)
            )
            slopes = rises / steps
        if not (np.isfinite(slopes) & (slopes > 0)).all():
            raise PredictorError(
                "calibration.scores lie so near or so far apart that tokens cannot be told."
            )
        if self.spread is not None:
            means = self.spread.means()
            if means.shape != (len(self.scores),) or not np.allclose(
                means, self.tokens, rtol=_AGREE, atol=0
            ):
                raise PredictorError(
                    "calibration.tokens must be the mean of quantiles and excess at each score."
                )

    def expected_tokens(self, scores: ArrayLike) -> NDArray[np.float32]:
        """Expected tokens (n,) of scores (n,), never below 1; NaN stays NaN."""
        return np.maximum(self._mean(np.asarray(scores, dtype=np.float64)), 1.0).astype(np.float32)

    def quantile_tokens(self, scores: ArrayLike, level: float) -> NDArray[np.float32]:
        """Tokens (n,) that a share ``level`` of answers does not exceed, never below 1.

        Raises:
            InputError: ``level`` is not between 0 and 1.
            PredictorError: there is no spread.
        """
        if not 0 < level < 1:
            raise InputError(f"The level of a quantile is {level!r}; expected 0 < level < 1.")
        levels, quantiles, excess = self._distribution(scores)
        if level <= levels[-1]:
            above = max(int(np.searchsorted(levels, level)), 1)
            share = (level - levels[above - 1]) / (levels[above] - levels[above - 1])
            found = (1 - share) * quantiles[:, above - 1] + share * quantiles[:, above]
        else:
            found = quantiles[:, -1] - excess * math.log((1 - level) / (1 - levels[-1]))
        tokens: NDArray[np.float32] = np.maximum(found, 1.0).astype(np.float32)
        return tokens

    def remaining_tokens(self, scores: ArrayLike, done: ArrayLike) -> NDArray[np.float32]:
        """Tokens still to come of answers that have ``done`` tokens: ``E[L - k | L > k, score]``.

        At least 1 and never ``expected - done``, which turns negative and would call every runaway
        nearly done. ``done`` plus this never falls as ``done`` grows; over scores it may, for a
        prompt that promised a short answer and has a long one already may have far to go.

        Args:
            scores: (n,).
            done: (n,) or one number for all, 0 or more.

        Raises:
            InputError: a number of tokens below 0 or not finite, or not one for each score.
            PredictorError: there is no spread.
        """
        k = np.asarray(done, dtype=np.float64)
        wrong = k[~(np.isfinite(k) & (k >= 0))]
        if wrong.size:
            raise InputError(f"done is {wrong[0]:g}; tokens that exist already are 0 or more.")
        levels, quantiles, excess = self._distribution(scores)
        if k.shape not in ((), excess.shape):
            raise InputError(
                f"done has shape {k.shape} beside {len(excess)} prompts; give one number of tokens "
                "for each, or one for all."
            )
        k = np.broadcast_to(k, excess.shape)
        low, high = quantiles[:, :-1], quantiles[:, 1:]
        share = np.diff(levels) * (1 - _below(low, high, k[:, None]))  # of answers still running
        left = (high + np.maximum(low, k[:, None])) / 2 - k[:, None]
        top = quantiles[:, -1]
        tail = 1 - levels[-1]
        body = (share * np.maximum(left, 0.0)).sum(axis=1)
        to_come = (body + tail * (top - k + excess)) / (share.sum(axis=1) + tail)
        found = np.where(k < top, to_come, excess)
        found = np.where(np.isnan(top), np.nan, np.maximum(found, 1.0))
        tokens: NDArray[np.float32] = found.astype(np.float32)
        return tokens

    def levels_of(self, scores: ArrayLike, tokens: ArrayLike) -> Floats:
        """Distribution function: share (n,) of answers with at most ``tokens`` (n,).

        Raises:
            PredictorError: there is no spread.
        """
        levels, quantiles, excess = self._distribution(scores)
        y = np.asarray(tokens, dtype=np.float64)
        below = _below(quantiles[:, :-1], quantiles[:, 1:], y[:, None])
        beyond = 1 - np.exp(-np.maximum(y - quantiles[:, -1], 0.0) / excess)
        share: Floats = (np.diff(levels) * below).sum(axis=1) + (1 - levels[-1]) * beyond
        return share

    def to_json(self) -> dict[str, object]:
        """As it stands in `predictor.json`."""
        found: dict[str, object] = {"scores": list(self.scores), "tokens": list(self.tokens)}
        if self.spread is not None:
            found["levels"] = list(self.spread.levels)
            found["quantiles"] = [list(row) for row in self.spread.quantiles]
            found["excess"] = list(self.spread.excess)
        return found

    @classmethod
    def from_json(cls, value: object) -> Calibration:
        """Read what `to_json` wrote.

        Raises:
            PredictorError: another form, knots that do not increase, or a spread that does not
                belong to them.
        """
        if not isinstance(value, Mapping) or set(value) not in (_MEAN_ONLY, _WHOLE):
            raise PredictorError(
                "calibration must hold scores and tokens, and nothing else but all of levels, "
                "quantiles and excess."
            )
        spread = None
        if "levels" in value:
            rows = value["quantiles"]
            if not isinstance(rows, Sequence) or isinstance(rows, str):
                raise PredictorError("calibration.quantiles must be a list of lists of numbers.")
            spread = Spread(
                _numbers(value["levels"], "levels"),
                tuple(_numbers(row, "quantiles") for row in rows),
                _numbers(value["excess"], "excess"),
            )
        scores, tokens = (_numbers(value[name], name) for name in ("scores", "tokens"))
        return cls(scores, tokens, spread)

    def _mean(self, x: Floats) -> Floats:
        # Beyond the knots the map goes on with the mean slope of the whole curve: the slope of the
        # outermost segment rests on the fewest prompts and may be almost anything.
        first, last = self.scores[0], self.scores[-1]
        slope = (self.tokens[-1] - self.tokens[0]) / (last - first)
        inside: Floats = np.interp(x, self.scores, self.tokens)
        beyond: Floats = slope * (np.minimum(x - first, 0.0) + np.maximum(x - last, 0.0))
        return inside + beyond

    def _distribution(self, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Levels (q,), quantiles (n, q) and excess (n,) at scores (n,); NaN where a score is."""
        if self.spread is None:
            raise PredictorError(
                "The predictor's calibration holds a mean and no spread, as before format version "
                "2: export the checkpoint again after a new fit."
            )
        levels, quantiles, excess = self.spread.arrays
        x = np.asarray(scores, dtype=np.float64)
        knots = np.array(self.scores)
        above = np.clip(np.searchsorted(knots, x), 1, len(knots) - 1)
        share = np.clip((x - knots[above - 1]) / (knots[above] - knots[above - 1]), 0.0, 1.0)
        rows = np.column_stack([quantiles, excess])
        found = (1 - share)[:, None] * rows[above - 1] + share[:, None] * rows[above]
        # Beyond the knots the distribution is stretched as its mean is; inside this is 1.
        stretch = np.maximum(self._mean(x), 1e-3) / np.interp(x, knots, self.tokens)
        outside = (x < knots[0]) | (x > knots[-1])
        found = found * np.where(outside, stretch, 1.0)[:, None]
        return levels, found[:, :-1], found[:, -1]


class KnownLengths:
    """The calibration of scores that are the true lengths in tokens, as an oracle's are."""

    def expected_tokens(self, scores: ArrayLike) -> NDArray[np.float32]:
        """The lengths, never below 1."""
        return np.maximum(np.asarray(scores, dtype=np.float32), np.float32(1))

    def quantile_tokens(self, scores: ArrayLike, level: float) -> NDArray[np.float32]:
        """The lengths: at every level the same."""
        del level
        return self.expected_tokens(scores)

    def remaining_tokens(self, scores: ArrayLike, done: ArrayLike) -> NDArray[np.float32]:
        """What is left of the lengths, at least 1."""
        return self.expected_tokens(np.asarray(scores, dtype=np.float64) - np.asarray(done))


def _below(low: Floats, high: Floats, value: Floats) -> Floats:
    """Share of each even stretch from ``low`` to ``high`` that is at most ``value``."""
    width = high - low
    flat = width <= 0
    share = np.clip((value - low) / np.where(flat, 1.0, width), 0.0, 1.0)
    found: Floats = np.where(flat, (value >= low).astype(np.float64), share)
    return found


def _numbers(value: object, name: str) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise PredictorError(f"calibration.{name} must be a list of numbers.")
    for knot in value:
        if isinstance(knot, bool) or not isinstance(knot, (int, float)):
            raise PredictorError(f"calibration.{name} holds {knot!r}; only numbers are allowed.")
    try:
        return tuple(float(knot) for knot in value)
    except OverflowError as error:
        raise PredictorError(f"calibration.{name} holds a number beyond all floats.") from error
