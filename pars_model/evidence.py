"""How sure it is that the longer of two responses is longer: would a rerun keep their order?

An LLM answers one prompt with other lengths each time. Around a prompt's own, log lengths spread
with a standard deviation that repeated samples show; of the difference of two labels it says with
which probability the order survives when both are measured again. Relative differences that are
small beside that noise teach little, whatever their size: this is the adaptive form of the filter
of PARS (arXiv 2510.03243), which its authors leave as future work.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import ndtr

from pars_export.errors import ConfigError
from pars_model.lengths import LengthTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NOISES = ("group", "length")
"""One spread for all responses of a group, or one that depends on their length."""
FEWEST = 20
"""Items with repeated samples from which a group's own noise is estimated."""


def survival(longer: Floats, shorter: Floats, noise: Floats, other_noise: Floats) -> Floats:
    """Probability that the order of labels is the same when both are measured again.

    Args:
        longer: lengths of the longer ones, (m,).
        shorter: lengths of the shorter ones, (m,).
        noise: standard deviation of the log of the longer label, (m,).
        other_noise: the same of the shorter one, (m,).

    Returns:
        Numbers from 0.5 (equal) to 1, (m,); both labels have noise now and when measured again.
    """
    distance = np.log1p(longer) - np.log1p(shorter)
    found: Floats = ndtr(distance / np.maximum(np.sqrt(2) * np.hypot(noise, other_noise), 1e-9))
    return found


def equal_delta(spread: float, wanted: float) -> float:
    """The fixed relative delta at which single samples of one spread survive as often as wanted."""
    from scipy.special import ndtri

    return 1 - math.exp(-2 * spread * float(ndtri(wanted)))


def label_noise(table: LengthTable, chosen: Bools, kind: str, spread: float) -> Floats:
    """Standard deviation of the log of each item's label, the median of its samples.

    Args:
        table: the length table.
        chosen: items whose repeated samples are looked at, (n,).
        kind: one of :data:`NOISES`.
        spread: of single log lengths, where the table has too few repeated samples to tell.

    Returns:
        Standard deviations, (n,).

    Raises:
        ConfigError: an unknown kind, or a spread that is not positive.
    """
    if kind not in NOISES:
        raise ConfigError(f"data.noise is {kind!r}; expected one of {', '.join(NOISES)}.")
    if not spread > 0:
        raise ConfigError(f"data.spread is {spread}; expected a number above 0.")
    counts = np.diff(table.sample_start)
    variance = np.full(len(table), spread**2)
    known = chosen & (counts >= 2) & ~table.censored
    within = _variances(table, known)
    for group in np.unique(table.group):
        mine = table.group == group
        fit = mine & known if (mine & known).sum() >= FEWEST else known
        if fit.sum() >= FEWEST:
            variance[mine] = _fitted(table.length, within, fit, kind)[mine]
    shrunk: Floats = np.sqrt(variance * median_variance(counts))
    return shrunk


def median_variance(samples: NDArray[np.int64]) -> Floats:
    """Variance of the median of normal samples, as a share of a single one's."""
    exact = np.array([1.0, 1.0, 0.5, 0.449, 0.298, 0.287])
    many = math.pi / 2 / np.maximum(samples, 1)
    return np.where(samples < len(exact), exact[np.minimum(samples, len(exact) - 1)], many)


def _variances(table: LengthTable, known: Bools) -> Floats:
    """Variance of the log samples of each known item; 0 for others."""
    found = np.zeros(len(table))
    for item in np.flatnonzero(known):
        found[item] = np.log1p(table.samples_of(item)[0]).var(ddof=1)
    return found


def _fitted(length: Floats, within: Floats, fit: Bools, kind: str) -> Floats:
    if kind == "group":
        return np.full(len(length), max(float(within[fit].mean()), 1e-6))
    # Responses of few tokens differ by whole tokens: a constant, and a part that falls with length.
    columns = np.stack([np.ones(len(length)), 1 / (1 + length)], axis=1)
    weights, _ = nnls(columns[fit], within[fit])
    return np.maximum(columns @ weights, 1e-6)
