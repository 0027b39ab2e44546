"""What the lengths of other LLMs on the same prompts are worth as labels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from pars_export.facts import Facts
from pars_model.borrow import answers_to, borrowed, lenders
from pars_model.experiments import matrix_page
from pars_model.experiments.cells import Cell, cut_off, read_dataset
from pars_model.experiments.frozen import FrozenCell, frozen_cell
from pars_model.experiments.heads import CODE, HeadSettings, fit_head
from pars_model.experiments.judging import Judged, Standing, judge, mean_gain, prompt_sets
from pars_model.experiments.matrix import LENGTH, RATE, RIDGE, RIDGE_CODE, length_scores, shown
from pars_model.experiments.page import Section, table
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import LengthTable, table_of
from pars_model.metrics import Estimate
from pars_model.ngrams import fit_ridge
from pars_model.rows import Row

Floats = NDArray[np.float64]

GPT = "(?i)gpt|^o1-"
LLAMA = "(?i)llama-?3"
CELLS: Mapping[Cell, str] = {
    Cell("zeroeval_gsm", "gpt-4o-2024-05-13", "GSM8K, GPT-4o"): GPT,
    Cell("zeroeval_gsm", "Yi-1.5-9B-Chat", "GSM8K, Yi-1.5-9B"): "(?i)^yi-",
    Cell("zeroeval_math_l5", "gpt-4o-2024-05-13", "MATH level 5, GPT-4o"): GPT,
    Cell("zeroeval_crux", "gpt-4o-2024-05-13", "CRUXEval, GPT-4o"): GPT,
    Cell("zeroeval_crux", "o1-mini-2024-09-12", "CRUXEval, o1-mini (reasoning)", True): GPT,
    Cell(
        "arena_hard_1k_478", "vicuna-13b-v1.5", "Arena (2023), Vicuna-13B"
    ): "(?i)vicuna|llama|wizard",
    Cell(
        "alpaca_eval", "Meta-Llama-3.1-405B-Instruct-Turbo", "AlpacaEval (chat), Llama-3.1-405B"
    ): LLAMA,
    Cell(
        "mmlu_pro", "Meta-Llama-3_1-70B-Instruct", "MMLU-Pro, Llama-3.1-70B", prompts=4_000
    ): LLAMA,
}
"""Cells, and a pattern of the LLMs that are too near of kin to count as others."""
OWN, HALF, OTHERS = "own lengths", "half others'", "others' alone"
WEIGHTS = {OWN: 1.0, HALF: 0.5, OTHERS: 0.0}
"""Of the LLM's own lengths."""
HEAD = HeadSettings(delta=0.05, lr=RATE)
BORROWED = (*CODE, *RIDGE_CODE, "pars_model.borrow", "pars_model.experiments.borrowed")
"""Modules that the scores depend on."""
COLUMNS = ("labels", "tau [95 %]", f"less that of {OWN} [95 %]", RIDGE, f"less the {RIDGE}'s")
INTRODUCTION = """\
One LLM's training prompts, labelled by what other LLMs answered to them too (`pars borrow`): each
gets one of the LLM's own training lengths, the one whose rank is that of the mean of its own place
and of what the others have in common, predicted from the mean of their places; or of the latter
alone. LLMs of its own kin are left out, by name. What others answered to prompts that choose or
judge is not looked at: there the LLM's own lengths count. The margin objective on frozen features,
as in the first section with the middle one of its learning rates; tau by the LLM's own lengths of
another tenth chooses the epoch. The n-gram ridge learns from the same labels, without that tenth.
With the *others' alone* the LLM's own lengths order no training prompts but those that no other has
answered."""


