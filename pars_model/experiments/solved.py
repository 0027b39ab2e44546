"""A head solved in closed form beside one that learns by gradients, on the same frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from pars_export.inputs import TextTokenizer
from pars_export.runtimes.ngram_half import NgramHalf
from pars_model.experiments import filters, halves
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import FrozenCell, frozen_cell
from pars_model.experiments.heads import fit_head
from pars_model.experiments.judging import Judged, contrast, judge, mean_gain, prompt_sets
from pars_model.experiments.matrix import (
    LENGTH,
    OVER_RIDGE,
    RIDGE,
    RIDGE_CODE,
    Setting,
    length_scores,
    ridge_scores,
    shown,
)
from pars_model.experiments.page import Section, table
from pars_model.experiments.workbench import Result, Workbench
from pars_model.folds import out_of_fold
from pars_model.frozen_encoder import MAX_LENGTH
from pars_model.lengths import LengthTable, text_fraction
from pars_model.metrics import Estimate
from pars_model.module import ResponseLengthRanker
from pars_model.ngram_half import factor_of, fit_half, half_out_of_fold, share_of
from pars_model.ngrams import fit_ridge
from pars_model.ranks import rank_targets
from pars_model.solved_head import head_scorer, solve_head

CELLS: tuple[Cell, ...] = tuple(
    dict.fromkeys((*halves.CELLS, *(setting.cell for setting in filters.SETTINGS)))
)
"""Those of the section on the half and of that on the filter."""
SMALL, SMALL_SEEDS = 1000, 3
"""Cells of fewer prompts than this have so many times the seeds: a fifth of them judges little."""
LONGER = 512
"""Most tokens read where more than the default recipe's are; all that MiniLM takes."""
GRADIENTS, SOLVED = "learned by gradients", "solved"
LONG = f"{SOLVED}, {LONGER} tokens"
METHODS = (GRADIENTS, SOLVED, LONG, RIDGE, LENGTH)
SOLVED_CODE = (
    *dict.fromkeys((*halves.HALVES, *RIDGE_CODE)),
    *("pars_model.solved_head", "pars_model.experiments.solved"),
)
"""Modules that the scores depend on."""
COLUMNS = (
    "cell",
    "prompts",
    "seeds",
    *(f"{name} [95 %]" for name in METHODS),
    f"{SOLVED} less {GRADIENTS} [95 %]",
    *(f"{name} less the {RIDGE} [95 %]" for name in (SOLVED, LONG)),
)
INTRODUCTION = f"""\
What `pars fit --config configs/few.yaml` makes: the encoder as it is, a ridge regression on three
of its layers (`model.fine_tune: false`, `model.pooling: layers`), and the n-gram half with the
share that the section on it tells. Beside it that section's head, of one hidden layer and learned
by gradients, on the same features, and with a half of its own. *{LONG}* reads so many of a prompt,
and so does its half, where the others read {MAX_LENGTH}. By gradients an epoch and the half's share
are chosen by prompts kept aside, an eighth of those that are not judged; a solved head and its half
learn from all of these, as the ridge does, and the share is chosen out of fold. Cells of fewer than
{SMALL:,} prompts have {SMALL_SEEDS} times the seeds. That closed form does better was found in
trials in all cells of fewer than {SMALL:,} prompts but GSM8K, MATH of Llama-405B, and in MMLU-Pro,
judged prompts among them; the other cells had no part in it. No half here starts from a
prior. The largest cells, fine-tuned, stand under *The default recipe* and *Parts of the recipe*."""

SHORT = f"""\
Where a small cell is less than {OVER_RIDGE:g} over the ridge by every one of the three: what twice
the prompts are worth to *{LONG}*, beside a ridge that learned from the same ones."""


