"""The same work done in several ways, taking turns: a busy machine slows all of them alike.

A *sample* is the mean cost of one call over a short burst of calls, in microseconds. In every round
each contestant gives one sample, and the round's first place goes round. Time is the calling
thread's own CPU time, system calls included: nothing that is measured waits, and what other
processes do meanwhile is not its cost. The garbage collector is off during a burst, as in
:mod:`timeit`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypedDict

import numpy as np

from pars_bench.collector import no_collection

OURS, FCFS, PRIORITY = "ours", "fcfs", "priority"

Samples = Mapping[str, list[float]]
"""Contestant -> one sample a round, microseconds."""


class Case(TypedDict):
    """What one operation costs; None where stock vLLM has no such operation."""

    operation: str
    waiting: int
    """Requests in the waiting queue."""
    ours_us: float
    """Median over the rounds, microseconds; so are the next two."""
    fcfs_us: float | None
    priority_us: float | None
    ratio_fcfs: float | None
    """ours_us / fcfs_us."""
    ratio_priority: float | None
    """ours_us / priority_us."""
    rounds: int
    ours_us_quartiles: tuple[float, float]
    """First and third quartile over the rounds; so are the next four."""
    fcfs_us_quartiles: tuple[float, float] | None
    priority_us_quartiles: tuple[float, float] | None
    ratio_fcfs_quartiles: tuple[float, float] | None
    """Of the ratios inside one round."""
    ratio_priority_quartiles: tuple[float, float] | None


class Stopwatch:
    """Adds up the CPU time that this thread spends inside :meth:`running`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what is inside; the garbage collector waits."""
        with no_collection():
            start = time.thread_time()
            try:
                yield
            finally:
                self.seconds += time.thread_time() - start

    def each(self, calls: int) -> float:
        """Microseconds of one of ``calls`` calls."""
        return self.seconds / calls * 1e6


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """One sample of each contestant a round; the first round only warms up and is left out."""
    names = list(contestants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            sample = contestants[name]()
            if turn:
                samples[name].append(sample)
    return samples


def case_of(operation: str, waiting: int, samples: Samples) -> Case:
    """Medians, ratios and their spread."""
    ours = np.array(samples[OURS])
    fcfs = np.array(samples[FCFS]) if FCFS in samples else None
    priority = np.array(samples[PRIORITY]) if PRIORITY in samples else None
    return {
        "operation": operation,
        "waiting": waiting,
        "ours_us": float(np.median(ours)),
        "fcfs_us": None if fcfs is None else float(np.median(fcfs)),
        "priority_us": None if priority is None else float(np.median(priority)),
        # Inside a round the machine is the same; from round to round it is not.
        "ratio_fcfs": None if fcfs is None else float(np.median(ours / fcfs)),
        "ratio_priority": None if priority is None else float(np.median(ours / priority)),
        "rounds": len(ours),
        "ours_us_quartiles": _quartiles(ours),
        "fcfs_us_quartiles": None if fcfs is None else _quartiles(fcfs),
        "priority_us_quartiles": None if priority is None else _quartiles(priority),
        "ratio_fcfs_quartiles": None if fcfs is None else _quartiles(ours / fcfs),
        "ratio_priority_quartiles": None if priority is None else _quartiles(ours / priority),
    }


def _quartiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)
