"""Encoders against their floor, and where a call's time goes: sections of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pars_bench.predictor.rates import DOT_PRODUCTS, SIZE
from pars_bench.predictor.report import (
    PredictorReport,
    SpeedCell,
    Supposed,
    cells_of,
    median_ms,
    ours,
    over_floor,
    over_floor_by_parts,
    over_floor_of_products,
    quartiles,
    rates_measured,
    rates_of,
    threads_named,
    work_of,
)
from pars_bench.predictor.tables import by_length, number, spread
from pars_export.runtimes.openvino_engine import OPENVINO

_FLOOR = """\
The floor is the time for the matrix products alone, each at the rate of its precision that this
machine reached in the same rounds, or the time for reading the weights once a call at the rate of a
copy in memory, whichever is longer. The rate is that of the fastest of {libraries} on matrices of
{size} by {size} and of the encoder's own products by themselves{bfloat16}. Rows in italics tell
what keeps an engine from it: its products with weights alone, each with weights of its own, by the
engine's library at the engine's own shapes{fused}, over what they would take
at the rate of large matrices{ceilings}.
`onnx-int8` has its products with weights in int8{spared} and those of attention in float32;
`onnx-bf16` computes in float32. Calls of more tokens than all take turns in have no floor
here, for no products were measured beside them.
{instructions}
Everything else (normalisation, softmax, activation functions, rounding, the tokenizer) is what a
runtime pays on top."""

_BFLOAT16 = """\
; on large matrices, that of bfloat16, in which `openvino` has all its products where its manifest
says so, is of torch alone"""

_FUSED = " (OpenVINO's with the biases and the GELU that are part of them)"

_CEILINGS = """\
;
and its own time with all products at the floor's rate, attention's too (as they are, where that is
faster), first with rounding for nothing and then as it is, and at last with those that have weights
as they are alone; all else as its own nodes and the tokenizer take it: an engine made of the same
other nodes takes no less{beside}"""

_BESIDE = """\
. OpenVINO's profile cuts off microseconds and has none of the time between nodes, {most} of a call
at most: so once more by what the call takes beside its products alone, which reads them as
if they took no longer within the call"""

_PARTS = """\
Of a call, batch {batch}, {threads}: milliseconds a prompt, and the share of the call. The shares
are those of the engine's own nodes in the runtime's profile, which was taken of the same file in
the same shape, in turns with calls without one; the milliseconds are these shares of the time
above. onnxruntime's profile takes some time for itself at each node: what the shortest took, which
does next to nothing ({surplus} microseconds), is taken off all. After that the first quartiles of
the nodes sum up to {slower} times what a call without a profile, the
tokenizer and Python left out, takes in the median. That has the runtime's way from node to node in
it, which is shared out among the nodes: less than 1 is as it should be. More than 1 says that
something else ran, which the profile's clock does not leave out, and which makes long nodes longer
than short ones. Rounding is all that int8 adds to a product: scales of the inputs, rounding them,
scaling the results. Attention's own products have no weights and, but in `openvino`, are float32.
The rest are the other nodes: sums with residuals, with the mask and, where a product does not add
them, with biases; embeddings, moves.{openvino}"""

_OPENVINO = """\
 OpenVINO has fewer nodes: GELU is part of its products with weights, softmax of attention's. Its
