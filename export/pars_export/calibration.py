"""Scores to expected response tokens by the knots that a predictor folder holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pars_export.errors import PredictorError


@dataclass(frozen=True)
class Calibration:
    """A strictly increasing, piecewise linear map."""

    scores: tuple[float, ...]
    """Knots, in units of score, strictly increasing; at least two."""
    tokens: tuple[float, ...]
    """Expected response length in tokens at each knot, strictly increasing."""

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

    def tokens_of(self, scores: ArrayLike) -> NDArray[np.float32]:
        """Expected tokens (n,) of scores (n,), never below 1; NaN stays NaN.

        Beyond the knots the map goes on with the mean slope of the whole curve: the slope of the
        outermost segment rests on the fewest prompts and may be almost anything.
        """
        x = np.asarray(scores, dtype=np.float64)
        first, last = self.scores[0], self.scores[-1]
        slope = (self.tokens[-1] - self.tokens[0]) / (last - first)
        inside: NDArray[np.float64] = np.interp(x, self.scores, self.tokens)
        beyond = slope * (np.minimum(x - first, 0.0) + np.maximum(x - last, 0.0))
        tokens: NDArray[np.float32] = np.maximum(inside + beyond, 1.0).astype(np.float32)
        return tokens

    def to_json(self) -> dict[str, list[float]]:
        """As it stands in `predictor.json`."""
        return {"scores": list(self.scores), "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, value: object) -> Calibration:
        """Read what `to_json` wrote.

        Raises:
            PredictorError: another form, or knots that do not increase.
        """
        if not isinstance(value, Mapping) or set(value) != {"scores", "tokens"}:
            raise PredictorError("calibration must hold scores and tokens, and nothing else.")
        return cls(_numbers(value["scores"], "scores"), _numbers(value["tokens"], "tokens"))


def _numbers(value: object, name: str) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise PredictorError(f"calibration.{name} must be a list of numbers.")
    for knot in value:
        if isinstance(knot, bool) or not isinstance(knot, (int, float)):
            raise PredictorError(f"calibration.{name} holds {knot!r}; only numbers are allowed.")
    return tuple(float(knot) for knot in value)
