"""The shape of report.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict, cast

from pars_export.errors import InputError

STATISTICS = ("mean", "p50", "p90", "p99", "max")


class Summary(TypedDict):
    """One measure over a run's requests, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class PriceFacts(TypedDict):
    """What an order costs those who wait longer for it (see ``measures.Price``)."""

    longest_tenth: float
    longest_tenth_ratio: float
    worst_slowdown: float | None
    slower_share: float


class RunFacts(TypedDict):
    """One order under one arrival pattern.

    ``ttlt_in_tokens``: ``measures.work_waited``; ``oracle_gap_closed_in_tokens``: the share on that
    clock. ``offered_load``: arriving requests per second over those that this very server finished
    in its burst while no slot was idle (``live.PatternRun.capacity``); in arrival order it is the
    load that was asked for; None in the burst. ``scorer``: the scheduler's own counters over the
    server's life; None where there is no scorer or it did not say.
    """

    policy: str
    arrivals: str
    requests: int
    ttft: Summary | None
    ttlt: Summary | None
    per_token: Summary | None
    tpot: Summary | None
    throughput: float
    oracle_gap_closed: float | None
    oracle_gap_closed_interval: list[float] | None
    ttlt_in_tokens: Summary | None
    oracle_gap_closed_in_tokens: float | None
    offered_load: float | None
    scorer: dict[str, int] | None
    response_tokens: int
    makespan: float
    cut_share: float
    preemptions: int | None
    price: PriceFacts
    order_tau: float | None
    same_text_as_fcfs: float
    send_lag_max_s: float
    client_lag_s: float
    load_average: list[float]


class Report(TypedDict):
    """The whole file."""

    environment: dict[str, object]
    predictor: dict[str, object]
    runs: list[RunFacts]


def read_report(path: Path) -> Report:
    """Read report.json.

    Raises:
        InputError: there is no such file, or it is not a report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: run `pars bench serving` first") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): run `pars bench serving` again") from error
    missing = set(Report.__annotations__) - set(report if isinstance(report, dict) else ())
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}: it is not a serving report")
    return cast(Report, report)


def find(report: Report, policy: str, arrivals: str) -> RunFacts | None:
    """The run of an order under a pattern, if it was measured."""
    for run in report["runs"]:
        if run["policy"] == policy and run["arrivals"] == arrivals:
            return run
    return None


def patterns_of(report: Report) -> list[str]:
    """Arrival patterns in the order in which they were measured."""
    return list(dict.fromkeys(run["arrivals"] for run in report["runs"]))


def policies_of(report: Report) -> list[str]:
    """Orders in the order in which they were measured."""
    return list(dict.fromkeys(run["policy"] for run in report["runs"]))
