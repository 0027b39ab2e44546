"""What the replays of a study cost, as tables."""

from __future__ import annotations

from collections import defaultdict
from typing import cast

from pars_bench.study.gains import BASE, PARS
from pars_bench.study.schema import StudyFile
from pars_bench.tables import NOTHING


def costs(study: StudyFile) -> str:
    """Time and memory by the length of a trace, and time by the length of the queue."""
    if not study["speed"]:
        return _by_queue(study)
    lines = [
        "Azure's conversation trace at its own pace on an H100, arrival order, each window in a "
        "process of its own.",
        "",
        "| requests | request-steps | processor time, s | scheduling, µs per request-step "
        "| peak memory, MiB |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cost['requests']} | {cost['request_steps']} | {cost['processor_s']:.0f} "
        f"| {cost['scheduling_us']:.1f} | {cost['peak_mib']:.0f} |"
        for cost in study["speed"]
    ]
    return "\n".join([*lines, "", _by_queue(study)])


def _by_queue(study: StudyFile) -> str:
    """Of the bursts: each step counts under the length that the queue had."""
    seconds: dict[tuple[str, int], float] = defaultdict(float)
    steps: dict[tuple[str, int], int] = defaultdict(int)
    for part in study["parts"]:
        if part["section"] != "burst":
            continue
        for run in part["report"]["runs"]:
            for each in cast(list[dict[str, float]], run["scheduler_cost"]["by_queue_depth"]):
                key = (run["policy"], int(each["waiting_below"]))
                steps[key] += int(each["request_steps"])
                seconds[key] += each["microseconds_per_request_step"] * each["request_steps"]
    lines = [
        "Processor time inside vLLM's scheduler, our queue included, per request and step, by the "
        "number of requests that wait; all bursts of the first table together.",
        "",
        "| waiting | arrival order, µs | PARS, µs |",
        "|---:|---:|---:|",
    ]
    for below in sorted({below for _, below in steps}):
        cells = " | ".join(
            f"{seconds[key] / steps[key]:.1f}" if steps[key] else NOTHING
            for key in ((BASE, below), (PARS, below))
        )
        least = below // 10 if below > 10 else 0
        lines.append(f"| {least} to {below - 1} | {cells} |")
    return "\n".join(lines)
