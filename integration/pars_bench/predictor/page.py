"""What `pars bench predictor` measured, as a page for the docs with its plots beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from pars_bench.facts import flatten
from pars_bench.markdown import bullets
from pars_bench.predictor.goals import sentences
from pars_bench.predictor.grid import START_PROMPTS, TOKENS, TOKENS_LARGE
from pars_bench.predictor.pictures import write_pictures
from pars_bench.predictor.rates import DOT_PRODUCTS, SIZE
from pars_bench.predictor.report import (
    PredictorReport,
    SpeedCell,
    burst_floor,
    cells_of,
    median_ms,
    milliseconds,
    ours,
    over_floor,
    over_floor_by_parts,
    over_floor_of_products,
    prompts_named,
    quartiles,
    rates_measured,
    rates_of,
    threads_named,
    work_of,
)
from pars_bench.predictor.speed import BURST_S
from pars_export.files import atomic_file

_INTRODUCTION = """\
A contestant gets texts and gives scores, so its tokenizer counts; texts have an exact number of
tokens. All take turns in one process: a sample is the mean over calls for some {burst} ms, each of
{rounds} rounds has one of each, and the figures are medians, with quartiles in brackets. With one
thread the time is CPU time, so that nothing else on the machine counts, beyond what it takes of
caches and memory; with more it is the clock's. The process is bound to as many CPUs as it may have
threads. Contestants named after a folder are its runtimes. BERT-base (the paper's), OPT-125M
(vllm-ltr's) and the Hugging Face pipeline (of the first folder's encoder) have random weights: they
tell time, not how well they rank. Students read the first and last tokens of a long text alone, 64
in all unless their folder says otherwise. The two large ones get up to {large:,} tokens a call, the
others up to {tokens:,}, which a runtime may cut up (those of ONNX on a CPU into 512). Calls of more
take seconds: of them the folders' own runtimes alone have one sample each. Runtimes that need a GPU
take no part; `make test-gpu` tells their latency."""

_FLOOR = """\
The floor is the time for the matrix products alone, each at the rate of its precision that this
machine reached in the same rounds, or the time for reading the weights once a call at the rate of a
copy in memory, whichever is longer. The rate is that of the fastest of {libraries} on matrices of
{size} by {size} and of the encoder's own products by themselves. Rows in italics tell what keeps an
engine from it: its products with weights alone, by onnxruntime at the engine's own shapes, over
what they would take at the rate of large matrices{ceilings}.
`onnx-int8` has its products with weights in int8{spared} and those of attention in float32;
`onnx-bf16` computes in float32. OpenVINO chooses its precision: where the CPU multiplies bfloat16
it may stand below the floor, which is float32's. Calls of more tokens than all take turns in have
no floor here, for no products were measured beside them.
{instructions}
Everything else (normalisation, softmax, activation functions, rounding, the tokenizer) is what a
runtime pays on top."""

_CEILINGS = """\
;
and its own time with those products at the floor's rate (as they are, where that is faster), first
with rounding for nothing and then as it is, all else as its own nodes and the tokenizer take it: an
engine made of the same other nodes takes no less"""

_PARTS = """\
Of a call, batch {batch}, {threads}: milliseconds a prompt, and the share of the call. The shares
are those of the engine's own nodes in onnxruntime's profile, which was taken of the same file in
the same shape, in turns with calls without one; the milliseconds are these shares of the time
above. A profile takes some time for itself at each node: what the shortest took, which does next
to nothing ({surplus} microseconds), is taken off all. After that the first quartiles of the nodes
sum up to {slower} times what a call without a profile, the tokenizer and Python left out, takes in
the median. That has onnxruntime's way from node to node in it, which is shared out among the nodes:
less than 1 is as it should be. More than 1 says that something else ran, which the profile's clock
does not leave out, and which makes long nodes longer than short ones. Rounding is all that int8
adds to a product: scales of the inputs, rounding them, scaling the results. Attention's own
products have no weights and are float32. The rest are the other nodes: sums with biases, residuals
and the mask, embeddings, moves."""

_PARTS_NAMED = {
    "products": "products with weights",
    "rounding": "rounding",
    "attention": "attention's own products",
    "functions": "softmax, normalisation, GELU",
    "rest": "the rest",
    "outside": "no node: the tokenizer, Python",
}

_MEMORY = """\
The most memory in a call, in MiB: of a process of its own for each contestant, which scored all
shapes of up to so many tokens a call one after another, the small ones first. What libraries keep
of smaller calls is in it, as in a process that serves. Where several shapes have as many tokens, it
is the largest of theirs; a place is empty where a contestant takes no part. Encoders cut texts at
{longest} tokens here, whatever their folder says."""

_LOADING = """\
From nothing to able to score, one thread: interpreter, imports, check of every file's hash,
weights. Files are in the system's cache, so a process waits for nothing but its turn: what the
clock says beyond the CPU time went to whatever else ran. Resident is the memory in use then; the
peak is after scoring {count} {prompts} in one call and then all of them as one text."""

_BURST = """\
The {prompts}, all ranked in one call, by what each folder is loaded with by default; loaded anew
each time, so that nothing is remembered of a prompt. The same clock as above."""

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
manifest: the largest difference, what is allowed of it, and Kendall's tau between the two."""

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
    rates = [name for name in rates_measured(report["speed"][0]) if not name.startswith("memory")]
    *libraries, last = dict.fromkeys(name.partition(", ")[2] for name in rates)
    parts = [
        "# What scoring a prompt costs",
        f"Made by `{report['settings']['command']}`; run it again to get your own numbers.",
        "\n".join(f"- {name}: {value}" for name, value in flatten(report["environment"])),
        "\n".join(f"- `{name}`: sha256 {sha}" for name, sha in report["predictors"].items()),
        _INTRODUCTION.format(
            rounds=report["settings"]["rounds"],
            burst=round(BURST_S * 1e3),
            large=TOKENS_LARGE,
            tokens=TOKENS,
        ),
        "## What was wanted",
        bullets(sentences(report)),
        "## Time per prompt",
        *(f"![{caption}]({name})\n\n{caption}" for name, caption in pictures),
        *_speeds(report),
        "## Against the floor",
        _FLOOR.format(
            libraries=f"{', '.join(libraries)} and {last}",
            size=SIZE,
            spared=_spared(report),
            instructions=_instructions(report),
            ceilings=_CEILINGS if any(cell.get("parts") for cell in report["speed"]) else "",
        ),
        _rates(report),
        *_floors(report),
        *_parts(report),
    ]
    loading = _LOADING.format(count=START_PROMPTS, prompts=prompts_named(report))
    parts += ["## Load time and memory", loading, _starts(report), *_memories(report)]
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
        yield _by_length(report, cells, lambda cell, name: _spread(milliseconds(cell, name)))
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
        return f"{_number(speed)} ({batch})"

    return _by_length(report, firsts, best)


def _floors(report: PredictorReport) -> Iterator[str]:
    for threads, batch in dict.fromkeys((c["threads"], c["batch"]) for c in report["speed"]):
        yield f"### {threads_named(threads).capitalize()}, batch {batch}: times the floor"

        def ratio(cell: SpeedCell, name: str) -> str:
            found = over_floor(report, cell, name)
            return "" if found is None else f"{found:.2f}"

        cells = cells_of(report, threads, batch)
        yield _by_length(report, cells, ratio) + _bounds(report, cells)


def _bounds(report: PredictorReport, cells: Sequence[SpeedCell]) -> str:
    """Rows for what bounds an engine: its products alone, and all that is not products."""
    lines, seen = [], set()
    for name, entry in ours(report):
        assert entry["folder"] is not None
        work = work_of(entry)
        precision = "" if work is None else work.precision
        layers = ", all layers" if work is not None and work.spared else ""
        alone = f"{entry['folder']} {precision}: products with weights alone{layers}"
        for label, measure in (
            (alone, over_floor_of_products),
            (f"{name}: with the floor's products", partial(over_floor_by_parts, rounding=False)),
            (f"{name}: the same and its rounding", partial(over_floor_by_parts, rounding=True)),
        ):
            found = [measure(report, cell, name) for cell in cells]
            if label not in seen and any(each is not None for each in found):
                shown = " | ".join("" if each is None else f"{each:.2f}" for each in found)
                lines.append(f"\n| *{label}* | {shown} |")
                seen.add(label)
    return "".join(lines)


def _parts(report: PredictorReport) -> Iterator[str]:
    """What a call of the first batch and number of threads spends its time on."""
    first = report["speed"][0]
    cells = [c for c in cells_of(report, first["threads"], first["batch"]) if c.get("parts")]
    if not cells:
        return
    profiles = [found for cell in cells for found in cell["parts"].values()]
    yield "## Where a call's time goes"
    yield _PARTS.format(
        batch=first["batch"],
        threads=threads_named(first["threads"]),
        surplus=_range([found["surplus"] * 1e6 for found in profiles]),
        slower=_range([found["slower"] for found in profiles]),
    )
    lines = [
        f"| tokens | {' | '.join(str(cell['length']) for cell in cells)} |",
        f"|---|{'---:|' * len(cells)}",
    ]
    for name in cells[0]["parts"]:
        for part, label in _PARTS_NAMED.items():
            shares = [cell["parts"][name]["shares"][part] for cell in cells]
            if any(shares):
                shown = [
                    f"{_number(share * (median_ms(cell, name) or 0))} ({share:.0%})"
                    for cell, share in zip(cells, shares, strict=True)
                ]
                lines.append(f"| {name}: {label} | {' | '.join(shown)} |")
    yield "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.2g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


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
            lines.append(f"| {_bold(name, entry['auto'])} | {' | '.join(shown)} |")
        yield "\n".join(lines)


def _largest(values: Iterable[float | None]) -> str:
    """Of some MiB; nothing of none."""
    found = list(values)
    known = [value for value in found if value is not None]
    return f"{max(known):,.0f}" if known else "not known here" * bool(found)


def _spared(report: PredictorReport) -> str:
    """What int8 engines leave in float32, in brackets."""
    found = [
        f"{name} {work.spared:.0%} of them in float32"
        for name, entry in ours(report)
        if (work := work_of(entry)) is not None and work.spared
    ]
    return f" ({', '.join(found)})" if found else ""


def _instructions(report: PredictorReport) -> str:
    flags = str(report["environment"].get("vector_instructions", ""))
    if not flags:
        return ""
    known = flags.split(", ")
    if any(each in known for each in DOT_PRODUCTS):
        return f"This CPU has {flags}, and so dot products of bytes."
    return (
        f"This CPU has {flags} and no dot products of bytes (VNNI): its products in int8 are "
        "less than four times faster than those in float32, as the rates below say."
    )


def _by_length(
    report: PredictorReport, cells: Sequence[SpeedCell], content: Callable[[SpeedCell, str], str]
) -> str:
    lines = [
        f"| tokens | {' | '.join(str(cell['length']) for cell in cells)} |",
        f"|---|{'---:|' * len(cells)}",
    ]
    for name, entry in report["contestants"].items():
        shown = [content(cell, name) for cell in cells]
        if any(shown):
            lines.append(f"| {_bold(name, entry['auto'])} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _rates(report: PredictorReport) -> str:
    threads = list(dict.fromkeys(cell["threads"] for cell in report["speed"]))
    lines = [
        f"| rate | {' | '.join(threads_named(count) for count in threads)} |",
        f"|---|{'---:|' * len(threads)}",
    ]
    for rate, unit in (("float32", "GFLOP/s"), ("int8", "Gop/s"), ("memory", "GB/s")):
        shown = [
            _spread(
                quartiles([rates_of(report, cell)[rate] / 1e9 for cell in cells_of(report, count)])
            )
            for count in threads
        ]
        lines.append(f"| {rate}, {unit} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _starts(report: PredictorReport) -> str:
    lines = [
        "| | CPU seconds | on the clock | resident, MiB | peak, MiB | imports |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, starts in report["starts"].items():
        cells = [
            _bold(name, report["contestants"][name]["auto"]),
            _spread(quartiles(starts["cpu_seconds"])),
            _spread(quartiles(starts["seconds"])),
            _memory(starts["resident_mib"]),
            _memory(starts["peak_mib"]),
            ", ".join(starts["imported"]) or "none of these",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _words_of_bursts(report: PredictorReport) -> str:
    few = _few(report)
    words = _BURST.format(prompts=prompts_named(report))
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
                _bold(name, report["contestants"][name]["auto"]),
                str(burst["threads"]),
                f"{burst['prompts']:,}",
                _spread(quartiles(seconds)),
                "" if floor is None else _number(floor),
            ]
            if "few" in burst:
                each = 1e3 / burst["few"]["prompts"]
                cells += [
                    _spread(quartiles([each * value for value in found[name]]))
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
            _bold(name, report["contestants"][name]["auto"]),
            f"{order['tau']:.3f}{' (learned from these prompts)' if order['seen'] else ''}",
            "" if low is None or high is None else f"{low:.3f} to {high:.3f}",
            str(order["prompts"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _parities(report: PredictorReport) -> str:
    lines = ["| | difference | allowed | tau | prompts |", "|---|---:|---:|---:|---:|"]
    for name, entry in ours(report):
        parity = entry["parity"]
        if parity is not None:
            cells = [
                _bold(name, entry["auto"]),
                f"{parity['max_abs_diff']:.2g}",
                f"{parity['bound']:.2g}",
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


def _memory(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):,.0f}" if known else "not known here"


def _spread(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return ""
    low, middle, high = found
    if low == high:
        return _number(middle)
    return f"{_number(middle)} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _shape(cell: SpeedCell) -> str:
    return f"{cell['length']} tokens, batch {cell['batch']}, {threads_named(cell['threads'])}"


def _bold(name: str, auto: bool) -> str:
    return f"**{name}**" if auto else name
