"""How well scores order responses: tau-b, pair accuracy, intervals, and the noise ceiling.

Only pairs whose true order is known count: of two cut-off responses none is known to be longer,
and a cut-off one is known to be longer than those that finished below its cap only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from pars_export.errors import InputError

if TYPE_CHECKING:
    from pars_model.lengths import LengthTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval (None where too little data gives none)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairCounts:
    """Pairs of items, counted.

    Attributes:
        balance: pairs ordered rightly minus pairs ordered wrongly.
        known: pairs whose true order is known.
        distinct: pairs that are known or truly equal, and have different scores.
    """

    balance: int
    known: int
    distinct: int

    @property
    def tau(self) -> float:
        """Kendall's tau-b; 0 where all scores are equal, NaN where no true order is known."""
        if not self.known:
            return float("nan")
        tau = self.balance / math.sqrt(self.known * max(self.distinct, 1))
        return max(-1.0, min(1.0, tau))  # not 1 and a rounding error

    @property
    def accuracy(self) -> float:
        """Share of known pairs in the right order, equal scores counting half."""
        return (1 + self.balance / self.known) / 2 if self.known else float("nan")


def pair_counts(
    scores: ArrayLike, lengths: ArrayLike, censored: ArrayLike | None = None
) -> PairCounts:
    """Count pairs in O(n log n) for each different length at which responses were cut off.

    Args:
        scores: (n,) predictions, higher meaning longer.
        lengths: (n,) true lengths, lower bounds where censored.
        censored: (n,) which are lower bounds; none by default.

    Raises:
        InputError: a score is NaN, or the arguments differ in length.
    """
    s = np.asarray(scores, dtype=np.float64)
    y = np.asarray(lengths, dtype=np.float64)
    cut = np.zeros(len(y), dtype=bool) if censored is None else np.asarray(censored, dtype=bool)
    if not s.shape == y.shape == cut.shape or s.ndim != 1:
        raise InputError(f"There are {s.shape} scores for {y.shape} lengths: expected one each.")
    if np.isnan(s).any():
        raise InputError(
            f"{int(np.isnan(s).sum())} of {len(s)} scores are NaN: a predictor that does not know "
            "a prompt cannot be ranked on it; leave those prompts out."
        )
    pairs = len(s) * (len(s) - 1) // 2
    known, distinct = pairs - _ties(y), pairs - _ties(s)
    balance = 0
    if known and distinct:
        # The p-value is of no interest; its formula for many points divides by n - 2.
        method: Literal["asymptotic", "exact"] = "asymptotic" if len(s) > 2 else "exact"
        tau = float(kendalltau(s, y, method=method).statistic)
        balance = round(tau * float(np.sqrt(known) * np.sqrt(distinct)))
    # So far a cut-off response counts as ending at its cap: take out the pairs that assumed so.
    for cap in np.unique(y[cut]):
        mine = np.sort(s[cut & (y == cap)])
        longer, equal = s[y > cap], s[~cut & (y == cap)]
        above, below = _compare(longer, mine)
        balance -= above - below
        known -= len(mine) * len(longer)
        distinct -= above + below + sum(_compare(equal, mine))
        distinct -= len(mine) * (len(mine) - 1) // 2 - _ties(mine)
    return PairCounts(balance, known, distinct)


