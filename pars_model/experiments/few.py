"""What a fit to few prompts is worth, and what it gains from a predictor that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_export import Predictor
from pars_export.inputs import TextTokenizer, text_digest
from pars_export.runtimes.ngram_half import NgramHalf
from pars_model.experiments import halves, matrix_page
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import FrozenCell, frozen_cell
from pars_model.experiments.heads import fit_head
from pars_model.experiments.judging import Judged, Standing, judge, mean_gain, prompt_sets
from pars_model.experiments.matrix import LENGTH, RIDGE, RIDGE_CODE, length_scores, shown
from pars_model.experiments.page import COLOURS, Section, png, table
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import LengthTable, text_fraction
from pars_model.module import ResponseLengthRanker
from pars_model.ngram_half import LEAST, LEAST_WITH_PRIOR, factor_of, fit_half, share_of
from pars_model.ngrams import fit_ridge
from pars_model.prior import DEFAULT, MOST, NONE, find_prior, prior_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from pars_bench.chart import Palette

CELLS = (
    Cell("alpaca_vicuna7b_20k", "vicuna-7b-v1.1", "Alpaca, Vicuna-7B", prompts=3_000),
    Cell("instructionwild_llama", "llama-3-instruct(repo-unspecified)", "InstructionWild, Llama-3"),
    Cell("codealpaca_2k", "text-davinci-003", "CodeAlpaca, text-davinci-003"),
    Cell("gpteacher_codegen", "gpt-4", "GPTeacher (code), GPT-4", prompts=3_000),
    Cell("hh_harmless_test", "anthropic-52b-rlhf-mix", "HH, Anthropic 52B"),
    Cell("alpaca_eval", "Meta-Llama-3.1-405B-Instruct-Turbo", "AlpacaEval (chat), Llama-3.1-405B"),
    Cell("arena_hard_v01", "gpt-4-0314", "Arena-Hard, GPT-4"),
    Cell("arena_hard_1k_478", "vicuna-13b-v1.5", "Arena (2023), Vicuna-13B"),
)
"""LLMs on data sets that the default predictor has learned nothing of."""
COUNTS = (30, 100, 300, 1_000)
"""Prompts of a table; a cell has those rows that its prompts suffice for."""
VAL = 0.1
"""Share of them that chooses the head's epoch and the half's share."""
HEAD = halves.HEAD
ALONE, SUM, PRIOR, UNTRAINED = "head", "head and half", "the half from the prior", "default"
METHODS = (PRIOR, SUM, ALONE, UNTRAINED, RIDGE, LENGTH)
FEW = (
    *dict.fromkeys((*halves.HALVES, *RIDGE_CODE)),
    *("pars_export.runtimes.student", "pars_model.experiments.few"),
)
"""Modules that the scores depend on; what the prior says counts by itself."""
INTRODUCTION = f"""\
Tables of few prompts: the margin objective's head on frozen features, the same with the n-gram half
of the section above, and with a half that starts from the default predictor (`model.prior`), as
`pars fit` makes it of up to {MOST:,} training prompts. A tenth of the prompts chooses the epoch and
the share; the ridge learns from that tenth too. Without a prior there is no half of fewer than
{LEAST} training prompts, and with one none of fewer than {LEAST_WITH_PRIOR}. *Default* is the
predictor inside the package, untrained: it has learned nothing from these data sets, but was chosen
by most of them; exam questions, maths and code reading, which it learned from, are left out. That a
prior helps was found in trials in Alpaca and in the last three cells, judged prompts among them;
the other four had no part in it."""


def run(bench: Workbench) -> Section:
    """Judge fits to few prompts in every cell."""
    tokenizer = ResponseLengthRanker().text_tokenizer()
    standings: dict[tuple[Cell, int], Mapping[str, Standing]] = {}
    over: dict[tuple[Cell, int], Mapping[str, Standing]] = {}
    tables = {}
    for cell in CELLS:
        frozen = frozen_cell(bench, cell)
        tables[cell] = frozen.table.prompts
        for count in COUNTS:
            parts = [part_of(frozen, count, seed) for seed in range(bench.seeds)]
            if any((part == "train").sum() + (part == "val").sum() < count for part in parts):
                continue
            runs = [
                _judged(bench, cell, frozen, part, count, seed, tokenizer)
                for seed, part in enumerate(parts)
            ]
            standings[cell, count] = judge(frozen.table, runs, SUM)
            over[cell, count] = judge(frozen.table, runs, UNTRAINED)
    rows = [
        [
            cell.title,
            f"{count:,}",
            *(shown(found[name].tau) for name in METHODS),
            shown(found[PRIOR].gain, signed=True),
        ]
        for (cell, count), found in standings.items()
    ]
    means, told = [], []
    for count in COUNTS:
        cells = [cell for cell in CELLS if (cell, count) in standings]
        if not cells:
            continue
        sets = prompt_sets([tables[cell] for cell in cells])
        gain, lead, without = (
            mean_gain([found[cell, count][name].gain for cell in cells], sets)
            for found, name in ((standings, PRIOR), (over, PRIOR), (over, SUM))
        )
        told.append(f"{shown(gain, signed=True)} of {count:,}")
        shown_means = [shown(each, signed=True) for each in (gain, lead, without)]
        means.append([f"{count:,}", str(len(cells)), *shown_means])
    columns = ("cell", "prompts", *(f"{name} [95 %]" for name in METHODS))
    names = (f"{PRIOR} less {SUM}", f"{PRIOR} less {UNTRAINED}", f"{SUM} less {UNTRAINED}")
    return Section(
        "Few prompts",
        [
            INTRODUCTION,
            matrix_page.seeds(bench.seeds),
            table(("prompts", "cells", *(f"{name} [95 %]" for name in names)), means),
            table((*columns, f"{names[0]} [95 %]"), rows),
        ],
        {"few.png": picture(standings)},
        {"few.png": "Mean tau by the number of prompts, in the cells that have all of them"},
        short=f"Few prompts: a half from the default predictor gains {', '.join(told)} prompts.",
    )


def part_of(frozen: FrozenCell, count: int, seed: int) -> NDArray[np.str_]:
    """Train, val, judge or unused per prompt: the first of a hash of those that are not judged."""
    part = np.where(frozen.part(seed) == "judge", "judge", "unused")
    free = np.flatnonzero(part == "unused")
    order = [text_fraction(f"few {seed} {frozen.table.prompts[number]}") for number in free]
    chosen = free[np.argsort(order)][:count]
    val = round(count * VAL)
    part[chosen[:val]], part[chosen[val:]] = "val", "train"
    return part


@cache
def prior_digest() -> str:
    """Digest of the default predictor as a prior: of its folder, and of the texts it is asked."""
    prior = find_prior(DEFAULT)
    assert prior is not None
    return f"{prior.predictor.sha256} {text_digest(json.dumps(prior.texts))}"


def _judged(
    bench: Workbench,
    cell: Cell,
    frozen: FrozenCell,
    part: NDArray[np.str_],
    count: int,
    seed: int,
    tokenizer: TextTokenizer,
) -> Judged:
    """Scores of one seed's judged prompts."""
    prompts = np.flatnonzero(part == "judge")

    def compute() -> Result:
        lengths = frozen.table
        texts = [lengths.prompts[number] for number in prompts]
        head = fit_head(lengths, frozen.features, part, HEAD, seed)[1]
        scores = {ALONE: head[prompts], UNTRAINED: Predictor.default().score(texts)}
        for name, prior in ((SUM, NONE), (PRIOR, DEFAULT)):
            scores[name] = _with_half(lengths, part, head, tokenizer, prior)[prompts]
        scores[RIDGE] = fit_ridge(lengths, np.isin(part, ("train", "val"))).score(texts)
        return {"scores": {name: each.tolist() for name, each in scores.items()}}

    settings = {**asdict(HEAD), "seed": seed, "prompts": count}
    label = f"{cell.title}, {count} prompts, seed {seed}"
    found = bench.kept(label, settings, compute, FEW, f"{frozen.sha256} {prior_digest()}")["scores"]
    scores = {name: np.array(each) for name, each in found.items()}
    scores[LENGTH] = length_scores(frozen.table, prompts)
    return Judged(prompts, scores)


