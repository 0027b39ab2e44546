"""Judging on the prompts that a table holds out: tau, leads, and what more prompts are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pars_export.files import sha256_file
from pars_model.experiments.cells import Cell
from pars_model.experiments.judging import RESAMPLES
from pars_model.experiments.made import made
from pars_model.experiments.matrix import OVER_RIDGE, RIDGE, RIDGE_CODE
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import LengthTable, read_lengths, split_prompts, text_fraction
from pars_model.metrics import estimates, kendall_tau, tau_and_accuracy
from pars_model.ngrams import NgramRidge, fit_ridge

Ints = NDArray[np.int64]
Ends = list[float | None]
"""A value and the low and high end of its interval."""
Fits = dict[int, tuple[Path, Result]]
"""Predictor folder and result of each fit of a cell, by its number of prompts, 0 for all."""

TARGET = 0.70
PART_CODE = ("pars_model.experiments.held_out", "pars_model.lengths")
"""Modules that a table of fewer prompts depends on."""


def part_of(bench: Workbench, cell: Cell, prompts: int) -> Path:
    """The cell's table; with fewer prompts to learn from, the same ones for val and test."""
    whole = bench.table(cell)
    if not prompts:
        return whole
    return made(
        whole.with_name(f"{whole.stem}-train{prompts}.parquet"),
        [whole],
        PART_CODE,
        lambda path: _write_part(whole, prompts, path),
    )


