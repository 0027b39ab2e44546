"""The content of OUT, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NotRequired, TypedDict

import numpy as np

from pars_bench.predictor.grid import TOKENS
from pars_bench.predictor.products import LIBRARIES, products_name
from pars_bench.predictor.rates import UNITS
from pars_bench.predictor.work import Work
from pars_export.runtimes.openvino_engine import OPENVINO

PROFILED = ("onnx", "onnx-int8", OPENVINO)
"""Those of whose nodes a profile is taken; `onnx-bf16` computes as `onnx` does."""
PARTS = ("products", "rounding", "attention", "functions", "rest", "outside")
"""What a call's time goes to: products with weights; rounding their inputs and scaling their
results; attention's products; softmax, normalisation and activation functions; all other nodes;
and what is no node, the tokenizer above all."""


class Speed(TypedDict):
    """What one contestant or rate gave in a cell."""

    seconds: list[float]
    """Of a call, one a round; CPU time with one thread, else on the clock."""
    cores: tuple[float, float]
    """CPU time over wall time, the smallest and the largest of the rounds. More than the threads
    that were allowed would mean that their number did not hold; with one thread, less than 1 that
    something else ran on its core."""


class Parity(TypedDict):
    """How an engine compares with the network that it computes."""

    max_abs_diff: float
    bound: float
    """Of that difference."""
    batch_diff: NotRequired[float]
    """The largest difference of a text's scores alone and in other batches; exports of early
    versions have none."""
    batch_bound: NotRequired[float]
    tau: float
    prompts: int


class Entry(TypedDict):
    """A contestant."""

    what: str
    """Runtime, or name of the baseline."""
    folder: str | None
    """Name of its predictor folder; None for a baseline."""
    auto: bool
    """Whether it is the runtime that the folder is loaded with where none is named."""
    large: bool
    work: dict[str, float | str | None] | None
    """Fields of `Work`."""
    parity: Parity | None
    """None for baselines, and for the engine that the others are compared with."""


class Parts(TypedDict):
    """Where a call of one engine spends its time."""

    shares: dict[str, float]
    """Of each of `PARTS`; they sum to 1."""
    nodes: int
    """Of its graph that ran in a call."""
    surplus: float
    """Seconds that the profile itself took at each node, taken off all: of onnxruntime's those of
    the shortest, of OpenVINO's none."""
    slower: float
    """What its nodes took then (the sum of their first quartiles, or of OpenVINO's means, less the
    surplus of each), over what a call without a profile leaves for them (its median, less what is
    outside). The latter has the runtime's way from one node to the next in it, too: so it is below
    1 where nothing else ran, and each node's share has some of that way. Products' have, too, so
    that what would be left without them is rather too little."""


class SpeedCell(TypedDict):
    """Everyone on texts of one length in batches of one size."""

    threads: int
    length: int
    batch: int
    speeds: dict[str, Speed]
    parts: NotRequired[dict[str, Parts]]
    """Of the `PROFILED` engines; earlier results have none, nor have calls without a floor."""


class MemoryCell(TypedDict):
    """The most memory that a process had while it scored texts of one length in one batch."""

    threads: int
    length: int
    batch: int
    peak_mib: dict[str, float | None]
    """Of each contestant; each had a process of its own, which scored smaller calls before."""


class Starts(TypedDict):
    """Fresh processes of one contestant, one value each."""

    seconds: list[float]
    """Until it can score, from nothing: interpreter, imports, hashes, weights."""
    cpu_seconds: list[float]
    """Of which the process ran: all of it where nothing else wanted the CPU."""
    resident_mib: list[float | None]
    peak_mib: list[float | None]
    """The most it ever had, after scoring some prompts in one call and a text too long for it."""
    imported: list[str]


class Few(TypedDict):
    """Some prompts of the burst, of mixed lengths, ranked once more in two ways."""

    prompts: int
    together: dict[str, list[float]]
    """Seconds of each contestant for all of them in one call, one a round; the burst's clock."""
    alone: dict[str, list[float]]
    """The same for a call each."""


class Burst(TypedDict):
    """Prompts ranked in one call."""

    threads: int
    prompts: int
    seconds: dict[str, list[float]]
    """Of each contestant, one a round; CPU time with one thread, else on the clock."""
    few: NotRequired[Few]
    """What batching is worth; earlier results have none."""