def run(bench: Workbench) -> Section:
    """Compare own labels with borrowed ones in every cell."""
    parts, tables = [], []
    gains: dict[str, list[Estimate]] = {HALF: [], OTHERS: []}
    leads: dict[str, list[float]] = {name: [] for name in WEIGHTS}
    for cell in CELLS:
        frozen = frozen_cell(bench, cell)
        others = others_of(bench, cell, frozen.table)
        runs = [_judged(bench, cell, frozen, others, seed) for seed in range(bench.seeds)]
        found = judge(frozen.table, runs, OWN)
        for name in WEIGHTS:
            leads[name].append(_lead(found, name))
        for name, each in gains.items():
            each.append(found[name].gain)
        parts.append(
            f"**{cell.title}**: {len(frozen.table.prompts)} prompts, {len(runs[0].prompts)} judged "
            f"per seed; {len(others)} other LLMs; tau of {LENGTH} {shown(found[LENGTH].tau)}."
        )
        parts.append(table(COLUMNS, [_row(found, name) for name in WEIGHTS]))
        tables.append(frozen.table.prompts)
    sets = prompt_sets(tables)
    means = {name: mean_gain(each, sets) for name, each in gains.items()}
    lines = [
        f"- {name}: {shown(mean, signed=True)}, {np.mean(leads[name]):+.3f} over the {RIDGE} by "
        "the same labels in the mean of the cells."
        for name, mean in means.items()
    ]
    return Section(
        "Borrowed lengths",
        [
            INTRODUCTION,
            matrix_page.seeds(bench.seeds),
            f"Mean difference to {OWN} ({np.mean(leads[OWN]):+.3f} over the {RIDGE} in the mean of "
            f"the cells) over {len(set(sets))} sets of prompts:",
            "\n".join(lines),
            *parts,
        ],
        short=(
            f"Labels from other LLMs on the same prompts: tau less that of {OWN} is "
            f"{shown(means[HALF], signed=True)} ({HALF}) and "
            f"{shown(means[OTHERS], signed=True)} ({OTHERS}), in the mean over {len(set(sets))} "
            "sets of prompts."
        ),
    )


def _row(found: Mapping[str, Standing], name: str) -> list[str]:
    mine, ridge = found[name], found[_ridge_of(name)]
    gain = "reference" if name == OWN else shown(mine.gain, signed=True)
    return [name, shown(mine.tau), gain, shown(ridge.tau), f"{_lead(found, name):+.3f}"]


def _lead(found: Mapping[str, Standing], name: str) -> float:
    return found[name].tau.value - found[_ridge_of(name)].tau.value


def _ridge_of(name: str) -> str:
    return f"{RIDGE}, {name}"


def _judged(bench: Workbench, cell: Cell, frozen: FrozenCell, others: Floats, seed: int) -> Judged:
    """Scores of one seed's judged prompts, by heads and ridges from all kinds of labels."""
    part = frozen.part(seed)
    judged = part == "judge"
    scores: dict[str, Floats] = {}
    for name, weight in WEIGHTS.items():

        def compute(weight: float = weight) -> Result:
            labels = labelled(frozen.table, others, part == "train", weight)
            head = fit_head(labels, frozen.features, part, HEAD, seed)[1]
            texts = [labels.prompts[number] for number in np.flatnonzero(judged)]
            return {
                "head": head[judged].tolist(),
                "ridge": fit_ridge(labels, part == "train").score(texts).tolist(),
            }

        settings = {**asdict(HEAD), "weight": weight, "seed": seed}
        settings["others"] = hashlib.sha256(others.tobytes()).hexdigest()
        label = f"{cell.title}, {name}, seed {seed}"
        found = bench.kept(label, settings, compute, BORROWED, frozen.sha256)
        scores[name] = np.array(found["head"])
        scores[_ridge_of(name)] = np.array(found["ridge"])
    prompts = np.flatnonzero(judged)
    scores[LENGTH] = length_scores(frozen.table, prompts)
    return Judged(prompts, scores)


def others_of(bench: Workbench, cell: Cell, lengths: LengthTable) -> Floats:
    """What LLMs that are not of the cell's kin answered to a table's prompts, (LLMs, prompts).

    Raises:
        InputError: there are fewer than two such answers.
    """
    texts, rows = read_dataset(bench.data_root, cell.dataset)
    known = set(lengths.prompts)
    answers = [
        Row(
            text,
            row["length"],
            cut_off(row),
            row["model"],
            cell.dataset,
            config="",
            split="",
            unit="",
            facts=Facts(),
        )
        for row in sorted(rows, key=itemgetter("model"))
        for text in [texts.get(row["prompt_id"], "")]
        if text in known and not re.search(CELLS[cell], row["model"])
    ]
    return lenders(answers_to(lengths.prompts, table_of(bench.data_root, answers)))


def labelled(
    lengths: LengthTable, others: Floats, train: NDArray[np.bool_], weight: float
) -> LengthTable:
    """One LLM's table with other labels on its training prompts.

    Args:
        lengths: of the LLM, one item per prompt.
        others: what others answered, (LLMs, prompts), NaN where nothing.
        train: whether a prompt is learned from, (prompts,).
        weight: of its own lengths.
    """
    learned = np.flatnonzero(train[lengths.prompt])
    length, censored = lengths.length.copy(), lengths.censored.copy()
    told = others[:, lengths.prompt[learned]]
    whose = learned[borrowed(length[learned], censored[learned], told, weight)]
    length[learned], censored[learned] = lengths.length[whose], lengths.censored[whose]
    return replace(
        lengths,
        length=length,
        censored=censored,
        sample_length=length,
        sample_censored=censored,
        sample_start=np.arange(len(lengths) + 1),
    )
