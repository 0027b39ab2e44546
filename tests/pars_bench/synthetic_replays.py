"""Made-up replays: a queue with a few slots, no scheduler of vLLM. For tests of the page only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_runs import SECONDS_PER_TOKEN, SLOTS, serve

from pars_bench.arrivals import poisson
from pars_bench.measures import Latencies, deciles_by_length, oracle_gap, summary
from pars_bench.replay.results import queue_depth
from pars_bench.replay.schema import ReplayReport, ReplayRun

POLICIES = (
    "fcfs",
    "prompt_length",
    "pars@tau=0.5",
    "oracle",
    "hrrn@tau=0.5",
    "vllm_priority@tau=0.5",
)


def write_synthetic(
    folder: Path,
    policies: tuple[str, ...] = POLICIES,
    loads: tuple[float, ...] = (0.7, 1.0, 1.3),
    seeds: tuple[int, ...] = (0, 1),
    requests: int = 300,
) -> ReplayReport:
    """Write report.json and requests.parquet; load 1 is what arrival order can just serve."""
    runs: list[dict[str, Any]] = []
    tables = []
    for load in loads:
        for seed in seeds:
            latencies = {
                policy: _latencies(policy, load, seed, requests) for policy in (*policies, "oracle")
            }
            for policy in policies:
                own = latencies[policy]
                runs.append(
                    _run(policy, load, seed, own, latencies.get("fcfs"), latencies["oracle"])
                )
                tables.append(_table(policy, load, seed, own))
    pq.write_table(pa.concat_tables(tables), folder / "requests.parquet")
    report: dict[str, Any] = {
        "environment": {"settings": {"engine": "none: synthetic"}},
        "traffic": {"name": "synthetic", "kept": "all of it", "rate": 1.0},
        "cost_model": {"kind": "synthetic", "seconds_per_token": SECONDS_PER_TOKEN},
        "runs": runs,
        "over_seeds": [],
    }
    (folder / "report.json").write_text(json.dumps(report, allow_nan=False))
    return cast(ReplayReport, report)


def _latencies(policy: str, load: float, seed: int, requests: int) -> Latencies:
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.5, 1.1, requests).astype(int), 1, 512)
    noisy = lengths * random.lognormal(0, 0.8, requests)
    rate = load * SLOTS / (SECONDS_PER_TOKEN * float(lengths.mean()))
    scores = {
        "fcfs": np.arange(requests, dtype=float),
        "prompt_length": random.random(requests),
        "oracle": lengths.astype(float),
    }
    answers = serve(lengths, poisson(requests, rate, seed), scores.get(policy, noisy))
    columns = (
        [each.arrival_s for each in answers],
        [each.ttft for each in answers],
        [each.ttlt for each in answers],
        [each.tokens for each in answers],
    )
    return Latencies(*(np.asarray(column, dtype=np.float64) for column in columns))


def _run(
    policy: str,
    load: float,
    seed: int,
    own: Latencies,
    fcfs: Latencies | None,
    oracle: Latencies,
) -> dict[str, Any]:
    slowdown = own.ttlt / (own.tokens * SECONDS_PER_TOKEN)
    deciles = deciles_by_length(own.tokens)
    gap = None if fcfs is None else oracle_gap(fcfs.ttlt, own.ttlt, oracle.ttlt, resamples=200)
    run: dict[str, Any] = {
        "policy": policy,
        "load": load,
        "seed": seed,
        "scores": {"kind": "score model", "wanted_tau": 0.5, "tau": 0.49}
        if "@" in policy
        else None,
        "requests": own.tokens.size,
        "output_tokens": int(own.tokens.sum()),
        "steps": int(own.tokens.sum() / SLOTS),
        "ttft": summary(own.ttft),
        "ttlt": summary(own.ttlt),
        "per_token": summary(own.per_token),
        "tpot": summary(own.tpot),
        "slowdown": summary(slowdown),
        "slowdown_by_decile": [
            {
                "fewest_tokens": int(own.tokens[deciles == tenth].min()),
                "most_tokens": int(own.tokens[deciles == tenth].max()),
                "ttlt": float(own.ttlt[deciles == tenth].mean()),
                "slowdown": float(slowdown[deciles == tenth].mean()),
            }
            for tenth in np.unique(deciles)
        ],
        "throughput": own.throughput,
        "makespan": own.makespan,
        "mean_queue": float(own.ttft.sum()) / own.makespan,
        "queue_depth": queue_depth(own.arrival, own.arrival + own.ttft),
        "preemptions": 0,
        "recomputed_tokens": 0,
        "wasted_tokens": 0,
        "cached_tokens": 0,
        "slo": [{"measure": "ttft", "limit_s": 5.0, "share": float((own.ttft <= 5).mean())}],
        "oracle_gap_closed": gap and gap.closed,
        "oracle_gap_closed_interval": gap and list(gap.interval),
        "scheduler_cost": {},
    }
    assert set(run) == set(ReplayRun.__annotations__)
    return run


def _table(policy: str, load: float, seed: int, own: Latencies) -> pa.Table:
    count = own.tokens.size
    return pa.table(
        {
            "policy": [policy] * count,
            "load": [load] * count,
            "seed": [seed] * count,
            "request": np.arange(count),
            "arrival_s": own.arrival,
            "prompt_tokens": np.full(count, 20),
            "output_tokens": own.tokens.astype(np.int64),
            "ttft_s": own.ttft,
            "ttlt_s": own.ttlt,
            "queued_s": own.ttft,
            "preemptions": np.zeros(count, dtype=np.int64),
            "tenant": [""] * count,
        }
    )
