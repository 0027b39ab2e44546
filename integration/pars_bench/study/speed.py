"""What the replay itself costs: processor time and memory by the length of a trace."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict, cast

from pars_bench.progress import Progress
from pars_bench.replay.cells import Cell, load_facts, run_cell
from pars_bench.replay.plan import ReplayConfig, make_sweep
from pars_bench.replay.sweep import quiet_vllm
from pars_bench.study.design import LLM


class Cost(TypedDict):
    """Of one replay in a process of its own."""

    requests: int
    request_steps: int
    """Requests over all steps."""
    processor_s: float
    scheduling_us: float
    """Processor time inside vLLM's scheduler per request and step."""
    peak_mib: float
    """Most resident memory of the process."""


def measure(trace: Path, windows: tuple[int | None, ...], out: Path, say: Progress) -> list[Cost]:
    """Replay windows of a trace in arrival order at its own pace; finished ones are kept.

    Args:
        trace: The trace.
        windows: Lengths in requests; None is the whole trace.
        out: Folder of the results.
        say: Told of each window.
    """
    costs = []
    for window in windows:
        config = ReplayConfig(trace, llm=LLM, orders=("fcfs",), max_requests=window)
        (cell,) = make_sweep(config).cells()
        if load_facts(cell.path(out), cell.digest) is None:
            say.say(f"memory and time of {window or 'all'} requests")
            # Spawned: the memory of a process that did nothing else.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(_run, cell, out).result()
        costs.append(_cost(cell, out))
    return costs


def _run(cell: Cell, out: Path) -> None:
    quiet_vllm()
    run_cell(cell, out, lambda _done, _total: None)


def _cost(cell: Cell, out: Path) -> Cost:
    import pyarrow.parquet as pq

    facts = load_facts(cell.path(out), cell.digest)
    assert facts is not None
    scheduler = cast(dict[str, float], facts["scheduler_cost"])
    return {
        "requests": pq.read_metadata(cell.path(out)).num_rows,
        "request_steps": cast(int, facts["request_steps"]),
        "processor_s": scheduler["replay_processor_s"],
        "scheduling_us": scheduler["microseconds_per_request_step"],
        "peak_mib": scheduler["process_peak_mib"],
    }
