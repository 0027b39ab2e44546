"""What a predictor takes to load, and of memory: a section of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from pars_bench.predictor.grid import START_PROMPTS
from pars_bench.predictor.report import PredictorReport, prompts_named, quartiles, threads_named
from pars_bench.predictor.tables import bold, spread

_LOADING = """\
From nothing to able to score, one thread: interpreter, imports, check of every file's hash,
weights. Files are in the system's cache, so a process waits for nothing but its turn: what the
clock says beyond the CPU time went to whatever else ran. Resident is the memory in use then; the
peak is after scoring {count} {prompts} in one call and then all of them as one text."""

_MEMORY = """\
The most memory in a call, in MiB: of a process of its own for each contestant, which scored all
shapes of up to so many tokens a call one after another, the small ones first. What libraries keep
of smaller calls is in it, as in a process that serves. Where several shapes have as many tokens, it
is the largest of theirs; a place is empty where a contestant takes no part. Encoders cut texts at
{longest} tokens here, whatever their folder says."""


def memory_sections(report: PredictorReport) -> Iterator[str]:
    """Title, words and tables."""
    yield "## Load time and memory"
    yield _LOADING.format(count=START_PROMPTS, prompts=prompts_named(report))
    yield _starts(report)
    yield from _memories(report)


def _starts(report: PredictorReport) -> str:
    lines = [
        "| | CPU seconds | on the clock | resident, MiB | peak, MiB | imports |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, starts in report["starts"].items():
        cells = [
            bold(name, report["contestants"][name]["auto"]),
            spread(quartiles(starts["cpu_seconds"])),
            spread(quartiles(starts["seconds"])),
            _memory(starts["resident_mib"]),
            _memory(starts["peak_mib"]),
            ", ".join(starts["imported"]) or "none of these",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _memory(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):,.0f}" if known else "not known here"


def _memories(report: PredictorReport) -> Iterator[str]:
    cells = report.get("memory", [])
    if not cells:
        return
    yield "### Memory by the size of a call"
    yield _MEMORY.format(longest=max(cell["length"] for cell in cells))
    for threads in dict.fromkeys(cell["threads"] for cell in cells):
        mine = [cell for cell in cells if cell["threads"] == threads]
        sizes = list(dict.fromkeys(cell["length"] * cell["batch"] for cell in mine))
        lines = [
            f"| {threads_named(threads)}, tokens a call | {' | '.join(f'{n:,}' for n in sizes)} |",
            f"|---|{'---:|' * len(sizes)}",
        ]
        for name, entry in report["contestants"].items():
            shown = [
                _largest(
                    cell["peak_mib"][name]
                    for cell in mine
                    if cell["length"] * cell["batch"] == size and name in cell["peak_mib"]
                )
                for size in sizes
            ]
            lines.append(f"| {bold(name, entry['auto'])} | {' | '.join(shown)} |")
        yield "\n".join(lines)


def _largest(values: Iterable[float | None]) -> str:
    """Of some MiB; nothing of none."""
    found = list(values)
    known = [value for value in found if value is not None]
    return f"{max(known):,.0f}" if known else "not known here" * bool(found)