class Order(TypedDict):
    """How well one contestant ranks the demonstration's test prompts."""

    tau: float
    interval: list[float | None]
    prompts: int
    of: object
    seen: bool
    """Whether it learned from these very prompts."""


class PredictorReport(TypedDict):
    """The content of OUT."""

    environment: dict[str, object]
    settings: dict[str, object]
    predictors: dict[str, str]
    """Name of each predictor folder to what pins it."""
    contestants: dict[str, Entry]
    speed: list[SpeedCell]
    starts: dict[str, Starts]
    memory: NotRequired[list[MemoryCell]]
    """Earlier results have none."""
    bursts: list[Burst]
    burst_lengths: dict[str, list[int]]
    """Tokens of each prompt of the burst, by predictor folder."""
    orders: dict[str, Order]


Quartiles = tuple[float, float, float]
"""First quartile, median, third quartile."""


def quartiles(values: list[float]) -> Quartiles:
    """Of one or more values."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def milliseconds(cell: SpeedCell, name: str) -> Quartiles | None:
    """Of one prompt; None where the contestant has no such batches."""
    speed = cell["speeds"].get(name)
    if speed is None:
        return None
    return quartiles([seconds * 1e3 / cell["batch"] for seconds in speed["seconds"]])


def median_ms(cell: SpeedCell, name: str) -> float | None:
    """Median milliseconds of one prompt."""
    found = milliseconds(cell, name)
    return None if found is None else found[1]


def rates_measured(cell: SpeedCell) -> list[str]:
    """Those of `UNITS` whose library was there."""
    return [name for name in UNITS if name in cell["speeds"]]


def _rates_of_matrices(cell: SpeedCell) -> dict[str, float]:
    """Rates of large matrices, and of memory: the median of the fastest library."""
    found: dict[str, float] = {}
    for name in rates_measured(cell):
        rate, amount = UNITS[name]
        value = amount / quartiles(cell["speeds"][name]["seconds"])[1]
        found[rate] = max(value, found.get(rate, 0.0))
    return found


def rates_of(report: PredictorReport, cell: SpeedCell) -> dict[str, float]:
    """The machine's rates beside the contestants: the median of whatever was fastest.

    That is one of the libraries on large matrices, or an encoder's products by themselves.
    """
    found = _rates_of_matrices(cell)
    for _, entry in ours(report):
        work, seconds = work_of(entry), _products(cell, entry)
        if work is not None and seconds is not None:
            value = work.weights * cell["length"] * cell["batch"] / seconds
            found[work.precision] = max(value, found.get(work.precision, 0.0))
    return found


def over_floor(report: PredictorReport, cell: SpeedCell, name: str) -> float | None:
    """Median time over the floor; None where it is not known.

    Where calls are so large that no products were measured by themselves, it is not, nor where no
    library's products of its precision were.
    """
    work, speed = work_of(report["contestants"][name]), cell["speeds"].get(name)
    rates = rates_of(report, cell)
    if work is None or speed is None or _is_large(cell) or work.precision not in rates:
        return None
    floor = work.floor([cell["length"]] * cell["batch"], rates)
    return quartiles(speed["seconds"])[1] / floor


def over_floor_of_products(report: PredictorReport, cell: SpeedCell, name: str) -> float | None:
    """What an engine's products with weights take alone, over large matrices' rate.

    Both are of all layers in the engine's precision, also where it leaves some in float32.
    """
    entry = report["contestants"][name]
    work, alone = work_of(entry), _products(cell, entry)
    if work is None or alone is None:
        return None
    rates = _rates_of_matrices(cell)
    if work.precision not in rates:
        return None
    return alone / work.products().floor([cell["length"]] * cell["batch"], rates)


class Supposed(Enum):
    """Of an engine's products, to see what all else keeps it from."""

    FLOOR = "the floor's"
    """All are at the floor's rate, attention's too, and rounding takes no time."""
    FLOOR_AND_ROUNDING = "the floor's, and rounding"
    """All are at the floor's rate, and rounding takes what it does."""
    ALONE = "as alone"
    """Those with weights take what the engine's library takes for them alone; attention's and
    rounding what they do."""
    BESIDE = "the floor's, beside them alone"
    """All are at the floor's rate, and all else takes what a call takes beside those with weights
    alone and attention's: for an engine whose profile does not tell where all of its time goes."""


