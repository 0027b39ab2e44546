"""Measured runs become report.json and requests.parquet, the report's only sources."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pars_bench.environment import describe_machine
from pars_bench.live import OrderRun, PatternRun
from pars_bench.measures import (
    Array,
    Latencies,
    oracle_gap,
    price,
    summary,
    tau_interval,
    work_waited,
)
from pars_bench.schema import PriceFacts, Report, RunFacts
from pars_export.files import atomic_file

TIMED_PROMPTS = 100


def write_results(
    out: Path,
    runs: Mapping[str, OrderRun],
    settings: Mapping[str, object],
    predictor: Mapping[str, object],
) -> Report:
    """Write both files into ``out`` and return the content of report.json.

    Args:
        out: Folder of the results.
        runs: By policy; ``fcfs`` is among them. All answer the same prompts in the same order.
        settings: Of the benchmark; goes into ``environment``.
        predictor: Facts about the predictor: tau, interval, ceiling, milliseconds, ...
    """
    report: Report = {
        "environment": {
            **describe_machine(),
            "settings": dict(settings),
            "seconds": {policy: run.seconds for policy, run in runs.items()},
            "measured_at": {policy: run.measured_at for policy, run in runs.items()},
        },
        "predictor": dict(predictor),
        "runs": [
            _facts(policy, pattern, runs) for pattern in runs["fcfs"].patterns for policy in runs
        ],
    }
    _write_rows(out / "requests.parquet", runs)
    with atomic_file(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    return report


def _facts(policy: str, pattern: str, runs: Mapping[str, OrderRun]) -> RunFacts:
    run, fcfs = runs[policy].patterns[pattern], runs["fcfs"].patterns[pattern]
    own, base = _latencies(run), _latencies(fcfs)
    oracle = runs["oracle"].patterns[pattern] if "oracle" in runs else None
    gap = work_gap = None
    if oracle is not None:
        best = _latencies(oracle)
        gap = oracle_gap(base.ttlt, own.ttlt, best.ttlt)
        work_gap = oracle_gap(work_waited(base), work_waited(own), work_waited(best))
    order_tau = tau_interval(own.tokens, own.ttft)
    answers = run.answers
    return {
        "policy": policy,
        "arrivals": pattern,
        "requests": len(answers),
        "ttft": summary(own.ttft),
        "ttlt": summary(own.ttlt),
        "per_token": summary(own.per_token),
        "tpot": summary(own.tpot),
        "throughput": own.throughput,
        "oracle_gap_closed": None if gap is None else gap.closed,
        "oracle_gap_closed_interval": None if gap is None else list(gap.interval),
        "ttlt_in_tokens": summary(work_waited(own)),
        "oracle_gap_closed_in_tokens": None if work_gap is None else work_gap.closed,
        "offered_load": _offered_load(runs[policy], pattern),
        "scorer": runs[policy].scorer,
        "response_tokens": int(own.tokens.sum()),
        "makespan": own.makespan,
        "cut_share": float(np.mean([answer.finish_reason == "length" for answer in answers])),
        "preemptions": run.preemptions,
        "price": _price_facts(base, own),
        # How far the engine really started the short ones first: 1 would be strictly by length.
        "order_tau": None if order_tau is None else order_tau[0],
        "same_text_as_fcfs": float(
            np.mean(
                [
                    a.output_digest == b.output_digest
                    for a, b in zip(answers, fcfs.answers, strict=True)
                ]
            )
        ),
        "send_lag_max_s": max(answer.send_lag_s for answer in answers),
        "client_lag_s": run.client_lag_s,
        "load_average": list(run.load_average),
    }


def _offered_load(run: OrderRun, pattern: str) -> float | None:
    if pattern == "burst":
        return None
    return run.rate / run.capacity


def _price_facts(fcfs: Latencies, order: Latencies) -> PriceFacts:
    pace = float(np.median(fcfs.tpot)) if fcfs.tpot.size else 0.0
    cost = price(fcfs.ttlt, order.ttlt, fcfs.tokens, pace)
    return {
        "longest_tenth": cost.longest_tenth,
        "longest_tenth_ratio": cost.longest_tenth_ratio,
        "worst_slowdown": cost.worst_slowdown,
        "slower_share": cost.slower_share,
    }


def _latencies(run: PatternRun) -> Latencies:
    def column(name: str) -> Array:
        return np.asarray([getattr(answer, name) for answer in run.answers], dtype=np.float64)

    return Latencies(column("arrival_s"), column("ttft"), column("ttlt"), column("tokens"))


def _write_rows(path: Path, runs: Mapping[str, OrderRun]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "policy": policy,
            "arrivals": pattern,
            "request_id": f"{policy}-{pattern}-{answer.index:05d}",
            **asdict(answer),
        }
        for policy, run in runs.items()
        for pattern, patterns in run.patterns.items()
        for answer in patterns.answers
    ]
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def predictor_facts(
    folder: Path, texts: Sequence[str], lengths: Sequence[int]
) -> dict[str, object]:
    """Tau of a predictor on the served prompts, and the milliseconds that a prompt takes it.

    Args:
        folder: Predictor folder.
        texts: What the predictor reads, one per served prompt.
        lengths: Response tokens of the same prompts, measured in arrival order.

    Returns:
        ``tau`` and its ``interval``; ``ceiling`` is None, for it needs repeated samples;
        ``milliseconds`` of one prompt alone, the mean over up to 100 prompts after a warm-up.
    """
    from pars_export import Predictor
    from pars_export.artifact import folder_sha256

    predictor = Predictor.load(folder)
    scores = predictor.score(list(texts))
    timed = list(texts[:TIMED_PROMPTS])
    start = time.perf_counter()
    for text in timed:
        predictor.score([text])
    milliseconds = 1000 * (time.perf_counter() - start) / len(timed)
    found = tau_interval(
        np.asarray(scores, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    )
    tau, interval = (None, None) if found is None else (found[0], list(found[1]))
    return {
        "tau": tau,
        "interval": interval,
        "ceiling": None,
        "milliseconds": milliseconds,
        "served_tau": tau,
        "served_interval": interval,
        "served_prompts": len(texts),
        "sha256": folder_sha256(folder),
    }
