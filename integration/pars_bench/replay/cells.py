"""One cell of a sweep: an order at a load with a seed, run once and kept as one file."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pars_bench.environment import memory_mib
from pars_bench.replay.columns import Columns, read_columns
from pars_bench.replay.costmodel import Array, StepTime, alone_s
from pars_bench.replay.engine import EngineOptions, make_engine
from pars_bench.replay.policies import Beliefs, Order, beliefs
from pars_bench.replay.scorer import ScorerSpeed, VirtualScorer
from pars_bench.replay.traffic import Traffic
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from vllm.v1.request import Request

    from pars_bench.replay.driver import Clock
    from pars_bench.replay.record import Record
    from pars_vllm.scheduler import ParsScheduler

CELL_FORMAT = 2
"""Raised whenever the meaning of a stored cell changes: older ones are then run again."""
_METADATA = b"pars.replay.cell"


@dataclass(frozen=True)
class Setting:
    """What all cells of a sweep share."""

    engine: EngineOptions
    step_time: StepTime
    speed: ScorerSpeed
    pars: Mapping[str, object] = field(default_factory=dict)
    """More of ``additional_config["pars"]``: patience, share, prefill_weight."""

    def facts(self) -> dict[str, object]:
        """Everything that a cell's result depends on; plain JSON."""
        return {
            "engine": asdict(self.engine),
            "step_time": self.step_time.facts(),
            "scorer": asdict(self.speed),
            "pars": dict(self.pars),
        }


@dataclass(frozen=True)
class Cell:
    """One order at one load."""

    setting: Setting
    traffic: Traffic
    """At this load already."""
    order: Order
    load: float
    seed: int
    digest: str
    """Of everything that the result depends on."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.order.name}, load {self.load:g}, seed {self.seed}"

    def path(self, out: Path) -> Path:
        """Where its result is kept."""
        return out / "cells" / f"{self.digest[:24]}.parquet"


def digest_of(facts: Mapping[str, object]) -> str:
    """sha256 of plain JSON."""
    text = json.dumps({"format": CELL_FORMAT, **facts}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_cell(cell: Cell, out: Path, progress: Callable[[int, int], None]) -> None:
    """Run one cell and keep its result.

    Args:
        cell: The cell.
        out: Folder of the results.
        progress: Called with finished requests and all of them.

    Raises:
        ParsError: the traffic does not fit the engine or the order, or the run is not sound.
    """
    started = time.process_time()
    columns = read_columns(cell.traffic, cell.setting.engine)
    expected = beliefs(cell.order, columns, cell.traffic, cell.seed)
    record = replay(cell, columns, expected, progress)
    record.check()
    _save(cell, record, expected, time.process_time() - started, cell.path(out))


def replay(
    cell: Cell,
    columns: Columns,
    expected: Beliefs | None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Record:
    """Drive the scheduler through the cell's traffic; nothing is written."""
    from pars_bench.replay.driver import Clock, Driver
    from pars_bench.replay.record import Record
    from pars_bench.replay.requests import RequestMaker

    setting, clock, record = cell.setting, Clock(), Record(columns)
    scheduler = _scheduler(cell, expected, clock, columns)
    priority: Callable[[int], int] = lambda _index: 0  # noqa: E731
    if cell.order.kind == "vllm_priority":
        assert expected is not None
        priorities = np.rint(expected.guessed).astype(np.int64)
        priority = lambda index: int(priorities[index])  # noqa: E731
    driver = Driver(
        scheduler=scheduler,
        arrivals=iter(cell.traffic),
        step_time=setting.step_time,
        maker=RequestMaker(setting.engine, cell.traffic.block_tokens),
        record=record,
        clock=clock,
        priority=priority,
        on_finish=lambda done: progress(done, len(columns)),
    )
    if not gc.get_freeze_count():
        # For the life of the process: vLLM's modules need not be looked through again and again,
        # be it inside a run or between runs.
        gc.collect()
        gc.freeze()
    try:
        return driver.run()
    finally:
        scheduler.shutdown()
        del driver, scheduler
        gc.collect()


