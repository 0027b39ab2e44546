"""True length over expected length, as a log-normal: what a predictor's tokens are worth.

Fitted to answers of which some are not over yet (right-censored), by the product-limit estimate of
Kaplan and Meier (1958) on the logarithms: its quartiles give location and spread, and neither the
few enormous ratios nor the answers still running bend them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pars_export.survival import Flags, Floats, product_limit_quantiles

_QUARTILE = 0.6744897501960817
"""Distance from the median to a quartile of the standard normal."""
_LEAST_SPREAD = 0.05
_FAR = 25.0
"""Standard deviations beyond which a tail of the normal is computed by its expansion."""


@dataclass(frozen=True)
class Ratio:
    """Log-normal distribution of true over expected tokens."""

    location: float
    """Mean of the logarithm."""
    spread: float
    """Standard deviation of the logarithm, positive."""

    @classmethod
    def prior(cls, spread: float = 0.7) -> Ratio:
        """A predictor that is right on average; the spread is that of a Kendall tau near .55."""
        return cls(-spread * spread / 2, spread)

    @property
    def mean(self) -> float:
        """Expected ratio: what expected tokens are to be multiplied by."""
        return math.exp(self.location + self.spread * self.spread / 2)

    def mean_beyond(self, ratio: float) -> float:
        """Expected ratio of an answer that is known to exceed ``ratio`` (0 or more).

        ``E[X | X > x] = exp(m + s^2/2) * P(Z > z - s) / P(Z > z)`` with ``z = (ln x - m) / s``.
        """
        if ratio <= 0:
            return self.mean
        z = (math.log(ratio) - self.location) / self.spread
        if z > _FAR:  # both tails vanish; their quotient, by Mills' ratio 1/z
            return ratio * z / (z - self.spread) if z > 2 * self.spread else 2 * ratio
        return max(ratio, self.mean * _above(z - self.spread) / _above(z))

    def remaining(self, expected: float, done: int, max_tokens: int) -> float:
        """``E[L | L > done] - done``: tokens still to come, between 1 and what the cap leaves.

        Never ``expected - done``, which turns negative and would call every runaway nearly done.

        Args:
            expected: Tokens that the predictor expected in all, positive.
            done: Tokens that exist already.
            max_tokens: The request's cap.
        """
        left = expected * self.mean_beyond(done / expected) - done
        return min(max(left, 1.0), max(1.0, float(max_tokens - done)))


def fit_ratio(logarithms: Floats, ended: Flags) -> Ratio | None:
    """The log-normal of these ``ln ratio``, each with whether it ended; None without a median.

    A sample that did not end by itself says only that its ratio is larger.
    """
    quarter, median, three_quarters = product_limit_quantiles(logarithms, ended, (0.25, 0.5, 0.75))
    if quarter is None or median is None:
        return None
    if three_quarters is None:
        spread = (median - quarter) / _QUARTILE
    else:
        spread = (three_quarters - quarter) / (2 * _QUARTILE)
    return Ratio(median, max(spread, _LEAST_SPREAD))


def _above(z: float) -> float:
    """Probability that a standard normal exceeds ``z``."""
    return 0.5 * math.erfc(z / math.sqrt(2))
