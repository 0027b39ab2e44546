"""What an n-gram half is worth beside a head on frozen features, in every cell."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from pars_export.inputs import TextTokenizer
from pars_export.runtimes.ngram_half import NgramHalf
from pars_model.experiments import borrowed, facts, matrix_page, objectives
from pars_model.experiments.cells import Cell
from pars_model.experiments.fine_tuning import HALF_CODE
from pars_model.experiments.frozen import FrozenCell, frozen_cell
from pars_model.experiments.heads import CODE, HeadSettings, fit_head
from pars_model.experiments.judging import Judged, judge, mean_gain, prompt_sets
from pars_model.experiments.matrix import (
    LENGTH,
    OVER_RIDGE,
    RATE,
    RIDGE,
    Setting,
    length_scores,
    ridge_scores,
    shown,
)
from pars_model.experiments.page import Section, table
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import LengthTable
from pars_model.metrics import Estimate
from pars_model.module import ResponseLengthRanker
from pars_model.ngram_half import BELIEVED, SHARE, factor_of, fit_half, share_of

CELLS: tuple[Cell, ...] = tuple(dict.fromkeys((*objectives.CELLS, *facts.CELLS, *borrowed.CELLS)))
"""Those of three other sections."""
HEAD = HeadSettings(delta=0.05, lr=RATE)
ALONE, SUM, HALF = "head", "head and half", "half"
METHODS = (ALONE, SUM, HALF, RIDGE, LENGTH)
HALVES = tuple(dict.fromkeys((*CODE, *HALF_CODE, "pars_model.experiments.halves")))
"""Modules that the scores depend on."""
COLUMNS = (
    "cell",
    "prompts",
    *(f"{name} [95 %]" for name in METHODS),
    f"{SUM} less the {RIDGE} [95 %]",
    "share",
)
INTRODUCTION = f"""\
The n-gram half that `pars fit` adds to a ranker (`model.ngram_half`), beside the margin objective's
head on frozen features, with the middle one of the first section's learning rates: in each cell of
Objectives, Facts and Borrowed lengths. The half learns from the prompts that the head learns from;
those that choose the head's epoch choose its *share* of the sum, of which {SHARE:g} is believed as
if {BELIEVED} of them had said so. The ridge, on words where the half is on subwords, learns from
both kinds. That quarter was chosen by trials in GSM8K, GPT-4o; in CRUXEval, o1-mini; and fine-tuned
in Alpaca, Vicuna-7B, and in MMLU-Pro, judged prompts among them; the other cells had no part in it.
How much it is believed was not tried.
No half here starts from a prior; what one adds stands under *Few prompts*. Fine-tuned, the half is
judged under *Parts of the recipe*."""


def run(bench: Workbench) -> Section:
    """Judge heads with and without a half in every cell."""
    tokenizer = ResponseLengthRanker().text_tokenizer()
    rows, gains, tables = [], [], []
    leads: dict[str, list[Estimate]] = {ALONE: [], SUM: []}
    for cell in CELLS:
        frozen = frozen_cell(bench, cell)
        found = [_judged(bench, cell, frozen, seed, tokenizer) for seed in range(bench.seeds)]
        runs = [run for run, _ in found]
        over_ridge, over_head = (judge(frozen.table, runs, each) for each in (RIDGE, ALONE))
        for name, each in leads.items():
            each.append(over_ridge[name].gain)
        gains.append(over_head[SUM].gain)
        tables.append(frozen.table.prompts)
        rows.append(
            [
                cell.title,
                f"{len(frozen.table.prompts):,}",
                *(shown(over_ridge[name].tau) for name in METHODS),
                shown(over_ridge[SUM].gain, signed=True),
                f"{np.mean([share for _, share in found]):.2f}",
            ]
        )
    sets = prompt_sets(tables)
    gain = mean_gain(gains, sets)
    lines = [_lead(name, each, sets) for name, each in leads.items()]
    return Section(
        "The n-gram half",
        [
            INTRODUCTION,
            matrix_page.seeds(bench.seeds),
            f"{SUM.capitalize()} less {ALONE}: {shown(gain, signed=True)} in the mean over "
            f"{len(set(sets))} sets of prompts.",
            "\n".join(f"- {line}" for line in lines),
            table(COLUMNS, rows),
        ],
        short=(
            f"N-gram half: tau less that of the {ALONE} alone is {shown(gain, signed=True)}. "
            f"{lines[1]}"
        ),
    )


def _lead(name: str, leads: list[Estimate], sets: list[int]) -> str:
    """How far a method is over the ridge, and in how many cells it is as far as was wanted."""
    values = [each.value for each in leads]
    worst = min(range(len(values)), key=values.__getitem__)
    reached = sum(value >= OVER_RIDGE for value in values)
    above = sum(each.low is not None and each.low > 0 for each in leads)
    below = sum(each.high is not None and each.high < 0 for each in leads)
    return (
        f"{name.capitalize()} less the {RIDGE}: {shown(mean_gain(leads, sets), signed=True)} in "
        f"the mean, {OVER_RIDGE:g} or more in {reached} of {len(leads)} cells, least in "
        f"{CELLS[worst].title} ({values[worst]:+.3f}); above zero beyond the interval in {above}, "
        f"below in {below}."
    )


def half_scores(
    lengths: LengthTable, part: NDArray[np.str_], tokenizer: TextTokenizer
) -> NDArray[np.float32]:
    """Scores of all prompts by an n-gram half of those of ``part`` train, (prompts,)."""
    fitted = fit_half(lengths, part == "train", tokenizer)
    texts = lengths.prompts
    return NgramHalf(fitted.arrays(), tokenizer).score(texts, tokenizer.encode(texts))


def with_half(
    lengths: LengthTable,
    part: NDArray[np.str_],
    head: NDArray[np.float32],
    half: NDArray[np.float32],
) -> tuple[NDArray[np.float32], float]:
    """The sum of a head's scores (prompts,) and a half's; and its share, which part val chose."""
    val = np.flatnonzero((part == "val")[lengths.prompt])
    heads, halves = head[lengths.prompt[val]], half[lengths.prompt[val]]
    share = share_of(
        heads, halves, lengths.length[val], lengths.group[val], len(val), lengths.censored[val]
    )
    return head + factor_of(share, heads, halves) * half, share


def _judged(
    bench: Workbench, cell: Cell, frozen: FrozenCell, seed: int, tokenizer: TextTokenizer
) -> tuple[Judged, float]:
    """Scores of one seed's judged prompts, and the half's share."""
    part = frozen.part(seed)
    judged = part == "judge"

    def compute() -> Result:
        head = fit_head(frozen.table, frozen.features, part, HEAD, seed)[1]
        half = half_scores(frozen.table, part, tokenizer)
        whole, share = with_half(frozen.table, part, head, half)
        scores = {ALONE: head, SUM: whole, HALF: half}
        return {
            "scores": {name: each[judged].tolist() for name, each in scores.items()},
            "share": share,
        }

    settings = {**asdict(HEAD), "seed": seed}
    found = bench.kept(f"{cell.title}, seed {seed}", settings, compute, HALVES, frozen.sha256)
    scores = {name: np.array(each) for name, each in found["scores"].items()}
    scores[RIDGE] = ridge_scores(bench, Setting(cell), frozen, frozen.table, seed, 0)
    prompts = np.flatnonzero(judged)
    scores[LENGTH] = length_scores(frozen.table, prompts)
    return Judged(prompts, scores), float(found["share"])
