"""Made-up runs: a queue with a few slots and no engine. For tests of the report only."""

from __future__ import annotations

import heapq

import numpy as np

from pars_bench.arrivals import burst, poisson
from pars_bench.client import Answer
from pars_bench.live import OrderRun, PatternRun

SECONDS_PER_TOKEN = 0.05
SLOTS = 4


def synthetic_runs(
    requests: int = 80,
    seed: int = 0,
    policies: tuple[str, ...] = ("fcfs", "pars", "oracle", "prompt_length"),
) -> dict[str, OrderRun]:
    """Log-normal lengths; PARS sees them through noise, prompt length not at all."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(4.0, 1.2, requests).astype(int), 1, 512)
    scores = {
        "fcfs": np.arange(requests, dtype=float),
        "pars": lengths * generator.lognormal(0, 0.6, requests),
        "oracle": lengths.astype(float),
        "prompt_length": generator.random(requests),
    }
    rate = 1.3 * SLOTS / (SECONDS_PER_TOKEN * float(lengths.mean()))
    times = {"burst": burst(requests), "poisson": poisson(requests, rate, seed)}
    patterns = {
        policy: {
            name: PatternRun(
                answers=serve(lengths, arrivals, scores[policy]),
                client_lag_s=0.002,
                preemptions=0,
                load_average=(1.0, 1.5),
            )
            for name, arrivals in times.items()
        }
        for policy in policies
    }
    return {
        policy: OrderRun(
            digest="synthetic",
            rate=rate,
            capacity=patterns[policy]["burst"].capacity(SLOTS),
            seconds=1.0,
            measured_at="2026-01-02T03:04:05+00:00",
            patterns=patterns[policy],
            scorer=None if policy == "fcfs" else {"requests": 2 * requests, "scored": requests},
        )
        for policy in policies
    }


def serve(lengths: np.ndarray, arrivals: np.ndarray, scores: np.ndarray) -> list[Answer]:
    """Answers of a few slots that take the least score of those who wait."""
    slots = [0.0] * SLOTS
    waiting: list[tuple[float, int]] = []
    coming = list(range(lengths.size))
    started: dict[int, float] = {}
    while coming or waiting:
        free = heapq.heappop(slots)
        if not waiting:
            free = max(free, float(arrivals[coming[0]]))
        while coming and arrivals[coming[0]] <= free:
            heapq.heappush(waiting, (float(scores[coming[0]]), coming.pop(0)))
        _, index = heapq.heappop(waiting)
        started[index] = free
        heapq.heappush(slots, free + SECONDS_PER_TOKEN * float(lengths[index]))
    return [
        Answer(
            index=i,
            prompt_id=f"p{i}",
            kind="made up",
            arrival_s=float(arrivals[i]),
            send_lag_s=0.001,
            ttft=started[i] + SECONDS_PER_TOKEN - float(arrivals[i]),
            ttlt=started[i] + SECONDS_PER_TOKEN * float(lengths[i]) - float(arrivals[i]),
            tokens=int(lengths[i]),
            prompt_tokens=20,
            finish_reason="length" if lengths[i] == 512 else "stop",
            output_digest=f"{i:016x}",
        )
        for i in range(lengths.size)
    ]
