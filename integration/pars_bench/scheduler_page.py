"""What `pars bench scheduler` measured, as a page for the docs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pars_bench.facts import flatten
from pars_bench.scheduler import SchedulerReport
from pars_bench.sidebyside import Case
from pars_export.files import atomic_file

GOAL_WAITING = 10_000
GOAL_SCHEDULE = 1.05
"""Most that a ``schedule()`` call may cost, as a multiple of stock FCFS, at GOAL_WAITING."""

_INTRODUCTION = """\
Microseconds of one call: the median of the rounds, and in brackets the quartiles. The three take
turns in one run. A ratio is ours over stock's inside one round: the median of all rounds, and the
quartiles; below 1, ours is faster. It is CPU time of the engine's thread, so the machine's other
work does not count, though it does disturb caches. The garbage collector is off meanwhile, and what
vLLM does between two steps, as freeing requests that are over, is not in it.

- `add`, `pop`, `remove`, `set aside`, `re-score`: one operation on the waiting queue alone. Stock
  vLLM never scores again. Stock's priority queue gets the expected work as the clients' priority.
  What cannot run yet, as its grammar is still compiled, is popped and put back in every step.
- `lose all scores`: once for each loss of the scorer process, for all that wait.
- `schedule`: a whole `schedule()` call of vLLM's scheduler with its KV cache manager. 256 requests
  run; on average every response has 300 tokens; as one ends, the next is admitted and a new one
  arrives, whose score comes in from a live scorer process. Every request becomes urgent once, as
  in an overload that lasts. Where the queue is long, scores are taken every dozen steps. Requests
  lie in memory at random, for all three alike. It has eight times the rounds of the rest.
- `add_request`: what a new request with that many prompt tokens costs the engine, the hand-over to
  the scorer process included."""


def write_page(page: Path, report: SchedulerReport, command: str) -> None:
    """Write ``page``; ``command`` made ``report``."""
    with atomic_file(page) as temporary:
        temporary.write_text(render(report, command), encoding="utf-8")


def render(report: SchedulerReport, command: str) -> str:
    """The whole page."""
    parts = [
        "# What ordering costs the engine",
        f"Made by `{command}`; run it again to get your own numbers.",
        "\n".join(f"- {name}: {value}" for name, value in flatten(report["environment"])),
        _INTRODUCTION,
    ]
    reached = _reached(report["cases"])
    if reached:
        parts += ["## What was wanted", reached]
    for waiting in dict.fromkeys(case["waiting"] for case in report["cases"]):
        parts.append(f"## {waiting:,} waiting")
        parts.append(_table([case for case in report["cases"] if case["waiting"] == waiting]))
    parts += ["## Where it costs more", _losses(report["cases"])]
    return "\n\n".join(parts) + "\n"


def _reached(cases: list[Case]) -> str:
    lines = []
    for case in cases:
        if case["waiting"] != GOAL_WAITING:
            continue
        if case["operation"] == "schedule" and case["ratio_fcfs"] is not None:
            lines.append(
                f"- A `schedule()` call within {GOAL_SCHEDULE} of stock FCFS at {GOAL_WAITING:,} "
                f"waiting: {_verdict(case, 'ratio_fcfs', GOAL_SCHEDULE)}, "
                f"{_ratio(case['ratio_fcfs'], case['ratio_fcfs_quartiles'])}; against stock's own "
                "priority queue, which admits in much the same order, "
                f"{_ratio(case['ratio_priority'], case['ratio_priority_quartiles'])}."
            )
        if case["operation"] == "remove" and case["ratio_priority"] is not None:
            lines.append(
                f"- Removal faster than in stock's priority queue at {GOAL_WAITING:,} waiting: "
                f"{_verdict(case, 'ratio_priority', 1.0)}, "
                f"{_ratio(case['ratio_priority'], case['ratio_priority_quartiles'])}."
            )
    return "\n".join(lines)


def _verdict(case: Case, name: Literal["ratio_fcfs", "ratio_priority"], goal: float) -> str:
    """Reached or missed only where the median's 95 % interval lies wholly on one side.

    Of a normal, the median's standard error is 0.93 quartile distances over the root of the rounds.
    """
    ratio = case[name]
    quartiles = case["ratio_fcfs_quartiles" if name == "ratio_fcfs" else "ratio_priority_quartiles"]
    assert ratio is not None
    assert quartiles is not None
    low, high = quartiles
    half = 1.96 * 0.93 * (high - low) / math.sqrt(case["rounds"])
    if abs(ratio - goal) < half:
        return f"not decided by {case['rounds']} rounds (the median is known to {half:.2g})"
    return "reached" if ratio <= goal else "missed"


def _losses(cases: list[Case]) -> str:
    lines = []
    for case in cases:
        if case["fcfs_us"] is not None and case["ours_us"] > case["fcfs_us"]:
            more = case["ours_us"] - case["fcfs_us"]
            lines.append(
                f"- `{case['operation']}` with {case['waiting']:,} waiting: {_us(more)} µs more "
                f"than stock FCFS."
            )
    return "\n".join(lines) if lines else "Nowhere against stock FCFS."


def _table(cases: list[Case]) -> str:
    lines = [
        "| operation | ours | stock FCFS | stock priority | over FCFS | over priority |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        cells = [
            f"`{case['operation']}`",
            _time(case["ours_us"], case["ours_us_quartiles"]),
            _time(case["fcfs_us"], case["fcfs_us_quartiles"]),
            _time(case["priority_us"], case["priority_us_quartiles"]),
            _ratio(case["ratio_fcfs"], case["ratio_fcfs_quartiles"]),
            _ratio(case["ratio_priority"], case["ratio_priority_quartiles"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _time(median: float | None, quartiles: tuple[float, float] | None) -> str:
    if median is None or quartiles is None:
        return "none"
    return f"{_us(median)} ({_us(quartiles[0])} to {_us(quartiles[1])})"


def _ratio(median: float | None, quartiles: tuple[float, float] | None) -> str:
    if median is None or quartiles is None:
        return "none"
    return f"{median:.3g} ({quartiles[0]:.3g} to {quartiles[1]:.3g})"


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