def _with_half(
    lengths: LengthTable,
    part: NDArray[np.str_],
    head: NDArray[np.float32],
    tokenizer: TextTokenizer,
    prior_name: str,
) -> NDArray[np.float32]:
    """Scores (prompts,) of head and half; of the head where there are too few prompts for one."""
    train = part == "train"
    prior = prior_for(prior_name, lengths, train)
    if train.sum() < (LEAST if prior is None else LEAST_WITH_PRIOR):
        return head
    fitted = fit_half(lengths, train, tokenizer, prior)
    texts = lengths.prompts
    half = NgramHalf(fitted.arrays(), tokenizer).score(texts, tokenizer.encode(texts))
    val = np.flatnonzero((part == "val")[lengths.prompt])
    heads, ngrams = head[lengths.prompt[val]], half[lengths.prompt[val]]
    share = share_of(
        heads, ngrams, lengths.length[val], lengths.group[val], len(val), lengths.censored[val]
    )
    return head + np.float32(factor_of(share, heads, ngrams)) * half


def picture(
    standings: Mapping[tuple[Cell, int], Mapping[str, Standing]],
) -> Callable[[Path], None]:
    """Writes a PNG: mean tau of each method over the number of prompts."""
    whole = [cell for cell in CELLS if all((cell, count) in standings for count in COUNTS)]

    def mean(name: str, count: int) -> float:
        return float(np.mean([standings[cell, count][name].tau.value for cell in whole]))

    def draw(axes: Axes, palette: Palette) -> None:
        drawn: Sequence[str] = METHODS[:-1] if whole else ()
        for number, name in enumerate(drawn):
            axes.plot(
                COUNTS,
                [mean(name, count) for count in COUNTS],
                marker="o",
                markersize=4,
                color=palette[f"curve{number % len(COLOURS)}"],
                label=name,
            )
        axes.set_xscale("log")
        axes.set_xticks(COUNTS, [f"{count:,}" for count in COUNTS])
        axes.set_xlabel("prompts of the table")
        axes.set_ylabel("tau")

    return png(draw)
