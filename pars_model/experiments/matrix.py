"""Variants of a head in several cells: each with a learning rate of its own, beside baselines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import (
    FrozenCell,
    frozen_cell,
    of_samples,
    with_prompt_tokens,
)
from pars_model.experiments.heads import CODE, HeadSettings, fit_head
from pars_model.experiments.judging import Judged, Standing, judge
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import LengthTable
from pars_model.metrics import Estimate, noise_ceiling
from pars_model.ngrams import fit_ridge

RATES = (5e-4, 2e-3, 8e-3)
"""Learning rates that each variant tries in each cell and with each seed."""
RATE = RATES[1]
"""The one that variants share where none is chosen."""
REPEATS = 50
"""Fewest prompts with repeated samples that a ceiling is told from."""
RIDGE, LENGTH = "n-gram ridge", "prompt length"
BASELINES = (RIDGE, LENGTH)
RIDGE_CODE = tuple(f"pars_model.{name}" for name in ("folds", "ngrams", "ranks"))
"""Modules that the ridge's scores depend on."""
OVER_RIDGE = 0.03
"""Least that was wanted over the ridge, in every cell."""


@dataclass(frozen=True)
class Setting:
    """A cell and the labels that are learned from in it.

    Attributes:
        cell: which LLM on which data.
        sample: learn from this sample alone; the median of all by default. Judged is always by
            the median.
    """

    cell: Cell
    sample: int | None = None

    @property
    def title(self) -> str:
        """How a table calls it."""
        return self.cell.title + (" (learned from one sample)" if self.sample is not None else "")

    @property
    def short_title(self) -> str:
        """How a legend calls it, which has room for two columns."""
        title = re.sub(r" \([^)]*\)", "", self.cell.title)
        return title if self.sample is None else f"{title.rpartition(', ')[2]}, one sample"


@dataclass(frozen=True)
class Comparison:
    """All variants and baselines in one cell.

    Attributes:
        setting: where.
        labels: the lengths that were learned from.
        prompts: prompts of the cell, and judged ones per seed.
        standings: by variant or baseline.
        rates: learning rate that each variant chose with each seed.
        ceiling: tau of one run of the LLM against another, and against the median of the others.
        truth: the lengths that were judged by.
        runs: scores of the judged prompts, one per seed.
    """

    setting: Setting
    labels: LengthTable
    prompts: tuple[int, int]
    standings: Mapping[str, Standing]
    rates: Mapping[str, Sequence[float]]
    ceiling: tuple[Estimate, Estimate | None] | None
    truth: LengthTable
    runs: Sequence[Judged]


def compare(
    bench: Workbench,
    setting: Setting,
    variants: Mapping[str, HeadSettings],
    reference: str,
    rates: Sequence[float] = RATES,
) -> Comparison:
    """Train each variant with every seed, choose its learning rate there, and judge it.

    Args:
        bench: where results are kept.
        setting: the cell.
        variants: heads by name; their own learning rate is not looked at.
        reference: the one that the others are compared with.
        rates: learning rates tried; with each seed, tau on that seed's val chooses.
    """
    frozen = frozen_cell(bench, setting.cell)
    truth = frozen.table
    if any(head.facts for head in variants.values()):
        truth = with_prompt_tokens(truth)
    labels = truth if setting.sample is None else of_samples(truth, setting.sample)
    chosen: dict[str, list[float]] = {name: [] for name in variants}
    runs = []
    for seed in range(bench.seeds):
        scores = {}
        for name, head in variants.items():
            heads = [replace(head, lr=rate) for rate in rates]
            tried = [_fit(bench, setting, frozen, labels, each, seed, name) for each in heads]
            best = max(range(len(rates)), key=lambda place: tried[place]["val"])
            chosen[name].append(rates[best])
            scores[name] = np.array(tried[best]["scores"])
        samples = variants[reference].samples
        scores[RIDGE] = ridge_scores(bench, setting, frozen, labels, seed, samples)
        judged = np.flatnonzero(frozen.part(seed) == "judge")
        scores[LENGTH] = length_scores(truth, judged)
        runs.append(Judged(judged, scores))
    return Comparison(
        setting,
        labels,
        (len(truth.prompts), len(runs[0].prompts)),
        judge(truth, runs, reference),
        chosen,
        noise_ceiling(truth) if (np.diff(truth.sample_start) > 1).sum() >= REPEATS else None,
        truth,
        runs,
    )


def _fit(
    bench: Workbench,
    setting: Setting,
    frozen: FrozenCell,
    labels: LengthTable,
    head: HeadSettings,
    seed: int,
    name: str,
) -> Result:
    part = frozen.part(seed)

    def compute() -> Result:
        tau, scores = fit_head(labels, frozen.features, part, head, seed)
        return {"val": tau, "scores": scores[part == "judge"].tolist()}

    settings = {**asdict(head), "seed": seed, "sample": setting.sample}
    label = f"{setting.title}, {name}, learning rate {head.lr:g}, seed {seed}"
    return bench.kept(label, settings, compute, CODE, frozen.sha256)


def length_scores(lengths: LengthTable, prompts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Characters (n,) of prompts (n,) of a table, the order that needs no training."""
    return np.array([float(len(lengths.prompts[number])) for number in prompts])


def ridge_scores(
    bench: Workbench,
    setting: Setting,
    frozen: FrozenCell,
    labels: LengthTable,
    seed: int,
    samples: int,
) -> NDArray[np.float64]:
    """Scores of the judged prompts, learned from so many samples of each, 0 for all."""
    part = frozen.part(seed)
    labels = of_samples(labels, seed, samples) if samples else labels

    def compute() -> Result:
        # It chooses its penalty inside: what the heads have for training and tuning is its own.
        judged = [labels.prompts[number] for number in np.flatnonzero(part == "judge")]
        return {"scores": fit_ridge(labels, part != "judge").score(judged).tolist()}

    settings = {"ridge": True, "seed": seed, "sample": setting.sample, "samples": samples}
    label = f"{setting.title}, {RIDGE}, seed {seed}"
    found = bench.kept(label, settings, compute, RIDGE_CODE, frozen.sha256)
    return np.array(found["scores"])


def shown(estimate: Estimate | None, signed: bool = False) -> str:
    """A value with its interval, for a table."""
    if estimate is None:
        return "-"
    sign = "+" if signed else ""
    value = f"{estimate.value:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def rows_of(comparison: Comparison, names: Sequence[str], reference: str) -> list[list[str]]:
    """Table rows: method, learning rates, tau, spread over seeds, difference to the reference."""
    rows = []
    for name in names:
        standing = comparison.standings[name]
        rates = sorted(set(comparison.rates.get(name, ())))
        gain = "reference" if name == reference else shown(standing.gain, signed=True)
        rows.append(
            [
                name,
                ", ".join(f"{rate:g}" for rate in rates) or "-",
                shown(standing.tau),
                f"{standing.spread:.3f}",
                gain,
            ]
        )
    return rows