def run(bench: Workbench) -> Section:
    """Judge both heads, each with a half, in every cell."""
    tokenizers = {
        tokens: ResponseLengthRanker(max_length=tokens).text_tokenizer()
        for tokens in (MAX_LENGTH, LONGER)
    }
    rows, tables = [], []
    over_gradients: list[Estimate] = []
    curves: list[str] = []
    leads: dict[str, list[Estimate]] = {name: [] for name in METHODS[:3]}
    for cell in CELLS:
        by_tokens = {tokens: frozen_cell(bench, cell, tokens) for tokens in tokenizers}
        known = by_tokens[MAX_LENGTH].table
        seeds = bench.seeds * (SMALL_SEEDS if len(known.prompts) < SMALL else 1)
        runs = [_judged(bench, cell, by_tokens, tokenizers, seed) for seed in range(seeds)]
        over_ridge, beside = (judge(known, runs, each) for each in (RIDGE, GRADIENTS))
        for name, each in leads.items():
            each.append(over_ridge[name].gain)
        over_gradients.append(beside[SOLVED].gain)
        best = max(METHODS[:3], key=lambda name: over_ridge[name].gain.value)
        if over_ridge[best].gain.value < OVER_RIDGE and len(known.prompts) < SMALL:
            curves.append(_curve(bench, cell, by_tokens, tokenizers, runs, known))
        tables.append(known.prompts)
        rows.append(
            [
                cell.title,
                f"{len(known.prompts):,}",
                str(seeds),
                *(shown(over_ridge[name].tau) for name in METHODS),
                shown(beside[SOLVED].gain, signed=True),
                *(shown(over_ridge[name].gain, signed=True) for name in (SOLVED, LONG)),
            ]
        )
    sets = prompt_sets(tables)
    gain = shown(mean_gain(over_gradients, sets), signed=True)
    lines = [_lead(name, each, sets) for name, each in leads.items()]
    return Section(
        "A head in closed form",
        [
            INTRODUCTION,
            f"{bench.seeds} seeds, or more in small cells, each with a split of its own; tau is "
            "their mean. Intervals are over prompts and not over seeds. The minutes hold the "
            "features, in each section that uses them, and leave out the bootstraps.",
            f"{SOLVED.capitalize()} less {GRADIENTS}: {gain} in the mean over {len(set(sets))} "
            "sets of prompts.",
            "\n".join(f"- {line}" for line in lines),
            table(COLUMNS, rows),
            *([SHORT, "\n".join(f"- {line}" for line in curves)] if curves else []),
        ],
        short=(
            f"Head in closed form, with a half: tau less that of one {GRADIENTS} is {gain}. "
            f"{lines[1]}"
        ),
    )


def _curve(
    bench: Workbench,
    cell: Cell,
    by_tokens: Mapping[int, FrozenCell],
    tokenizers: Mapping[int, TextTokenizer],
    runs: Sequence[Judged],
    known: LengthTable,
) -> str:
    """How the lead of a small cell grows with its prompts, by half of them and all."""
    frozen, tokenizer = by_tokens[LONGER], tokenizers[LONGER]
    taught, both = [], []
    for seed, run in enumerate(runs):
        free = frozen.part(seed) != "judge"
        drawn = [text_fraction(f"half {seed} {text}") < 0.5 for text in known.prompts]
        some = free & np.array(drawn)

        def compute(some: NDArray[np.bool_] = some, run: Judged = run) -> Result:
            theirs = fit_ridge(known, some).score([known.prompts[each] for each in run.prompts])
            ours = _solved(frozen, some, tokenizer)[run.prompts]
            return {"scores": {LONG: ours.tolist(), RIDGE: theirs.tolist()}}

        title = f"half of {cell.title}, seed {seed}"
        found = bench.kept(title, {"seed": seed}, compute, SOLVED_CODE, frozen.sha256)
        halved = {f"half {name}": np.array(each) for name, each in found["scores"].items()}
        both.append(Judged(run.prompts, {**run.scores, **halved}))
        taught.append((int(some.sum()), int(free.sum())))
    few, all_of_them = np.mean(taught, axis=0)
    signs = {LONG: 1.0, RIDGE: -1.0, f"half {LONG}": -1.0, f"half {RIDGE}": 1.0}
    grown = contrast(known, both, signs)
    lead = contrast(known, both, {LONG: 1.0, RIDGE: -1.0}).value
    slope = grown.value / float(np.log2(all_of_them / few))
    reached = f"more prompts come no nearer to {OVER_RIDGE:g}"
    if slope > 0:
        wanted = all_of_them * 2 ** ((OVER_RIDGE - lead) / slope)
        reached = f"{OVER_RIDGE:g} takes {wanted:,.0f}, and the data set has {len(known.prompts):,}"
    return (
        f"{cell.title}: learning from {all_of_them:,.0f} prompts instead of {few:,.0f} is worth "
        f"{shown(grown, signed=True)} of lead over the {RIDGE}, which then is {lead:+.3f}; on that "
        f"line {reached}."
    )


