"""The objectives on the same features, data and steps, each with its own learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from pars_model.experiments import matrix_page
from pars_model.experiments.cells import Cell
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.matrix import RATES, Comparison, Setting, compare
from pars_model.experiments.page import Section
from pars_model.experiments.workbench import Workbench
from pars_model.losses import OBJECTIVES

CELLS = (
    Cell("alpaca_vicuna7b_20k", "vicuna-7b-v1.1", "Alpaca, Vicuna-7B"),
    Cell("alpaca_52k", "text-davinci-003", "Alpaca, text-davinci-003", prompts=10_000),
    Cell("mmlu_pro", "Meta-Llama-3_1-70B-Instruct", "MMLU-Pro, Llama-3.1-70B", prompts=4_000),
    Cell("r1distill_gsm8k", "DeepSeek-R1-Distill-Qwen-7B", "GSM8K, R1-Qwen-7B (reasoning)", True),
    Cell("zeroeval_crux", "o1-mini-2024-09-12", "CRUXEval, o1-mini (reasoning)", True),
)
REFERENCE = "margin"
DELTA = 0.05
TRIED = ", ".join(f"{rate:g}" for rate in RATES)
INTRODUCTION = f"""\
A head of one hidden layer on frozen MiniLM features (means of three layers), the same features,
data, steps and learning rates to try for each objective ({TRIED}).
Each seed has its own split by prompt text: 70 % to learn from, 10 % to choose the learning rate and
the epoch, 20 % to judge on. Pairs whose lengths differ by less than 5 % teach nothing. Intervals
are bootstraps over prompts, drawn for all methods alike. Of the cells marked (reasoning), o1-mini's
lengths are those of the visible answer alone, and R1's are counted in words."""


def run(bench: Workbench) -> Section:
    """Compare the objectives in every cell."""
    variants = {name: HeadSettings(objective=name, delta=DELTA) for name in OBJECTIVES}
    found = [compare(bench, Setting(cell), variants, REFERENCE) for cell in CELLS]
    seeds, verdict, *cells = matrix_page.parts(found, OBJECTIVES, REFERENCE)
    return Section(
        "Objectives",
        [INTRODUCTION, seeds, verdict, default(found), at_edges(found), *cells],
        {"objectives.png": matrix_page.picture(found, OBJECTIVES, REFERENCE)},
        {"objectives.png": f"Tau of each objective less that of {REFERENCE}, by cell"},
        f"{matrix_page.short('Loss', found, OBJECTIVES, REFERENCE)} "
        f"{matrix_page.over_ridge(found, REFERENCE)}",
    )


def default(comparisons: Sequence[Comparison]) -> str:
    """Whether the default objective, the reference, should stay the default."""
    better = [
        name
        for name in OBJECTIVES
        if name != REFERENCE and matrix_page.above(matrix_page.overall(comparisons, name))
    ]
    if better:
        return f"By the mean, {' and '.join(better)} should be the default in place of {REFERENCE}."
    return f"{REFERENCE} stays the default: in the mean none is above it beyond the interval."


def at_edges(comparisons: Sequence[Comparison]) -> str:
    """How often the lowest and the highest learning rate were chosen."""
    counts = []
    for each in comparisons:
        chosen = [rate for rates in each.rates.values() for rate in rates]
        lowest, highest = chosen.count(min(RATES)), chosen.count(max(RATES))
        counts.append(f"{each.setting.title} {lowest} and {highest} of {len(chosen)}")
    return f"Choices that fell on the lowest and on the highest learning rate: {'; '.join(counts)}."