def _ties(values: Floats) -> int:
    _, counts = np.unique(values, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def _compare(values: Floats, ordered: Floats) -> tuple[int, int]:
    """Pairs (value, reference) with the value above, and below, the reference."""
    above = int(np.searchsorted(ordered, values, side="left").sum())
    not_below = int(np.searchsorted(ordered, values, side="right").sum())
    return above, len(values) * len(ordered) - not_below


def kendall_tau(scores: ArrayLike, lengths: ArrayLike, censored: ArrayLike | None = None) -> float:
    """Kendall's tau-b between scores and true lengths; arguments as in :func:`pair_counts`."""
    return pair_counts(scores, lengths, censored).tau


def pair_accuracy(
    scores: ArrayLike, lengths: ArrayLike, censored: ArrayLike | None = None
) -> float:
    """Share of known pairs in the right order; arguments as in :func:`pair_counts`."""
    return pair_counts(scores, lengths, censored).accuracy


def group_counts(
    scores: Floats, lengths: Floats, censored: Bools, group: Ints
) -> dict[int, tuple[int, PairCounts]]:
    """Number of items and pair counts of each group."""
    return {
        int(each): (int(mine.sum()), pair_counts(scores[mine], lengths[mine], censored[mine]))
        for each in np.unique(group)
        for mine in [group == each]
    }


def mean_over_groups(
    counts: dict[int, tuple[int, PairCounts]], metric: Callable[[PairCounts], float]
) -> float:
    """Mean of a metric over groups with known pairs, weighted by their items; NaN without any."""
    known = [(items, metric(each)) for items, each in counts.values() if each.known]
    if not known:
        return float("nan")
    weights, values = zip(*known, strict=True)
    return float(np.average(values, weights=weights))


def bootstrap(
    statistic: Callable[[Ints], Floats], prompt: Ints, resamples: int = 500, seed: int = 0
) -> tuple[Floats, Floats]:
    """95 % percentile interval of statistics, by drawing prompts with replacement.

    Args:
        statistic: from indices of items to an array of values; NaN where undefined.
        prompt: prompt of each item, (n,); items of one prompt are drawn together.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        Lower and upper ends, one per statistic; NaN where fewer than half the draws define it.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(prompt, kind="stable")
    _, start, count = np.unique(prompt[order], return_index=True, return_counts=True)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(len(start), size=len(start))
        sizes = count[drawn]
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        values.append(statistic(order[np.repeat(start[drawn], sizes) + offsets]))
    table = np.stack(values)
    low, high = np.full(table.shape[1], np.nan), np.full(table.shape[1], np.nan)
    enough = np.isfinite(table).sum(axis=0) * 2 >= resamples
    if enough.any():
        with np.errstate(invalid="ignore"):  # between two infinite values there is no number
            low[enough], high[enough] = np.nanpercentile(table[:, enough], [2.5, 97.5], axis=0)
    return low, high


def estimates(
    statistic: Callable[[Ints], Floats], prompt: Ints, resamples: int = 500, seed: int = 0
) -> list[Estimate]:
    """Each statistic over all items, with its bootstrap interval over prompts."""
    values = statistic(np.arange(len(prompt)))
    low, high = bootstrap(statistic, prompt, resamples, seed)
    ends = [
        (None if np.isnan(a) else float(a), None if np.isnan(b) else float(b))
        for a, b in zip(low, high, strict=True)
    ]
    return [Estimate(float(v), *each) for v, each in zip(values, ends, strict=True)]


def tau_and_accuracy(
    scores: Floats,
    lengths: Floats,
    censored: Bools,
    prompt: Ints,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """Tau-b and pair accuracy with bootstrap intervals over prompts."""

    def statistic(items: Ints) -> Floats:
        counts = pair_counts(scores[items], lengths[items], censored[items])
        return np.array([counts.tau, counts.accuracy])

    tau, accuracy = estimates(statistic, prompt, resamples, seed)
    return tau, accuracy


def noise_ceiling(
    table: LengthTable, resamples: int = 200, draws: int = 20, seed: int = 0
) -> tuple[Estimate, Estimate | None] | None:
    """How well another run of the same LLM orders the prompts: what rerun noise leaves to predict.

    A predictor of medians can pass the first of the two, for it has no noise of its own; the
    second allows for that.

    Args:
        table: items of one group, several samples each; items with one sample are left out.
        resamples: bootstrap draws of prompts.
        draws: random choices of samples, averaged over.
        seed: of all draws.

    Returns:
        Tau-b of one sample against another and, where items have three samples or more, of one
        sample against the median of the others; None without any item of two samples.
    """
    from pars_model.lengths import censored_median

    rng = np.random.default_rng(seed)
    items = np.flatnonzero(np.diff(table.sample_start) >= 2)
    if len(items) < 2:
        return None
    samples = [table.samples_of(item) for item in items]
    many = np.array([len(lengths) >= 3 for lengths, _ in samples])

    def draw() -> Floats:
        """One run, another run, whether it was cut off, median of the others, its censoring."""
        rows = []
        for lengths, censored in samples:
            one, other = rng.permutation(len(lengths))[:2]
            rest = np.arange(len(lengths)) != one
            median = censored_median(lengths[rest], censored[rest])
            rows.append((lengths[one], lengths[other], censored[other], *median))
        return np.array(rows)

    pool = [draw() for _ in range(draws)]

    def taus(run: Floats, chosen: Bools) -> Floats:
        rerun = kendall_tau(run[:, 0], run[:, 1], run[:, 2].astype(bool))
        rest = run[chosen]
        median = kendall_tau(rest[:, 0], rest[:, 3], rest[:, 4].astype(bool))
        return np.array([rerun, median])

    def resampled(drawn: Ints) -> Floats:
        return taus(pool[rng.integers(draws)][drawn], many[drawn])

    with_means = np.mean([taus(run, many) for run in pool], axis=0)
    if np.isnan(with_means[0]):
        return None
    low, high = bootstrap(resampled, table.prompt[items], resamples, seed)
    rerun, median = (
        Estimate(float(v), *(None if np.isnan(end) else float(end) for end in ends))
        for v, ends in zip(with_means, zip(low, high, strict=True), strict=True)
    )
    return rerun, None if np.isnan(median.value) else median
