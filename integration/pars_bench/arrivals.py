"""When requests arrive: all at once, or at random at a given rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pattern = Literal["burst", "poisson"]
PATTERNS: tuple[Pattern, ...] = ("burst", "poisson")


def burst(requests: int) -> NDArray[np.float64]:
    """Arrival times in seconds, all zero: a queue forms at once and only drains."""
    return np.zeros(requests)


def poisson(requests: int, rate: float, seed: int) -> NDArray[np.float64]:
    """Arrival times in seconds of a Poisson process of ``rate`` requests per second, from 0 on.

    Raises:
        ValueError: ``rate`` is not a positive number.
    """
    if not (rate > 0 and np.isfinite(rate)):
        raise ValueError(f"a Poisson rate must be a positive number, found {rate}")
    gaps = np.random.default_rng([seed, 1]).exponential(1.0 / rate, size=requests)
    times = np.cumsum(gaps)
    return np.asarray(times - times[:1])  # the measurement starts with the first request


def submission_order(prompts: int, requests: int, seed: int) -> NDArray[np.int64]:
    """Which prompts are sent, and in which order: ``requests`` of them, without replacement.

    A prompt file is sorted by what its prompts ask for; the traffic that it stands for is not.
    """
    return np.random.default_rng([seed, 0]).permutation(prompts)[:requests]


def renewal(rate: float, cv: float, seed: int, block: int = 4096) -> Iterator[float]:
    """Arrival times in seconds without end, from 0 on: gamma gaps of mean ``1 / rate``.

    Args:
        rate: Requests per second.
        cv: Standard deviation of the gaps over their mean. 1 is a Poisson process, the very one of
            :func:`poisson`; above 1 requests come in bursts.
        seed: Of the random numbers.
        block: How many gaps are drawn at a time; changes nothing.

    Raises:
        ValueError: ``rate`` or ``cv`` is not a positive number.
    """
    for name, value in (("rate", rate), ("coefficient of variation", cv)):
        if not (value > 0 and np.isfinite(value)):
            raise ValueError(f"a {name} of arrivals must be a positive number, found {value}")
    return _renewal(rate, cv, np.random.default_rng([seed, 1]), block)


def _renewal(rate: float, cv: float, random: np.random.Generator, block: int) -> Iterator[float]:
    shape = cv**-2
    scale = 1.0 / (rate * shape)
    time = 0.0
    gaps = random.gamma(shape, scale, size=block)[1:]  # the measurement starts with a request
    yield time
    while True:
        for gap in gaps.tolist():
            time += gap
            yield time
        gaps = random.gamma(shape, scale, size=block)