def _scheduler(
    cell: Cell, expected: Beliefs | None, clock: Clock, columns: Columns
) -> ParsScheduler:
    """ParsScheduler for the cell's order; with its ranking off where the order is another's."""
    setting, kind = cell.setting, cell.order.kind
    if kind in ("fcfs", "hrrn", "vllm_priority"):
        policy = "priority" if kind == "vllm_priority" else "fcfs"
        scheduler = make_engine(setting.engine, {"ranking": "off"}, policy)
        if kind == "hrrn":
            from pars_bench.replay.hrrn import HrrnQueue

            assert expected is not None
            service = _service(setting, columns, expected.guessed)

            def service_s(request: Request) -> float:
                return float(service[int(request.request_id)])

            scheduler.waiting = HrrnQueue(clock, service_s)
        return scheduler
    assert expected is not None
    scorer = VirtualScorer(setting.speed, clock, lambda name: expected.of(int(name)))
    pars = {"predictor": cell.order.name, **setting.pars}
    if kind != "pars":
        # What PARS is compared with keeps its order, however badly it predicts lengths.
        pars["min_concordance"] = 0
    return make_engine(setting.engine, pars, scores=scorer)


def _service(setting: Setting, columns: Columns, output: Array) -> Array:
    prompt = columns.prompt_tokens.astype(np.float64)
    engine = setting.engine
    return alone_s(
        setting.step_time,
        prompt,
        np.maximum(output, 1.0),
        engine.max_num_batched_tokens,
        engine.asynchronous,
    )


def _save(
    cell: Cell, record: Record, expected: Beliefs | None, processor_s: float, path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = record.columns
    count, arrival = len(columns), columns.arrival_s
    output = columns.output_tokens.astype(np.float64)
    tenants = pa.DictionaryArray.from_arrays(columns.tenant, list(columns.tenants))
    table = pa.table(
        {
            "policy": pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [cell.order.name]),
            "load": np.full(count, cell.load),
            "seed": np.full(count, cell.seed, dtype=np.int64),
            "request": np.arange(count),
            "arrival_s": arrival,
            "prompt_tokens": columns.prompt_tokens,
            "output_tokens": columns.output_tokens,
            "ttft_s": record.first_token_s - arrival,
            "ttlt_s": record.last_token_s - arrival,
            "queued_s": record.admitted_s - arrival,
            "preemptions": record.preemptions,
            "cached_tokens": record.cached_tokens,
            "service_s": _service(cell.setting, columns, output),
            "tenant": tenants,
        }
    )
    facts = {
        "digest": cell.digest,
        "policy": cell.order.name,
        "load": cell.load,
        "seed": cell.seed,
        "scores": None if expected is None else expected.facts,
        "steps": record.steps,
        "request_steps": record.request_steps,
        "recomputed_tokens": record.recomputed_tokens,
        "wasted_tokens": record.wasted,
        "scheduler_cost": {"replay_processor_s": processor_s, **_cost(record)},
    }
    table = table.replace_schema_metadata({_METADATA: json.dumps(facts, allow_nan=False)})
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary)


def _cost(record: Record) -> dict[str, object]:
    """Processor time of a request in a step, how it grows with the queue, and memory."""
    return {
        # Of the process so far: of a cell of its own where it was the first.
        "process_peak_mib": memory_mib("VmHWM"),
        "processor_s": record.scheduling_s,
        "microseconds_per_request_step": 1e6 * record.scheduling_s / record.request_steps,
        "by_queue_depth": [
            {
                "waiting_below": 10**digits,
                "request_steps": cost.request_steps,
                "microseconds_per_request_step": 1e6 * cost.seconds / cost.request_steps,
            }
            for digits, cost in sorted(record.costs.items())
        ],
    }


def load_facts(path: Path, digest: str) -> dict[str, object] | None:
    """What a finished cell's file says of its run; None if there is no such cell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = (pq.read_schema(path).metadata or {}).get(_METADATA)
        facts = json.loads(stored) if stored else {}
    except (FileNotFoundError, ValueError, pa.ArrowException):
        return None
    return facts if isinstance(facts, dict) and facts.get("digest") == digest else None