def over_floor_by_parts(
    report: PredictorReport, cell: SpeedCell, name: str, suppose: Supposed
) -> float | None:
    """What an engine takes with other products and all else as it is, over its floor.

    Args:
        report: of the run.
        cell: one of it.
        name: of the engine.
        suppose: how fast its products are, and whether rounding takes time.

    Returns:
        The same as `over_floor` or less; None where no profile was taken, or there is no rounding
        that could take time, or products were not measured alone as the engine has them, or, for
        `BESIDE`, the profile is not OpenVINO's. What is part of a product, as GELU and softmax are
        in OpenVINO's, counts as free where the product is at the floor's rate.
    """
    entry = report["contestants"][name]
    over, parts = over_floor(report, cell, name), cell.get("parts", {}).get(name)
    work = work_of(entry)
    if over is None or parts is None or work is None:
        return None
    shares = parts["shares"]
    if suppose is Supposed.FLOOR_AND_ROUNDING and not shares["rounding"]:
        return None
    products, attention = over * shares["products"], over * shares["attention"]
    left = over * (1 - shares["products"] - shares["attention"])
    if suppose is Supposed.FLOOR:
        left -= over * shares["rounding"]
    if suppose in (Supposed.ALONE, Supposed.BESIDE):
        seconds = _products(cell, entry)
        if seconds is None or work.spared:  # all layers were measured alone, in int8
            return None
        lengths = [cell["length"]] * cell["batch"]
        alone = seconds / work.floor(lengths, rates_of(report, cell))
        if suppose is Supposed.ALONE:
            return min(alone, products) + attention + left
        if entry["what"] != OPENVINO:
            return None
        products, left = alone, max(over - alone - attention, 0.0)
    # Products that are faster in the engine than the floor has them are taken as they are.
    return min(1.0, products + attention) + left


def _products(cell: SpeedCell, entry: Entry) -> float | None:
    """Median seconds of an engine's products alone, by the library that it uses."""
    library = LIBRARIES.get(entry["what"])
    if entry["folder"] is None or entry["work"] is None or library is None:
        return None
    measured = products_name(entry["folder"], str(entry["work"]["precision"]), library)
    found = cell["speeds"].get(measured)
    return None if found is None else quartiles(found["seconds"])[1]


def work_of(entry: Entry) -> Work | None:
    """What a contestant computes."""
    return None if entry["work"] is None else Work(**entry["work"])  # type: ignore[arg-type]


def precision_named(entry: Entry) -> str:
    """Of what a contestant's products with weights are, with the layers that int8 leaves out."""
    work = work_of(entry)
    if work is None:
        return ""
    spared = f" with {work.spared:.0%} of its products with weights in float32"
    return work.precision + (spared if work.spared else "")


def burst_floor(report: PredictorReport, burst: Burst, name: str) -> float | None:
    """Least seconds of the burst, at the highest rates of its number of threads."""
    entry = report["contestants"][name]
    work = work_of(entry)
    cells = [cell for cell in cells_of(report, burst["threads"]) if not _is_large(cell)]
    if work is None or entry["folder"] is None or not cells:
        return None
    rates = [rates_of(report, cell) for cell in cells]
    if work.precision not in rates[0]:
        return None
    highest = {name: max(each[name] for each in rates) for name in rates[0]}
    return work.floor(report["burst_lengths"][entry["folder"]], highest)


def _is_large(cell: SpeedCell) -> bool:
    return cell["length"] * cell["batch"] > TOKENS


def ours(report: PredictorReport) -> Iterator[tuple[str, Entry]]:
    """The predictor folders' runtimes."""
    return ((n, entry) for n, entry in report["contestants"].items() if entry["folder"] is not None)


def is_student(entry: Entry) -> bool:
    """Whether it is a student."""
    return entry["what"] == "student"


def cells_of(
    report: PredictorReport, threads: int | None = None, batch: int | None = None
) -> list[SpeedCell]:
    """The cells of a number of threads and a batch, short texts first."""
    return [
        cell
        for cell in report["speed"]
        if (threads is None or cell["threads"] == threads)
        and (batch is None or cell["batch"] == batch)
    ]


def prompts_named(report: PredictorReport) -> str:
    """What the prompts of the burst and of the processes are, as the page has it."""
    given = "--prompts" in str(report["settings"]["command"]).split()
    return "prompts of `--prompts`" if given else "prompts of the demonstration"


def threads_named(count: int) -> str:
    """As the page has it."""
    return "one thread" if count == 1 else f"{count} threads"
