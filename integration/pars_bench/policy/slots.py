"""A server reduced to its queue: some slots, a token a step each, and the real waiting order.

No prefill, no KV cache, no batch effects: what is left is the order itself,
``pars_vllm.order.WaitingOrder``, so that thousands of hours of load take seconds.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pars_vllm.order import WaitingOrder
from pars_vllm.policy import Policy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Requests in order of arrival, one value each."""

    arrivals: Array
    """Step of arrival, increasing."""
    lengths: Array
    """Steps of service: response tokens, 1 or more."""


def draw_traffic(
    rng: np.random.Generator,
    requests: int,
    slots: int,
    load: float | None,
    median: float = 150.0,
    spread: float = 1.0,
) -> Traffic:
    """Log-normal lengths; Poisson arrivals at ``load`` (1 keeps all slots busy), None for a burst.

    Args:
        rng: Source of randomness.
        requests: How many.
        slots: Requests that run at once.
        load: Arriving work over the server's, or None: all arrive at step 0.
        median: Median length in tokens.
        spread: Standard deviation of its logarithm.
    """
    lengths = np.ceil(median * np.exp(spread * rng.standard_normal(requests)))
    if load is None:
        return Traffic(np.zeros(requests), lengths)
    mean = median * math.exp(spread * spread / 2)
    gaps = rng.exponential(mean / (slots * load), size=requests)
    return Traffic(np.cumsum(gaps), lengths)


def expectations(
    rng: np.random.Generator, lengths: Array, tau: float, median: float = 150.0, spread: float = 1.0
) -> Array:
    """Calibrated expected lengths of a predictor with this Kendall tau.

    Its score is the length times log-normal noise. Logarithms of length and score are then jointly
    normal with correlation ``sin(pi tau / 2)``, and the expectation of the length given the score
    is what a calibrated predictor says.
    """
    correlation = math.sin(math.pi * tau / 2)
    noise = spread * math.sqrt(1 / correlation**2 - 1)
    scores = np.log(lengths / median) + noise * rng.standard_normal(lengths.size)
    left = spread * math.sqrt(1 - correlation**2)
    return np.asarray(median * np.exp(correlation**2 * scores + left * left / 2))


@dataclass(eq=False, slots=True)
class _Request:
    index: int
    running: bool = field(default=False)


def serve(traffic: Traffic, slots: int, policy: Policy, expected: Array | None) -> Array:
    """Latency of each request in steps, from arrival to last token.

    Args:
        traffic: The requests.
        slots: Requests that run at once.
        policy: The order's settings.
        expected: Expected length of each request; None for arrival order.
    """
    order: WaitingOrder[_Request] = WaitingOrder(policy, lambda request: request.running)
    running: list[float] = []  # when each slot is free again
    ends = np.zeros(traffic.lengths.size)
    arrivals, lengths = traffic.arrivals.tolist(), traffic.lengths.tolist()
    works = expected.tolist() if expected is not None else None
    arrived = 0
    while arrived < len(arrivals) or order:
        # Whoever waits does so because every slot is taken.
        free = running[0] if order else math.inf
        comes = arrivals[arrived] if arrived < len(arrivals) else math.inf
        now = min(free, comes)
        while running and running[0] <= now:
            heapq.heappop(running)
        order.begin(now)
        while arrived < len(arrivals) and arrivals[arrived] <= now:
            order.add(str(arrived), _Request(arrived))
            if works is not None:
                order.rescore(str(arrived), works[arrived])
            arrived += 1
        while order and len(running) < slots:
            request = order.pop()
            request.running = True
            ends[request.index] = now + lengths[request.index]
            heapq.heappush(running, ends[request.index])
        order.end()
    return ends - traffic.arrivals
