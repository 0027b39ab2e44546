"""Mixed traffic: one head for all data sets of an LLM, judged on each and on their mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pars_model.experiments import matrix_page
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import frozen_cell
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.judging import Judged, Standing, judge
from pars_model.experiments.matrix import (
    BASELINES,
    RATE,
    RIDGE,
    Comparison,
    Setting,
    compare,
    shown,
)
from pars_model.experiments.page import Section, table
from pars_model.experiments.workbench import Workbench

ACROSS, ALONE, MEDIAN = "all data sets", "this data set alone", "the data set's median"
VARIANTS = {ACROSS: HeadSettings(delta=0.05)}
NAMES = {
    "zeroeval_gsm": "GSM8K",
    "zeroeval_crux": "CRUXEval",
    "zeroeval_math_l5": "MATH, level 5",
    "zeroeval_numersense_v2": "NumerSense",
    "alpaca_eval": "AlpacaEval (chat)",
    "arena_hard_v01": "Arena-Hard (chat)",
}
TASKS = ("zeroeval_crux", "zeroeval_math_l5", "zeroeval_numersense_v2")
CELLS = (
    Cell("zeroeval_gsm", "gpt-4o-2024-05-13", "GPT-4o", more=(*TASKS, "alpaca_eval")),
    Cell("zeroeval_gsm", "gpt-3.5-turbo-0125", "GPT-3.5 Turbo", more=(*TASKS, "arena_hard_v01")),
)
MIX = "all, mixed"
METHODS = (ACROSS, ALONE, *BASELINES, MEDIAN)
HEAD = ("traffic", "judged per seed", *METHODS, "sd over seeds of all", "alone less all [95 %]")
INTRODUCTION = f"""\
One LLM, several kinds of traffic. The margin objective on frozen features, as in the first section
with the middle one of its learning rates, learns from the training prompts of all data sets at
once; so does the n-gram ridge. *{ALONE.capitalize()}*: a head that has seen no other, on the same
splits; scores of such heads cannot be compared across data sets. *{MEDIAN.capitalize()}*: each
prompt is taken for the median of the training prompts of its data set, which tells data sets apart
and orders nothing inside of one (tau-b divides by the pairs that are ordered, so these ties cost it
little)."""


def run(bench: Workbench) -> Section:
    """Judge each LLM's head on each data set and on all of them."""
    parts: list[str] = []
    gains: list[str] = []
    for cell in CELLS:
        found = compare(bench, Setting(cell), VARIANTS, ACROSS, (RATE,))
        alone = [compare(bench, Setting(one), VARIANTS, ACROSS, (RATE,)) for one in single(cell)]
        runs = [
            with_others(bench, cell, found, alone, seed, judged)
            for seed, judged in enumerate(found.runs)
        ]
        mixed = judge(found.truth, runs, ACROSS)
        rows = [_row(MIX, runs, mixed, "-")]
        for number, dataset in enumerate(found.truth.datasets):
            mine = of_dataset(found, runs, number)
            standings = judge(found.truth, mine, ACROSS)
            gain = shown(standings[ALONE].gain, signed=True)
            rows.append(_row(NAMES[dataset], mine, standings, gain))
        parts += [f"**{cell.title}**: {found.prompts[0]} prompts.", table(HEAD, rows)]
        gains.append(
            f"{mixed[ACROSS].tau.value:.3f} for {cell.title} ({RIDGE} "
            f"{mixed[RIDGE].tau.value:.3f}, {MEDIAN} {mixed[MEDIAN].tau.value:.3f})"
        )
    return Section(
        "Mixed traffic",
        [INTRODUCTION, matrix_page.seeds(bench.seeds, spread=True), *parts],
        short=f"Mixed traffic of one LLM: tau {', '.join(gains)}.",
    )


def _row(
    name: str, runs: Sequence[Judged], standings: Mapping[str, Standing], gain: str
) -> list[str]:
    """A row of the table; what says nothing of the mix, or of one data set, is left out."""
    blank = ALONE if name == MIX else MEDIAN
    taus = ["-" if method == blank else shown(standings[method].tau) for method in METHODS]
    return [name, str(len(runs[0].prompts)), *taus, f"{standings[ACROSS].spread:.3f}", gain]


def single(cell: Cell) -> list[Cell]:
    """The data sets of a cell, each for itself."""
    return [
        replace(cell, dataset=dataset, more=(), title=f"{cell.title} on {dataset}")
        for dataset in (cell.dataset, *cell.more)
    ]


def with_others(
    bench: Workbench,
    cell: Cell,
    found: Comparison,
    alone: Sequence[Comparison],
    seed: int,
    judged: Judged,
) -> Judged:
    """One seed's scores with those of the heads of single data sets, and the data sets' medians."""
    truth = found.truth
    by_text = {
        each.truth.prompts[number]: score
        for each in alone
        for run in [each.runs[seed]]
        for number, score in zip(run.prompts, run.scores[ACROSS], strict=True)
    }
    trained = (frozen_cell(bench, cell).part(seed) == "train")[truth.prompt]
    medians = np.array(
        [
            np.median(truth.length[trained & (truth.dataset == number)])
            for number in range(len(truth.datasets))
        ]
    )
    more = {
        ALONE: np.array([by_text[truth.prompts[number]] for number in judged.prompts]),
        MEDIAN: medians[dataset_of(found)[judged.prompts]],
    }
    return Judged(judged.prompts, {**judged.scores, **more})


def dataset_of(found: Comparison) -> NDArray[np.int64]:
    """Number of the data set of each prompt."""
    numbers = np.zeros(len(found.truth.prompts), dtype=np.int64)
    numbers[found.truth.prompt] = found.truth.dataset
    return numbers


def of_dataset(found: Comparison, runs: Sequence[Judged], number: int) -> list[Judged]:
    """The runs on the prompts of one data set."""
    mine = [dataset_of(found)[run.prompts] == number for run in runs]
    return [
        Judged(run.prompts[rows], {name: scores[rows] for name, scores in run.scores.items()})
        for run, rows in zip(runs, mine, strict=True)
    ]
