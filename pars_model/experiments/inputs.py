"""How much of a prompt a ranker should read, where prompts are long."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from pars_model.experiments import halves, matrix_page
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import FrozenCell, frozen_cell, with_prompt_tokens
from pars_model.experiments.heads import CODE, fit_head
from pars_model.experiments.judging import Judged, judge, mean_gain, prompt_sets
from pars_model.experiments.matrix import (
    BASELINES,
    LENGTH,
    RIDGE,
    Setting,
    length_scores,
    ridge_scores,
    shown,
)
from pars_model.experiments.page import Section, table
from pars_model.experiments.workbench import Result, Workbench
from pars_model.frozen_encoder import MAX_LENGTH
from pars_model.metrics import Estimate

DATASETS = ("mmlu_pro", "zeroeval_crux", "arena_hard_v01", "zeroeval_math_l5")
"""Those that have many prompts longer than what the default recipe reads; the page says so."""
CELLS: tuple[Cell, ...] = tuple(cell for cell in halves.CELLS if cell.dataset in DATASETS)
TOKENS = (64, MAX_LENGTH, 256, 512)
"""Most tokens read, the first and the last half of them; 512 is all that MiniLM takes."""
HEAD = halves.HEAD
INPUTS = (*CODE, "pars_model.experiments.inputs")
"""Modules that the scores depend on."""
INTRODUCTION = f"""\
The margin objective's head on frozen features of so many tokens at most (`model.max_length`), the
first and the last half of a longer prompt's, with the middle one of the first section's learning
rates: in those cells of the section above that have many prompts longer than the {MAX_LENGTH}
tokens that the default recipe reads. By more tokens the other prompts read the same, so that
differences come from pairs that have a longer one. The ridge reads prompts whole, and learns from
those too that choose the heads' epochs. What a longer input costs stands in
[engines](engines.md)."""


def name_of(tokens: int) -> str:
    """How a table calls a head."""
    return f"{tokens} tokens"


NAMES = tuple(name_of(tokens) for tokens in TOKENS)
REFERENCE = name_of(MAX_LENGTH)
COLUMNS = (
    "cell",
    "prompts",
    f"longer than {MAX_LENGTH}",
    *(f"{name} [95 %]" for name in (*NAMES, *BASELINES)),
    *(f"{name} less {REFERENCE} [95 %]" for name in NAMES if name != REFERENCE),
)


def run(bench: Workbench) -> Section:
    """Judge heads on features of shorter and longer inputs in every cell."""
    rows, tables = [], []
    gains: dict[str, list[Estimate]] = {name: [] for name in NAMES if name != REFERENCE}
    for cell in CELLS:
        by_tokens = {tokens: frozen_cell(bench, cell, tokens) for tokens in TOKENS}
        frozen = by_tokens[MAX_LENGTH]
        runs = [_judged(bench, cell, by_tokens, seed) for seed in range(bench.seeds)]
        longer = with_prompt_tokens(frozen.table).facts["prompt_tokens"] > MAX_LENGTH
        found = judge(frozen.table, runs, REFERENCE)
        for name, each in gains.items():
            each.append(found[name].gain)
        tables.append(frozen.table.prompts)
        rows.append(
            [
                cell.title,
                f"{len(frozen.table.prompts):,}",
                f"{np.mean(longer):.0%}",
                *(shown(found[name].tau) for name in (*NAMES, *BASELINES)),
                *(shown(found[name].gain, signed=True) for name in gains),
            ]
        )
    sets = prompt_sets(tables)
    means = {name: shown(mean_gain(each, sets), signed=True) for name, each in gains.items()}
    told = ", ".join(f"of {name} {mean}" for name, mean in means.items())
    return Section(
        "How much of a prompt is read",
        [INTRODUCTION, matrix_page.seeds(bench.seeds), table(COLUMNS, rows)],
        short=(
            f"Tau less that of {REFERENCE} in cells of many longer prompts, in the mean over "
            f"{len(set(sets))} sets of prompts: {told}."
        ),
    )


def _judged(bench: Workbench, cell: Cell, by_tokens: dict[int, FrozenCell], seed: int) -> Judged:
    """Scores of one seed's judged prompts."""
    frozen = by_tokens[MAX_LENGTH]
    part = frozen.part(seed)
    judged = part == "judge"
    scores = {}
    for tokens, read in by_tokens.items():

        def compute(read: FrozenCell = read) -> Result:
            head = fit_head(read.table, read.features, part, HEAD, seed)[1]
            return {"scores": head[judged].tolist()}

        settings = {**asdict(HEAD), "seed": seed, "max_length": tokens}
        label = f"{cell.title}, {name_of(tokens)}, seed {seed}"
        found = bench.kept(label, settings, compute, INPUTS, frozen.sha256)
        scores[name_of(tokens)] = np.array(found["scores"])
    scores[RIDGE] = ridge_scores(bench, Setting(cell), frozen, frozen.table, seed, 0)
    prompts = np.flatnonzero(judged)
    scores[LENGTH] = length_scores(frozen.table, prompts)
    return Judged(prompts, scores)