profile tells means, in whole microseconds that are cut off: small nodes have rather too little."""

_PARTS_NAMED = {
    "products": "products with weights",
    "rounding": "rounding",
    "attention": "attention's own products",
    "functions": "softmax, normalisation, GELU",
    "rest": "the rest",
    "outside": "no node: the tokenizer, Python",
}


def floor_sections(report: PredictorReport) -> Iterator[str]:
    """Titles, words and tables of both."""
    rates = [name for name in rates_measured(report["speed"][0]) if not name.startswith("memory")]
    *libraries, last = dict.fromkeys(name.partition(", ")[2] for name in rates)
    yield "## Against the floor"
    yield _FLOOR.format(
        libraries=f"{', '.join(libraries)} and {last}",
        size=SIZE,
        spared=_spared(report),
        bfloat16=_BFLOAT16 if _has_openvino(report) else "",
        fused=_FUSED if _has_openvino(report) else "",
        instructions=_instructions(report),
        ceilings=_CEILINGS.format(beside=_beside(report))
        if any(cell.get("parts") for cell in report["speed"])
        else "",
    )
    yield _rates(report)
    yield from _floors(report)
    yield from _parts(report)


def _beside(report: PredictorReport) -> str:
    """How much of a call OpenVINO's profile lacks at most, and what stands in for it."""
    lacking = [
        1 - parts["slower"]
        for cell in report["speed"]
        for name, parts in cell.get("parts", {}).items()
        if report["contestants"][name]["what"] == OPENVINO
    ]
    return _BESIDE.format(most=f"{max(*lacking, 0.0):.0%}") if lacking else ""


def _floors(report: PredictorReport) -> Iterator[str]:
    for threads, batch in dict.fromkeys((c["threads"], c["batch"]) for c in report["speed"]):
        yield f"### {threads_named(threads).capitalize()}, batch {batch}: times the floor"

        def ratio(cell: SpeedCell, name: str) -> str:
            found = over_floor(report, cell, name)
            return "" if found is None else f"{found:.2f}"

        cells = cells_of(report, threads, batch)
        yield by_length(report, cells, ratio) + _bounds(report, cells)


def _by_parts(suppose: Supposed) -> Callable[[PredictorReport, SpeedCell, str], float | None]:
    return partial(over_floor_by_parts, suppose=suppose)


def _bounds(report: PredictorReport, cells: Sequence[SpeedCell]) -> str:
    """Rows for what bounds an engine: its products alone, and all that is not products."""
    lines, seen = [], set()
    for name, entry in ours(report):
        assert entry["folder"] is not None
        work = work_of(entry)
        precision = "" if work is None else work.precision
        layers = ", all layers" if work is not None and work.spared else ""
        library = " by OpenVINO" if entry["what"] == OPENVINO else ""
        alone = f"{entry['folder']} {precision}{library}: products with weights alone{layers}"
        for label, measure in (
            (alone, over_floor_of_products),
            (f"{name}: with the floor's products", _by_parts(Supposed.FLOOR)),
            (f"{name}: the same and its rounding", _by_parts(Supposed.FLOOR_AND_ROUNDING)),
            (f"{name}: the same, beside its products alone", _by_parts(Supposed.BESIDE)),
            (f"{name}: with its products alone", _by_parts(Supposed.ALONE)),
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
        openvino=_OPENVINO if _has_openvino(report) else "",
        surplus=_range([found["surplus"] * 1e6 for found in profiles if found["surplus"]] or [0]),
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
                    f"{number(share * (median_ms(cell, name) or 0))} ({share:.0%})"
                    for cell, share in zip(cells, shares, strict=True)
                ]
                lines.append(f"| {name}: {label} | {' | '.join(shown)} |")
    yield "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.2g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _has_openvino(report: PredictorReport) -> bool:
    return any(entry["what"] == OPENVINO for _, entry in ours(report))


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


def _rates(report: PredictorReport) -> str:
    threads = list(dict.fromkeys(cell["threads"] for cell in report["speed"]))
    lines = [
        f"| rate | {' | '.join(threads_named(count) for count in threads)} |",
        f"|---|{'---:|' * len(threads)}",
    ]
    for rate, unit in (
        ("float32", "GFLOP/s"),
        ("bfloat16", "GFLOP/s"),
        ("int8", "Gop/s"),
        ("memory", "GB/s"),
    ):
        if rate not in rates_of(report, report["speed"][0]):
            continue
        shown = [
            spread(
                quartiles([rates_of(report, cell)[rate] / 1e9 for cell in cells_of(report, count)])
            )
            for count in threads
        ]
        lines.append(f"| {rate}, {unit} | {' | '.join(shown)} |")
    return "\n".join(lines)
