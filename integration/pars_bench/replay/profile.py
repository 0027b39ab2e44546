"""What a stream of requests is like, in one pass and a memory that does not grow with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pars_bench.replay.stream import TrafficRequest


@dataclass(frozen=True)
class Profile:
    """Counts, pace and lengths of a stream."""

    requests: int
    duration_s: float
    """From the first arrival to the last."""
    gap_cv: float | None
    """Standard deviation of the gaps between arrivals over their mean: 1 for Poisson, more where
    requests come in bursts. None where there is no gap."""
    prompt_tokens: dict[str, float]
    """``mean``, ``p50``, ``p99`` and ``max``."""
    output_tokens: dict[str, float]
    texts: int
    """Requests whose prompt is known as text."""
    reruns: int
    """Requests with the length of another response."""
    tenants: dict[str, int]
    """Requests by tenant; empty where no request has one."""

    @property
    def rate(self) -> float | None:
        """Requests per second; None where all arrive at once, or within a nanosecond."""
        return (self.requests - 1) / self.duration_s if self.duration_s > 1e-9 else None

    def facts(self) -> dict[str, object]:
        """As plain JSON; parts that say nothing are left out."""
        pace = {"duration_s": self.duration_s, "rate": self.rate, "gap_cv": self.gap_cv}
        return {
            "requests": self.requests,
            **({} if self.rate is None else pace),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            **({"with_text": self.texts} if self.texts else {}),
            **({"with_rerun": self.reruns} if self.reruns else {}),
            **({"tenants": self.tenants} if self.tenants else {}),
        }


def profile(requests: Iterable[TrafficRequest]) -> Profile:
    """Read a stream to its end. Memory: one count per different length and tenant."""
    count = texts = reruns = 0
    squares = last = 0.0
    prompts: Counter[int] = Counter()
    outputs: Counter[int] = Counter()
    tenants: Counter[str] = Counter()
    for request in requests:
        if count:
            squares += (request.arrival_s - last) ** 2
        last = request.arrival_s
        count += 1
        prompts[request.prompt_tokens] += 1
        outputs[request.output_tokens] += 1
        texts += request.prompt is not None
        reruns += request.rerun_tokens is not None
        if request.tenant:
            tenants[request.tenant] += 1
    return Profile(
        requests=count,
        duration_s=last,
        gap_cv=_cv(last, squares, count - 1) if last > 0 else None,
        prompt_tokens=_lengths(prompts, count),
        output_tokens=_lengths(outputs, count),
        texts=texts,
        reruns=reruns,
        tenants=dict(sorted(tenants.items())),
    )


def _cv(total: float, squares: float, count: int) -> float:
    mean = total / count
    return math.sqrt(max(squares / count - mean * mean, 0.0)) / mean


def _lengths(counts: Counter[int], total: int) -> dict[str, float]:
    if not total:
        return {}
    values = sorted(counts)
    return {
        "mean": sum(value * counts[value] for value in values) / total,
        "p50": _quantile(values, counts, math.ceil(0.5 * total)),
        "p99": _quantile(values, counts, math.ceil(0.99 * total)),
        "max": values[-1],
    }


def _quantile(values: list[int], counts: Counter[int], rank: int) -> int:
    for value in values:
        rank -= counts[value]
        if rank <= 0:
            return value
    return values[-1]
