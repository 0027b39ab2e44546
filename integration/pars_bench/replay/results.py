"""Finished cells become report.json and requests.parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pars_bench.environment import describe_machine
from pars_bench.measures import Array, Latencies, deciles_by_length, oracle_gap, summary
from pars_bench.replay.cells import Cell, load_facts
from pars_bench.replay.record import ConservationError
from pars_bench.replay.schema import Attainment, Decile, OverSeeds, ReplayReport, ReplayRun
from pars_bench.replay.traffic import Traffic
from pars_export.files import atomic_file

# Columns that only the measures need.
_INTERNAL = ("cached_tokens", "service_s")
_MOST_POINTS = 500
"""Of the queue's depth over time."""


@dataclass(frozen=True)
class _Rows:
    """What the measures read of a cell's rows."""

    latencies: Latencies
    prompt: NDArray[np.int64]
    queued_s: Array
    """From each arrival to the first admission."""
    service_s: Array
    preemptions: int
    cached: int


def write_results(out: Path, cells: Sequence[Cell], report: ReplayReport) -> None:
    """Write ``requests.parquet``, the cells' rows one after another, and ``report.json``."""
    _write_rows(out, cells)
    with atomic_file(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def report_of(
    out: Path,
    cells: Sequence[Cell],
    traffics: Mapping[int, Traffic],
    settings: Mapping[str, object],
    limits: Mapping[str, float],
) -> ReplayReport:
    """What finished cells say.

    Args:
        out: Folder of the results.
        cells: Finished cells.
        traffics: By seed. The report has the facts of the first, and of all seeds those that
            differ.
        settings: Goes into ``environment``.
        limits: Seconds by measure (``ttft``, ``ttlt``, ``per_token``, ``tpot``).

    Raises:
        ConservationError: two orders did not answer the same requests with the same tokens.
    """
    runs: list[ReplayRun] = []
    groups: dict[tuple[float, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.load, cell.seed), []).append(cell)
    for group in groups.values():
        runs += _runs(out, group, limits)
    return {
        "environment": {**describe_machine(), "settings": dict(settings)},
        "traffic": _traffic(traffics),
        "cost_model": cells[0].setting.step_time.facts(),
        "runs": runs,
        "over_seeds": _over_seeds(runs),
    }


def _traffic(traffics: Mapping[int, Traffic]) -> dict[str, object]:
    first, *others = traffics.values()
    names = [
        name
        for name, value in first.facts.items()
        if any(other.facts.get(name) != value for other in others)
    ]
    seeds = {
        str(seed): {name: traffic.facts.get(name) for name in names}
        for seed, traffic in traffics.items()
    }
    return {"name": first.name, **first.facts, **({"by_seed": seeds} if names else {})}


def _runs(out: Path, group: Sequence[Cell], limits: Mapping[str, float]) -> list[ReplayRun]:
    rows = {cell.order.name: _read(cell.path(out)) for cell in group}
    _check_conserved(group, rows)
    kinds = {cell.order.kind: cell.order.name for cell in group}
    fcfs, oracle = (
        rows[kinds[kind]].latencies.ttlt if kind in kinds else None for kind in ("fcfs", "oracle")
    )
    found = []
    for cell in group:
        own = rows[cell.order.name]
        facts = load_facts(cell.path(out), cell.digest)
        assert facts is not None
        gap = None
        if fcfs is not None and oracle is not None:
            gap = oracle_gap(fcfs, own.latencies.ttlt, oracle)
        run = _measures(own, limits)
        run.update(
            policy=cell.order.name,
            load=cell.load,
            seed=cell.seed,
            oracle_gap_closed=None if gap is None else gap.closed,
            oracle_gap_closed_interval=None if gap is None else list(gap.interval),
        )
        for name in ("scores", "steps", "recomputed_tokens", "wasted_tokens", "scheduler_cost"):
            run[name] = facts[name]
        found.append(cast(ReplayRun, {key: run[key] for key in ReplayRun.__annotations__}))
    return found


def _measures(rows: _Rows, limits: Mapping[str, float]) -> dict[str, Any]:
    own = rows.latencies
    slowdown = own.ttlt / rows.service_s
    return {
        "requests": int(own.tokens.size),
        "output_tokens": int(own.tokens.sum()),
        "ttft": summary(own.ttft),
        "ttlt": summary(own.ttlt),
        "per_token": summary(own.per_token),
        "tpot": summary(own.tpot),
        "slowdown": summary(slowdown),
        "slowdown_by_decile": _deciles(own, slowdown),
        "throughput": own.throughput,
        "makespan": own.makespan,
        # By Little's law: what all of them waited, over the time.
        "mean_queue": float(rows.queued_s.sum()) / own.makespan,
        "queue_depth": queue_depth(own.arrival, own.arrival + rows.queued_s),
        "preemptions": rows.preemptions,
        "cached_tokens": rows.cached,
        "slo": [_attainment(own, name, limit) for name, limit in limits.items()],
    }


def queue_depth(arrival: Array, admitted: Array) -> list[list[float]]:
    """Requests that wait, over time.

    Args:
        arrival: Seconds, shape (n,).
        admitted: Seconds at which each of them ran for the first time, shape (n,).

    Returns:
        At most 500 points ``[seconds, requests]``, each the most that waited from there to the
        next one. The last one is where the queue is empty for good.
    """
    times, places = np.unique(np.concatenate((arrival, admitted)), return_inverse=True)
    changes = np.repeat((1.0, -1.0), arrival.size)
    depths = np.cumsum(np.bincount(places, changes, times.size))
    if times.size > _MOST_POINTS:
        spans = np.linspace(times[0], times[-1], _MOST_POINTS)
        before = np.searchsorted(times, spans, side="right") - 1  # what holds where a span begins
        most = depths[before]
        np.maximum.at(most, np.searchsorted(spans, times, side="right") - 1, depths)
        times, depths = spans, most
    return np.column_stack((times, depths)).tolist()  # type: ignore[no-any-return]


def _deciles(own: Latencies, slowdown: Array) -> list[Decile]:
    deciles = deciles_by_length(own.tokens)
    found: list[Decile] = []
    for decile in range(int(deciles.max()) + 1):
        inside = deciles == decile
        if inside.any():
            found.append(
                {
                    "fewest_tokens": int(own.tokens[inside].min()),
                    "most_tokens": int(own.tokens[inside].max()),
                    "ttlt": float(own.ttlt[inside].mean()),
                    "slowdown": float(slowdown[inside].mean()),
                }
            )
    return found


def _attainment(own: Latencies, measure: str, limit: float) -> Attainment:
    values: Array = getattr(own, measure)
    share = float((values <= limit).mean()) if values.size else 1.0
    return {"measure": measure, "limit_s": limit, "share": share}


def _read(path: Path) -> _Rows:
    import pyarrow.parquet as pq

    table = pq.read_table(path)

    def column(name: str) -> Array:
        return np.asarray(table[name].to_numpy(), dtype=np.float64)

    latencies = Latencies(
        column("arrival_s"), column("ttft_s"), column("ttlt_s"), column("output_tokens")
    )
    return _Rows(
        latencies,
        table["prompt_tokens"].to_numpy(),
        column("queued_s"),
        column("service_s"),
        int(column("preemptions").sum()),
        int(column("cached_tokens").sum()),
    )


def _check_conserved(group: Sequence[Cell], rows: Mapping[str, _Rows]) -> None:
    base = rows[group[0].order.name]
    for cell in group[1:]:
        own = rows[cell.order.name]
        same = (
            np.array_equal(own.latencies.tokens, base.latencies.tokens)
            and np.array_equal(own.prompt, base.prompt)
            and np.array_equal(own.latencies.arrival, base.latencies.arrival)
        )
        if not same:
            raise ConservationError(
                f"{cell.name} answered {own.latencies.tokens.size} requests with "
                f"{own.latencies.tokens.sum():.0f} tokens, and {group[0].name} "
                f"{base.latencies.tokens.size} with {base.latencies.tokens.sum():.0f}: they must "
                "be the same requests."
            )


def _over_seeds(runs: Sequence[ReplayRun]) -> list[OverSeeds]:
    groups: dict[tuple[str, float], list[ReplayRun]] = {}
    for run in runs:
        groups.setdefault((run["policy"], run["load"]), []).append(run)
    found: list[OverSeeds] = []
    for (policy, load), group in groups.items():
        if len(group) < 2:
            continue
        gaps = [run["oracle_gap_closed"] for run in group]
        known = [gap for gap in gaps if gap is not None]
        found.append(
            {
                "policy": policy,
                "load": load,
                "seeds": len(group),
                "ttlt": _spread([run["ttlt"]["mean"] for run in group if run["ttlt"]]),
                "oracle_gap_closed": _spread(known) if len(known) == len(gaps) else None,
            }
        )
    return found


def _spread(values: Sequence[float]) -> list[float]:
    return [float(np.mean(values)), min(values), max(values)]


def _write_rows(out: Path, cells: Sequence[Cell]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_file(out / "requests.parquet") as temporary:
        writer = None
        for cell in cells:
            table = pq.read_table(cell.path(out)).drop_columns(list(_INTERNAL))
            for name in ("policy", "tenant"):
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, table[name].cast(pa.string()))
            table = table.replace_schema_metadata(None)
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
