"""The objectives on the same features, data and steps, each with its own learning rate."""

from __future__ import annotations

from pars_model.experiments import matrix_page
from pars_model.experiments.cells import Cell
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.matrix import Setting, compare
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
RATES = (1e-3, 4e-3)
"""Learning rates that each objective tries."""
INTRODUCTION = """\
A head of one hidden layer on frozen MiniLM features (means of three layers), the same features,
data, steps and learning rates to try (0.001 and 0.004) for each objective. Each seed has its own
split by prompt text: 70 % to learn from, 10 % to choose the learning rate and the epoch, 20 % to
judge on. Pairs whose lengths differ by less than 5 % teach nothing. Intervals are bootstraps over
prompts, drawn for all methods alike."""


def run(bench: Workbench) -> Section:
    """Compare the objectives in every cell."""
    variants = {name: HeadSettings(objective=name, delta=DELTA) for name in OBJECTIVES}
    found = [compare(bench, Setting(cell), variants, REFERENCE, RATES) for cell in CELLS]
    return Section(
        "Objectives",
        [INTRODUCTION, *matrix_page.parts(found, OBJECTIVES, REFERENCE)],
        {"objectives.png": matrix_page.picture(found, OBJECTIVES, REFERENCE)},
        {"objectives.png": f"Tau of each objective less that of {REFERENCE}, by cell"},
    )