def _write_part(whole: Path, prompts: int, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lengths = pq.read_table(whole)
    texts = lengths["prompt"].to_pylist()
    split = {text: _split(text) for text in texts}
    train = [text for text, part in split.items() if part == "train"]
    order = np.random.default_rng(0).permutation(len(train))
    dropped = {train[number] for number in order[prompts:]}
    rows = lengths.append_column("split", pa.array([split[text] for text in texts]))
    pq.write_table(rows.filter(pa.array([text not in dropped for text in texts])), path)


def _split(text: str) -> str:
    """The part that `pars fit` gives a text by its hash."""
    fraction = text_fraction(text)
    return "test" if fraction < 0.1 else "val" if fraction < 0.2 else "train"


def judged_items(lengths: LengthTable) -> tuple[Ints, list[str]]:
    """Items (n,) of the test split, and the prompt of each."""
    items = np.flatnonzero((split_prompts(lengths) == "test")[lengths.prompt])
    return items, [lengths.prompts[number] for number in lengths.prompt[items]]


def ridge_of(lengths: LengthTable) -> NgramRidge:
    """The ridge that learned from all prompts of a table but those of the test split."""
    return fit_ridge(lengths, split_prompts(lengths) != "test")


def tau_of(scores: ArrayLike, lengths: LengthTable, items: Ints) -> Ends:
    """Tau of the scores (n,) of items (n,) of a table, and the ends of its interval."""
    found, _ = tau_and_accuracy(
        np.asarray(scores, dtype=np.float64),
        lengths.length[items],
        lengths.censored[items],
        lengths.prompt[items],
    )
    return [found.value, found.low, found.high]


def gain_of(ours: ArrayLike, theirs: ArrayLike, lengths: LengthTable, items: Ints) -> Ends:
    """Tau of scores (n,) of items (n,) less that of others (n,), and the ends of its interval."""
    length, censored = lengths.length[items], lengths.censored[items]
    scores = (np.asarray(ours), np.asarray(theirs))

    def gain(drawn: Ints) -> NDArray[np.float64]:
        first, second = (kendall_tau(s[drawn], length[drawn], censored[drawn]) for s in scores)
        return np.array([first - second])

    (found,) = estimates(gain, lengths.prompt[items], RESAMPLES)
    return [found.value, found.low, found.high]


def in_full(bench: Workbench, cell: Cell, folder: Path) -> Result:
    """More of a fit on all prompts of a cell.

    Args:
        bench: where results are kept.
        cell: of the lengths.
        folder: of the predictor.

    Returns:
        ``gain``, tau less that of the ridge, with the interval of the difference on the same
        draws; and ``reliability``, what `pars_model.reliability.reliability` found.
    """
    from pars_export import Predictor
    from pars_export.artifact import folder_sha256
    from pars_model.evaluate import evaluate

    path = bench.table(cell)

    def compute() -> Result:
        predictor, lengths = Predictor.load(folder, threads=bench.threads), read_lengths(path)
        test, texts = judged_items(lengths)
        gain = gain_of(predictor.score(texts), ridge_of(lengths).score(texts), lengths, test)
        (mixed,) = cast("list[Result]", evaluate(predictor, path, "test", RESAMPLES)["mixed"])
        return {"gain": gain, "reliability": mixed["reliability"]}

    code = ("pars_model.metrics", "pars_model.reliability", *RIDGE_CODE)
    settings = {"predictor": folder_sha256(folder)}
    return bench.kept(f"judge {cell.title}", settings, compute, code, sha256_file(path))


def curve(bench: Workbench, cell: Cell, fits: Fits, over_ridge: bool = False) -> str:
    """What twice the prompts are worth, by the least-squares line through tau and log prompts.

    Args:
        bench: where results are kept.
        cell: of the lengths.
        fits: two or more.
        over_ridge: ask for the lead over the ridge that learned from the same prompts, and for
            what reaches `OVER_RIDGE`, instead of tau and `TARGET`.
    """
    from pars_export import Predictor
    from pars_export.artifact import folder_sha256

    path = bench.table(cell)
    folders, results = zip(*fits.values(), strict=True)
    sizes = [found["train"] for found in results]
    wanted_of, target = (f"lead over the {RIDGE}", OVER_RIDGE) if over_ridge else ("tau", TARGET)

    def compute() -> Result:
        lengths = read_lengths(path)
        test, texts = judged_items(lengths)
        ours = [Predictor.load(each, threads=bench.threads).score(texts) for each in folders]
        parts = [read_lengths(part_of(bench, cell, each)) for each in fits if over_ridge]
        theirs = [ridge_of(part).score(texts) for part in parts]
        length, censored = lengths.length[test], lengths.censored[test]

        def taus(scores: Sequence[NDArray[np.float32]], drawn: Ints) -> NDArray[np.float64]:
            found = [kendall_tau(each[drawn], length[drawn], censored[drawn]) for each in scores]
            return np.array(found)

        def line(drawn: Ints) -> NDArray[np.float64]:
            """What twice the prompts add, and log2 of the prompts that the target would take."""
            reached = taus(ours, drawn) - (taus(theirs, drawn) if over_ridge else 0.0)
            slope, at = np.polyfit(np.log2(sizes), reached, 1)
            return np.array([slope, (target - at) / slope if slope > 0 else np.inf])

        found = estimates(line, lengths.prompt[test], RESAMPLES)
        return {
            name: [each.value, each.low, each.high]
            for name, each in zip(("slope", "wanted"), found, strict=True)
        }

    settings = {"predictors": [folder_sha256(folder) for folder in folders], "target": target}
    code = ("pars_model.metrics", *(RIDGE_CODE if over_ridge else ()))
    found = bench.kept(f"curve of {cell.title}", settings, compute, code, sha256_file(path))
    slope, slope_low, slope_high = found["slope"]
    wanted, low, high = (_power_of_two(each) for each in found["wanted"])
    largest = max(results, key=lambda fit: float(fit["train"]))
    minutes = wanted * largest["minutes"] / largest["train"]
    ahead = largest["tau"][0] - (largest["ridge"][0] if over_ridge else 0.0)
    reached = f"more prompts come no nearer to {target:.2f}"
    if ahead >= target:
        reached = f"{target:.2f} is reached"
    elif math.isfinite(wanted):
        most = f"{high:,.0f}" if math.isfinite(high) else "no end"
        reached = (
            f"{target:.2f} takes {wanted:,.0f} prompts [{low:,.0f}, {most}] and, at the pace of "
            f"the largest of these fits, {minutes:,.0f} minutes, and the data set has "
            f"{len(read_lengths(path).prompts):,}"
        )
    return (
        f"{cell.title}: twice as many prompts to learn from are worth {slope:+.3f} "
        f"[{slope_low:+.3f}, {slope_high:+.3f}] of {wanted_of} between {min(sizes):,} and "
        f"{max(sizes):,}; on that line {reached}."
    )


def _power_of_two(power: float | None) -> float:
    """Infinity where there is none, or where it is beyond all numbers."""
    return 2**power if power is not None and power < 1000 else math.inf
