"""What a benchmark's rows say: latencies, throughput, and who gained and who paid.

Arrays hold one value per request. Where two orders are compared, both arrays list the *same*
requests in the same order, so that a request is compared with itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pars_bench.schema import Summary

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
DECILES = 10


@dataclass(frozen=True)
class Latencies:
    """One run's rows as columns; latencies in seconds from the intended arrival."""

    arrival: Array
    ttft: Array
    """Time to first token."""
    ttlt: Array
    """Time to last token."""
    tokens: Array
    """Response tokens, at least 1."""

    @property
    def per_token(self) -> Array:
        """Time to last token over response tokens, seconds per token."""
        return self.ttlt / self.tokens

    @property
    def tpot(self) -> Array:
        """Time per output token after the first; only of responses with two tokens or more."""
        many = self.tokens > 1
        return (self.ttlt[many] - self.ttft[many]) / (self.tokens[many] - 1)

    @property
    def makespan(self) -> float:
        """Seconds from the first arrival to the last token of all."""
        return float((self.arrival + self.ttlt).max() - self.arrival.min())

    @property
    def throughput(self) -> float:
        """Response tokens per second over the makespan."""
        return float(self.tokens.sum() / self.makespan)


def work_waited(run: Latencies) -> Array:
    """Each request's time to last token on a clock that ticks with every delivered token.

    The clock counts the response tokens that the server delivered to anybody between the request's
    arrival and its last token. A machine that is slower for a while slows this clock too: in a
    burst, where the work is the same for every order, it compares orders and not minutes. Tokens
    between a request's first and last are taken as evenly spaced.

    Returns:
        Tokens, shape (n,).
    """
    first, last = run.arrival + run.ttft, run.arrival + run.ttlt
    many = last > first
    rates = (run.tokens[many] - 1) / (last[many] - first[many])
    # Between a first and a last token the clock gains that request's rate, and loses it after.
    times = np.concatenate((first[many], last[many]))
    changes = np.concatenate((rates, -rates))
    order = np.argsort(times)
    times, slopes = times[order], np.cumsum(changes[order])
    ticks = (
        np.concatenate(([0.0], np.cumsum(slopes[:-1] * np.diff(times)))) if times.size else times
    )
    starts = np.sort(first)

    def clock(moments: Array) -> Array:
        begun = np.searchsorted(starts, moments, side="right").astype(np.float64)
        return begun + np.interp(moments, times, ticks) if times.size else begun

    return clock(last) - clock(run.arrival)


def summary(values: Array) -> Summary | None:
    """Mean, p50, p90, p99 (linear interpolation) and maximum; None of nothing."""
    if values.size == 0:
        return None
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        "mean": float(values.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": float(values.max()),
    }


@dataclass(frozen=True)
class Gap:
    """Share of the way from arrival order to the oracle, in mean time to last token."""

    closed: float
    """0: no better than arrival order; 1: as good as the oracle."""
    interval: tuple[float, float]
    """Bootstrap 95 % interval over requests."""


def oracle_gap(
    fcfs: Array, order: Array, oracle: Array, seed: int = 0, resamples: int = RESAMPLES
) -> Gap | None:
    """``(fcfs - order) / (fcfs - oracle)`` of mean time to last token.

    The bootstrap draws requests, each with its three latencies. It knows how far the figure hangs
    on which requests were drawn, not how much a second run of the same requests would differ.

    Args:
        fcfs: Times to last token in arrival order, shape (n,).
        order: Those of the same requests in the order that is judged, shape (n,).
        oracle: Those of the same requests in the oracle's order, shape (n,).
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        None where the 95 % interval of ``fcfs - oracle`` includes zero or lies below it: there is
        no gap to close.
    """
    gains, most = fcfs - order, fcfs - oracle
    gain, possible = np.empty(resamples), np.empty(resamples)
    generator = np.random.default_rng(seed)
    for sample in range(resamples):  # one at a time: all at once would fill the memory
        drawn = generator.integers(fcfs.size, size=fcfs.size)
        gain[sample], possible[sample] = gains[drawn].mean(), most[drawn].mean()
    lower, _ = _interval(possible)
    if lower <= 0.0:
        return None
    return Gap(float(gains.mean() / most.mean()), _interval(gain / possible))


def _interval(values: Array) -> tuple[float, float]:
    tail = 100 * (1 - LEVEL) / 2
    lower, upper = np.percentile(values, (tail, 100 - tail))
    return float(lower), float(upper)


def deciles_by_length(lengths: Array) -> NDArray[np.int64]:
    """Decile of each request, 0 (shortest) to 9 (longest), as equal in size as can be.

    Ties are split by place, so that ten equal groups remain where many answers have one length.
    """
    ranks = np.empty(lengths.size, dtype=np.int64)
    ranks[np.argsort(lengths, kind="stable")] = np.arange(lengths.size)
    return np.minimum(ranks * DECILES // max(lengths.size, 1), DECILES - 1)


def decile_means(values: Array, deciles: NDArray[np.int64]) -> list[float | None]:
    """Mean of ``values`` in each of the ten deciles; None where a decile is empty."""
    groups = [values[deciles == decile] for decile in range(DECILES)]
    return [float(group.mean()) if group.size else None for group in groups]


@dataclass(frozen=True)
class Price:
    """What an order costs those who wait longer for it."""

    longest_tenth: float
    """Mean time to last token of the longest tenth of the responses, in seconds."""
    longest_tenth_ratio: float
    """The same over arrival order's: above 1, the longest pay."""
    worst_slowdown: float | None
    """Largest time to last token in units of the time its tokens alone would take; None where
    whole answers came at once, so that a token took no time."""
    slower_share: float
    """Share of requests that end later than in arrival order."""


def price(fcfs: Array, order: Array, lengths: Array, seconds_per_token: float) -> Price:
    """Compare each request's time to last token with its own in arrival order.

    Args:
        fcfs: Times to last token in arrival order, shape (n,).
        order: Those of the same requests in the other order, shape (n,).
        lengths: Response tokens of the same requests in arrival order, shape (n,).
        seconds_per_token: Decoding time of one token (arrival order's median TPOT), 0 or more.
    """
    # A tenth, rounded up: of few requests it is one, where the last decile may be empty.
    longest = np.argsort(lengths, kind="stable")[-math.ceil(lengths.size / DECILES) :]
    return Price(
        longest_tenth=float(order[longest].mean()),
        longest_tenth_ratio=float(order[longest].mean() / fcfs[longest].mean()),
        worst_slowdown=(
            float((order / (lengths * seconds_per_token)).max()) if seconds_per_token > 0 else None
        ),
        slower_share=float((order > fcfs).mean()),
    )


def tau_interval(
    first: Array, second: Array, seed: int = 0, resamples: int = 200
) -> tuple[float, tuple[float, float]] | None:
    """Kendall's tau-b of two rankings of the same items, and its bootstrap 95 % interval.

    Args:
        first: Values of one ranking, shape (n,).
        second: Values of the other, shape (n,).
        seed: Seed of the bootstrap, which draws items.
        resamples: Number of bootstrap samples.

    Returns:
        None where a ranking is constant, holds a NaN or has fewer than two values.
    """
    from scipy.stats import kendalltau

    tau = float(kendalltau(first, second).statistic) if first.size > 1 else float("nan")
    if not np.isfinite(tau):
        return None
    draws = np.random.default_rng(seed).integers(first.size, size=(resamples, first.size))
    taus = np.asarray([kendalltau(first[draw], second[draw]).statistic for draw in draws])
    return tau, _interval(taus[np.isfinite(taus)])
