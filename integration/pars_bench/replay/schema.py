"""The shape of a replay's report.json."""

from __future__ import annotations

from typing import TypedDict

from pars_bench.schema import Summary


class Decile(TypedDict):
    """A tenth of the requests by response length, the shortest first."""

    fewest_tokens: int
    most_tokens: int
    ttlt: float
    """Mean seconds to the last token."""
    slowdown: float
    """Mean of latency over the time that the request takes alone."""


class Attainment(TypedDict):
    """Share of requests within a limit."""

    measure: str
    limit_s: float
    share: float


class ReplayRun(TypedDict):
    """One order at one load with one seed; times in seconds, of the virtual clock."""

    policy: str
    load: float
    """How many times as densely as in the traffic the requests arrived."""
    seed: int
    scores: dict[str, object] | None
    """Where the order's expected lengths come from, with their ``tau``; None without any."""
    requests: int
    output_tokens: int
    steps: int
    ttft: Summary | None
    ttlt: Summary | None
    per_token: Summary | None
    tpot: Summary | None
    slowdown: Summary | None
    slowdown_by_decile: list[Decile]
    throughput: float
    """Output tokens per second from the first arrival to the last token."""
    makespan: float
    mean_queue: float
    """Mean number of requests that waited, over the makespan."""
    queue_depth: list[list[float]]
    """At most 500 points ``[seconds, most requests that waited from there to the next point]``."""
    preemptions: int
    recomputed_tokens: int
    wasted_tokens: int
    cached_tokens: int
    slo: list[Attainment]
    oracle_gap_closed: float | None
    oracle_gap_closed_interval: list[float] | None
    scheduler_cost: dict[str, object]


class OverSeeds(TypedDict):
    """One order at one load over several seeds."""

    policy: str
    load: float
    seeds: int
    ttlt: list[float]
    """Mean time to last token: mean over the seeds, least, greatest."""
    oracle_gap_closed: list[float] | None
    """The same of the share of the gap; None where a seed has none."""


class ReplayReport(TypedDict):
    """The whole file."""

    environment: dict[str, object]
    traffic: dict[str, object]
    """Of the first seed; what other seeds have otherwise stands under ``by_seed`` for each."""
    cost_model: dict[str, object]
    runs: list[ReplayRun]
    over_seeds: list[OverSeeds]
