"""What `pars bench predictor` measured, as a page for the docs with its plots beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pars_bench.facts import flatten
from pars_bench.markdown import bullets
from pars_bench.predictor.floor_page import floor_sections
from pars_bench.predictor.goals import sentences
from pars_bench.predictor.grid import SMALL_ROUNDS, SMALL_TOKENS, TOKENS, TOKENS_LARGE
from pars_bench.predictor.memory_page import memory_sections
from pars_bench.predictor.pictures import write_pictures
from pars_bench.predictor.report import (
    PredictorReport,
    SpeedCell,
    burst_floor,
    cells_of,
    median_ms,
    milliseconds,
    prompts_named,
    quartiles,
    threads_named,
)
from pars_bench.predictor.speed import BURST_S
from pars_bench.predictor.tables import bold, by_length, number, spread
from pars_export.files import atomic_file
from pars_export.runtimes.openvino_engine import PLAN

_INTRODUCTION = """\
A contestant gets texts and gives scores, so its tokenizer counts; texts have an exact number of
tokens. All take turns in one process: a sample is the mean over calls for some {burst} ms, each of
{rounds} rounds has one of each (of {small_rounds} in calls of {small} tokens or fewer), and the
figures are medians, with quartiles in brackets. With one thread the time is CPU time, so that
nothing else on the machine counts, beyond what it takes of caches and memory; with more it is the
clock's. The process is bound to as many CPUs as it may have threads. Contestants named after a
folder are its runtimes. BERT-base (the paper's), OPT-125M (vllm-ltr's) and the Hugging Face
pipeline (of the first folder's encoder) have random weights: they tell time, not how well they
rank. Students read the first and last tokens of a long text alone, 64 in all unless their folder
says otherwise. The two large ones get up to {large:,} tokens a call, the others up to {tokens:,},
which a runtime may cut up (those of ONNX on a CPU into 512, OpenVINO's into {cut:,}). The lengths
are multiples of 16, to which `openvino` pads: of texts of mixed lengths the burst tells. Calls of
more take seconds: of them the folders' own runtimes alone have one sample each. Runtimes that need
a GPU take no part; `make test-gpu` tells their latency."""

_BURST = """\
The {prompts}, all ranked in one call, by what each folder is loaded with by default{int8}; loaded
anew each time, so that nothing is remembered of a prompt. The same clock as above."""

_FEW = """
Besides, {few} of them, evenly taken, were ranked in one call and in a call each: what batching
costs or gains a prompt where lengths are mixed."""

_ORDERS = """\
Kendall's tau-b between scores and lengths on the test prompts of the length table that ships with
the demonstration, with its 95 % interval (bootstrap over prompts). A predictor that learned from
these very prompts says nothing here of others: how [the default
predictor](../default-predictor.md) ranks prompts of sources that were left out is told there."""

_PARITY = """\
Scores of each engine beside those of the PyTorch network, as its export found and wrote into the
manifest: the largest difference, what is allowed of it, and Kendall's tau between the two; and by
how much a prompt's score differs at most between alone and in batches of others."""

_LOSSES = """\
Beside what each folder is loaded with by default, all that is faster anywhere, however it ranks."""

_CORES = """\
CPU time over time on the clock, of every sample. The process cannot run on more CPUs than it may
have threads, so this says whether they had their CPUs to themselves; that a predictor keeps to its
threads where there are more CPUs is a test of its own. A reading beyond that number is the clocks'
error in a short sample."""

ALONE = 0.95
"""Share of a sample in which the process ran, from which on nothing else disturbed it."""


def write_page(page: Path, report: PredictorReport) -> None:
    """Write ``page`` and its plots from the results alone."""
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = write_pictures(page, report)
    with atomic_file(page) as temporary:
        temporary.write_text(render(report, pictures), encoding="utf-8")


def render(report: PredictorReport, pictures: Sequence[tuple[str, str]]) -> str:
    """The whole page."""
    rounds = report["settings"]["rounds"]
    assert isinstance(rounds, int)
    parts = [
        "# What scoring a prompt costs",
        f"Made by `{report['settings']['command']}`; run it again to get your own numbers.",
        "\n".join(f"- {name}: {value}" for name, value in flatten(report["environment"])),
        "\n".join(f"- `{name}`: sha256 {sha}" for name, sha in report["predictors"].items()),
        _INTRODUCTION.format(
            rounds=rounds,
            small_rounds=SMALL_ROUNDS * rounds,
            small=SMALL_TOKENS,
            burst=round(BURST_S * 1e3),
            large=TOKENS_LARGE,
            tokens=TOKENS,
            cut=PLAN.tokens,
        ),
        "## What was wanted",
        bullets(sentences(report)),
        "## Time per prompt",
        *(f"![{caption}]({name})\n\n{caption}" for name, caption in pictures),
        *_speeds(report),
        *floor_sections(report),
        *memory_sections(report),
    ]
    for title, words, table in (
        ("A burst of prompts", _words_of_bursts(report), _bursts(report)),
        ("How well they rank", _ORDERS, _orders(report)),
        ("Engines beside the network", _PARITY, _parities(report)),
        ("Where something else is faster", _LOSSES, bullets(losses(report))),
        ("Whether the CPUs were free", _CORES, _cores(report)),
    ):
        parts += [f"## {title}", words, table]
    return "\n\n".join(parts) + "\n"


def losses(report: PredictorReport) -> list[str]:
    """Where another contestant takes less than what a folder is loaded with by default."""
    found = []
    for name, entry in report["contestants"].items():
        if not entry["auto"]:
            continue
        for other in report["contestants"]:
            cells = [
                (cell, theirs / mine)
                for cell in report["speed"]
                if other != name
                and (mine := median_ms(cell, name)) is not None
                and (theirs := median_ms(cell, other)) is not None
            ]
            faster = [(cell, ratio) for cell, ratio in cells if ratio < 1]
            if faster:
                cell, least = min(faster, key=lambda each: each[1])
                found.append(
                    f"{other} is faster than {name} in {len(faster)} of {len(cells)} shapes; it "
                    f"takes {least:.2f} of its time at best ({_shape(cell)})."
                )
    return found or ["Nowhere is anything faster than what a folder is loaded with by default."]


def _speeds(report: PredictorReport) -> Iterator[str]:
    for threads, batch in dict.fromkeys((c["threads"], c["batch"]) for c in report["speed"]):
        yield f"### {threads_named(threads).capitalize()}, batch {batch}: milliseconds a prompt"
        cells = cells_of(report, threads, batch)
        yield by_length(report, cells, lambda cell, name: spread(milliseconds(cell, name)))
    for threads in dict.fromkeys(cell["threads"] for cell in report["speed"]):
        yield f"### {threads_named(threads).capitalize()}: most prompts a second, at the best batch"
        yield _throughput(report, threads)


def _throughput(report: PredictorReport, threads: int) -> str:
    cells = cells_of(report, threads)
    firsts = [next(c for c in cells if c["length"] == n) for n in _lengths(cells)]

    def best(first: SpeedCell, name: str) -> str:
        found = [
            (1e3 / ms, cell["batch"])
            for cell in cells
            if cell["length"] == first["length"] and (ms := median_ms(cell, name)) is not None
        ]
        if not found:
            return ""
        speed, batch = max(found)
        return f"{number(speed)} ({batch})"

    return by_length(report, firsts, best)


def _words_of_bursts(report: PredictorReport) -> str:
    few = _few(report)
    took_part = {name for burst in report["bursts"] for name in burst["seconds"]}
    others = any(not report["contestants"][name]["auto"] for name in took_part)
    words = _BURST.format(
        prompts=prompts_named(report), int8=", and by `onnx-int8`" if others else ""
    )
    return words + (_FEW.format(few=few) if few else "")


def _few(report: PredictorReport) -> int:
    """Prompts that were ranked in two ways; 0 in results of before."""
    return max((burst["few"]["prompts"] for burst in report["bursts"] if "few" in burst), default=0)


def _bursts(report: PredictorReport) -> str:
    columns = ["threads", "prompts", "seconds", "floor, seconds"]
    few = _few(report)
    if few:
        columns += [f"ms a prompt, {few} in one call", "ms a prompt, one by one"]
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for burst in report["bursts"]:
        for name, seconds in burst["seconds"].items():
            floor = burst_floor(report, burst, name)
            cells = [
                bold(name, report["contestants"][name]["auto"]),
                str(burst["threads"]),
                f"{burst['prompts']:,}",
                spread(quartiles(seconds)),
                "" if floor is None else number(floor),
            ]
            if "few" in burst:
                each = 1e3 / burst["few"]["prompts"]
                cells += [
                    spread(quartiles([each * value for value in found[name]]))
                    for found in (burst["few"]["together"], burst["few"]["alone"])
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _orders(report: PredictorReport) -> str:
    lines = [
        "| | tau | 95 % interval | prompts |",
        "|---|---:|---:|---:|",
    ]
    for name, order in report["orders"].items():
        low, high = order["interval"]
        cells = [
            bold(name, report["contestants"][name]["auto"]),
            f"{order['tau']:.3f}{' (learned from these prompts)' if order['seen'] else ''}",
            "" if low is None or high is None else f"{low:.3f} to {high:.3f}",
            str(order["prompts"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _parities(report: PredictorReport) -> str:
    lines = [
        "| | difference | allowed | between batches | allowed | tau | prompts |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, entry in report["contestants"].items():
        parity = entry["parity"]
        if parity is not None:
            cells = [
                bold(name, entry["auto"]),
                f"{parity['max_abs_diff']:.2g}",
                f"{parity['bound']:.2g}",
                *(
                    f"{parity[key]:.2g}" if key in parity else ""
                    for key in ("batch_diff", "batch_bound")
                ),
                f"{parity['tau']:.4f}",
                f"{parity['prompts']:,}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cores(report: PredictorReport) -> str:
    lines = []
    for threads in dict.fromkeys(cell["threads"] for cell in report["speed"]):
        speeds = [
            (*speed["cores"], name)
            for cell in cells_of(report, threads)
            for name, speed in cell["speeds"].items()
            if name in report["contestants"]
        ]
        most, name = max((most, name) for _, most, name in speeds)
        said = f"at most {most:.2f} cores were busy in any sample ({name})"
        if threads == 1:
            alone = sum(least >= ALONE for least, _, _ in speeds)
            said += (
                f"; in {alone} of {len(speeds)} cells a contestant had its core to itself for at "
                f"least {ALONE:.0%} of every sample"
            )
        lines.append(f"{threads_named(threads).capitalize()}: {said}.")
    return bullets(lines)


def _lengths(cells: Sequence[SpeedCell]) -> list[int]:
    return list(dict.fromkeys(cell["length"] for cell in cells))


def _shape(cell: SpeedCell) -> str:
    return f"{cell['length']} tokens, batch {cell['batch']}, {threads_named(cell['threads'])}"
