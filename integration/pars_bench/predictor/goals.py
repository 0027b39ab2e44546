"""What was wanted of scoring, and whether the numbers say that it is so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from pars_bench.predictor.report import (
    Entry,
    PredictorReport,
    Supposed,
    burst_floor,
    cells_of,
    is_student,
    median_ms,
    ours,
    over_floor,
    over_floor_by_parts,
    over_floor_of_products,
    precision_named,
    prompts_named,
    quartiles,
    threads_named,
    work_of,
)
from pars_export.runtimes.openvino_engine import OPENVINO

OVER_FLOOR = 1.5
"""Most that an encoder may take, as a multiple of its floor, from `FROM_TOKENS` tokens on."""
FROM_TOKENS = 32
FASTER = 10.0
"""Least that it must be faster than BERT-base in eager PyTorch."""
LOAD_S, LOAD_MIB = 1.0, 300.0
BURST_ENCODER_S, BURST_STUDENT_S = 5.0, 0.5
BERT = "bert-base"


def sentences(report: PredictorReport) -> list[str]:
    """One sentence for each goal and each predictor, or runtime, that it is about."""
    return [
        *_floors(report),
        *_against_bert(report),
        *_loading(report),
        *_bursts(report),
    ]


def verdict(reached: bool) -> str:
    """As the page says it."""
    return "**reached**" if reached else "**missed**"


def _floors(report: PredictorReport) -> Iterator[str]:
    for name, entry in ours(report):
        if is_student(entry) or entry["work"] is None or entry["what"] == "torch":
            continue
        cells = [cell for cell in cells_of(report, threads=1) if cell["length"] >= FROM_TOKENS]
        ratios = {
            (cell["length"], cell["batch"]): ratio
            for cell in cells
            if (ratio := over_floor(report, cell, name)) is not None
        }
        if not ratios:
            continue
        worst, best = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
        within = sum(ratio <= OVER_FLOOR for ratio in ratios.values())
        shapes = f"{len(ratios)} shapes"
        if len(ratios) < len(cells):
            shapes += f" (of {len(cells)} from {FROM_TOKENS} tokens on; larger calls have no floor)"
        yield (
            f"{name} within {OVER_FLOOR:g} times the floor of {precision_named(entry)} from "
            f"{FROM_TOKENS} tokens on, one thread: {verdict(within == len(ratios))}, "
            f"holds in {within} of {shapes}; {ratios[best]:.2f} at best "
            f"({_shape(best)}), {median(ratios.values()):.2f} in the median, "
            f"{ratios[worst]:.2f} at worst ({_shape(worst)}){_least(report, name)}."
        )


def _least(report: PredictorReport, name: str) -> str:
    """What keeps an engine from its floor."""
    cells = [cell for cell in cells_of(report, threads=1) if cell["length"] >= FROM_TOKENS]
    alone = [r for cell in cells if (r := over_floor_of_products(report, cell, name)) is not None]
    said = ""
    entry = report["contestants"][name]
    work = work_of(entry)
    if alone:
        layers = " of all layers" if work is not None and work.spared else ""
        said = (
            f"; its products with weights{layers} alone, by the same library in the same "
            f"rounds, take {median(alone):.2f} times what they would at the rate of large matrices"
        )
    missed = [
        cell for cell in cells if (over := over_floor(report, cell, name)) and over > OVER_FLOOR
    ]
    least_by = {
        suppose: [
            over
            for cell in missed
            if (over := over_floor_by_parts(report, cell, name, suppose)) is not None
        ]
        for suppose in Supposed
    }
    free = " and rounding free" if least_by[Supposed.FLOOR_AND_ROUNDING] else ""
    beyond = 0
    for suppose, supposed in (
        (Supposed.FLOOR, f"Were all its products as fast as the floor's{free}"),
        (Supposed.FLOOR_AND_ROUNDING, "With rounding as it is"),
        (Supposed.BESIDE, "By what its calls take beside its products alone"),
        (Supposed.ALONE, "With its products as fast as they are alone"),
    ):
        least = least_by[suppose]
        if suppose is Supposed.ALONE and beyond == len(least):
            continue  # it keeps no more than what was said
        if least:
            beyond = sum(over > OVER_FLOOR for over in least)
            apart = ""
            if entry["what"] == OPENVINO and suppose is not Supposed.ALONE:
                apart = " but GELU and softmax, parts of its products,"
            said += (
                f". {supposed}, all else that it computes{apart} would keep {beyond} of the "
                f"{len(least)} missed beyond {OVER_FLOOR:g} ({min(least):.2f} to {max(least):.2f} "
                "times the floor)"
            )
    if missed and entry["what"] == "onnx-bf16":
        same = f"{entry['folder']} onnx"
        within = sum((over_floor(report, cell, same) or 0.0) <= OVER_FLOOR for cell in missed)
        said += f". It computes as {same} does, which is within {OVER_FLOOR:g} in {within} of these"
    return said


def _against_bert(report: PredictorReport) -> Iterator[str]:
    bert = next((n for n, e in report["contestants"].items() if e["what"] == BERT), None)
    if bert is None:
        return
    for name, entry in ours(report):
        if not entry["auto"]:
            continue
        cells = cells_of(report, threads=1)
        ratios = {
            (cell["length"], cell["batch"]): theirs / mine
            for cell in cells
            if (theirs := median_ms(cell, bert)) is not None
            and (mine := median_ms(cell, name)) is not None
        }
        if not ratios:
            continue
        worst, best = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
        within = sum(ratio >= FASTER for ratio in ratios.values())
        shapes = f"{len(ratios)} shapes"
        if len(ratios) < len(cells):
            shapes += f" (of {len(cells)}; {bert} takes no part in larger calls)"
        yield (
            f"{name} {FASTER:g} times faster a prompt than {bert}, one thread: "
            f"{verdict(within == len(ratios))}, holds in {within} of {shapes}; "
            f"{ratios[worst]:.1f} times at worst ({_shape(worst)}), "
            f"{median(ratios.values()):.1f} in the median, {ratios[best]:.1f} at best "
            f"({_shape(best)}){_floors_apart(report, name, bert, worst, ratios[worst])}."
        )
    yield (
        "At equal or better tau than a trained BERT-base: **not compared** here, where it has "
        "random weights and tells time alone. How an encoder of its size ranks beside MiniLM, both "
        "fine-tuned on the same prompts, is told with [the rankers](ranking.md#encoders)."
    )


def _floors_apart(
    report: PredictorReport, name: str, bert: str, shape: tuple[int, int], ratio: float
) -> str:
    """How far apart the floors of the two are in the worst shape, where that is too little."""
    if ratio >= FASTER:
        return ""
    (cell,) = (c for c in cells_of(report, 1, shape[1]) if c["length"] == shape[0])
    mine, theirs = over_floor(report, cell, name), over_floor(report, cell, bert)
    if mine is None or theirs is None:
        return ""
    return f"; there the floors of the two are {ratio * mine / theirs:.1f} times apart"


def _loading(report: PredictorReport) -> Iterator[str]:
    for name, entry in ours(report):
        if not entry["auto"]:
            continue
        starts = report["starts"][name]
        seconds = quartiles(starts["cpu_seconds"])[1]
        memory = [each for each in starts["resident_mib"] if each is not None]
        said = f"{seconds:.2f} s of CPU time"
        reached = seconds < LOAD_S
        if memory:
            said += f" and {median(memory):.0f} MiB"
            # MB, as wanted, are a little less than MiB.
            reached = reached and median(memory) * 2**20 < LOAD_MIB * 1e6
        yield (
            f"{name} loaded in under {LOAD_S:g} s and {LOAD_MIB:g} MB resident, from the start of "
            f"the interpreter, one thread: {verdict(reached)}, {said} "
            f"({quartiles(starts['seconds'])[1]:.2f} s on the clock)."
        )


def _bursts(report: PredictorReport) -> Iterator[str]:
    for name, entry in ours(report):
        wanted = BURST_STUDENT_S if is_student(entry) else BURST_ENCODER_S
        for burst in report["bursts"]:
            if name not in burst["seconds"]:
                continue
            seconds = quartiles(burst["seconds"][name])[1]
            floor = burst_floor(report, burst, name)
            yield (
                f"{name} ranks {burst['prompts']:,} {prompts_named(report)} in under "
                f"{wanted:g} s, {threads_named(burst['threads'])}: {verdict(seconds < wanted)}, "
                f"{seconds:.3g} s{_ceiling(entry, floor, wanted)}."
            )


def _ceiling(entry: Entry, floor: float | None, wanted: float) -> str:
    if floor is None:
        return ""
    said = f"; its floor on this machine is {floor:.3g} s"
    if floor > wanted:
        said += (
            ", so nothing could whose products are no faster than the fastest in "
            f"{precision_named(entry)} measured here"
        )
    return said


def _shape(shape: Sequence[int]) -> str:
    length, batch = shape
    return f"{length} tokens, batch {batch}"
