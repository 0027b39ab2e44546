"""What the median of several answers to a prompt is worth as a label, beside one answer."""

from __future__ import annotations

from pars_model.experiments import matrix_page
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.matrix import RATE, Setting, compare
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section
from pars_model.experiments.workbench import Workbench

REFERENCE = "one sample"
DELTA = 0.05
VARIANTS = {
    REFERENCE: HeadSettings(delta=DELTA, samples=1),
    "median of 2": HeadSettings(delta=DELTA, samples=2),
    "median of 3": HeadSettings(delta=DELTA, samples=3),
    "median of 4": HeadSettings(delta=DELTA, samples=4),
    "median of 4, a quarter of the prompts": HeadSettings(delta=DELTA, samples=4, share=0.25),
}
INTRODUCTION = """\
The margin objective on the features and splits of the first section, with the middle one of its
learning rates; only the lengths that are learned from differ, and the median of all samples always
judges. Each seed takes other samples, and the n-gram ridge learns from the same one sample as the
reference. *A quarter of the prompts* is what as many answers buy where each prompt is asked four
times and not once. Only this cell has four runs of one LLM on thousands of prompts. They decode
differently (greedy to temperature 0.7), so one sample here is less noisy than one at a high
temperature."""


def run(bench: Workbench) -> Section:
    """Compare numbers of samples in the cell that has several of each prompt."""
    found = [compare(bench, Setting(CELLS[0]), VARIANTS, REFERENCE, (RATE,))]
    names = list(VARIANTS)
    return Section(
        "Medians of samples",
        [INTRODUCTION, *matrix_page.parts(found, names, REFERENCE)],
        {"samples.png": matrix_page.picture(found, names, REFERENCE)},
        {"samples.png": f"Tau of each number of samples less that of {REFERENCE}"},
        matrix_page.short("Samples", found, names, REFERENCE),
    )