def _lead(name: str, leads: list[Estimate], sets: list[int]) -> str:
    """How far a method is over the ridge, and where it is not as far as was wanted."""
    short = [
        f"{cell.title} ({each.value:+.3f})"
        for cell, each in zip(CELLS, leads, strict=True)
        if each.value < OVER_RIDGE
    ]
    return (
        f"{name.capitalize()} less the {RIDGE}: {shown(mean_gain(leads, sets), signed=True)} in "
        f"the mean, {OVER_RIDGE:g} or more in {len(leads) - len(short)} of {len(leads)} cells"
        f"{', less in ' if short else ''}{', '.join(short)}."
    )


def _judged(
    bench: Workbench,
    cell: Cell,
    by_tokens: Mapping[int, FrozenCell],
    tokenizers: Mapping[int, TextTokenizer],
    seed: int,
) -> Judged:
    """Scores of one seed's judged prompts."""
    frozen = by_tokens[MAX_LENGTH]
    part = frozen.part(seed)
    judged = part == "judge"

    def compute() -> Result:
        head = fit_head(frozen.table, frozen.features, part, halves.HEAD, seed)[1]
        half = halves.half_scores(frozen.table, part, tokenizers[MAX_LENGTH])
        scores = {GRADIENTS: halves.with_half(frozen.table, part, head, half)[0]}
        for name, tokens in ((SOLVED, MAX_LENGTH), (LONG, LONGER)):
            scores[name] = _solved(by_tokens[tokens], ~judged, tokenizers[tokens])
        return {"scores": {name: each[judged].tolist() for name, each in scores.items()}}

    settings = {**asdict(halves.HEAD), "seed": seed, "max_length": [MAX_LENGTH, LONGER]}
    found = bench.kept(f"{cell.title}, seed {seed}", settings, compute, SOLVED_CODE, frozen.sha256)
    scores = {name: np.array(each) for name, each in found["scores"].items()}
    scores[RIDGE] = ridge_scores(bench, Setting(cell), frozen, frozen.table, seed, 0)
    prompts = np.flatnonzero(judged)
    scores[LENGTH] = length_scores(frozen.table, prompts)
    return Judged(prompts, scores)


def _solved(
    frozen: FrozenCell, known: NDArray[np.bool_], tokenizer: TextTokenizer
) -> NDArray[np.float32]:
    """Scores of all prompts by a solved head and a half, both of those that are known."""
    lengths, texts = frozen.table, frozen.table.prompts
    target, _ = rank_targets(lengths, known[lengths.prompt], lengths.censored)
    given = frozen.features[known], target[known]
    head, fitted = solve_head(*given), fit_half(lengths, known, tokenizer)
    heads_unseen = out_of_fold(known, head_scorer(*given))
    halves_unseen = half_out_of_fold(lengths, known, tokenizer, fitted.penalty)
    item = known[lengths.prompt]
    heads, ngrams = heads_unseen[lengths.prompt[item]], halves_unseen[lengths.prompt[item]]
    share = share_of(
        heads,
        ngrams,
        lengths.length[item],
        lengths.group[item],
        int(known.sum()),
        lengths.censored[item],
    )
    half = NgramHalf(fitted.arrays(factor_of(share, heads, ngrams)), tokenizer)
    scores = frozen.features @ head.weight + head.bias
    return scores.astype(np.float32) + half.score(texts, tokenizer.encode(texts))
