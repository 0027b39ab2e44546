"""What the median of several answers to a prompt is worth as a label, beside one answer."""

from __future__ import annotations

from pars_model.experiments import matrix_page
from pars_model.experiments.cells import Cell
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.matrix import Setting, compare
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section
from pars_model.experiments.workbench import Workbench

REFERENCE = "one sample"
RATES = (1e-3,)
"""What margin chose in the first section."""
DELTA = 0.05
ONE = HeadSettings(delta=DELTA, samples=1)
FOUR = {
    REFERENCE: ONE,
    "median of 2": HeadSettings(delta=DELTA, samples=2),
    "median of 3": HeadSettings(delta=DELTA, samples=3),
    "median of 4": HeadSettings(delta=DELTA, samples=4),
    "median of 4, a quarter of the prompts": HeadSettings(delta=DELTA, samples=4, share=0.25),
}
TWO = {
    REFERENCE: ONE,
    "median of 2": HeadSettings(delta=DELTA, samples=2),
    "median of 2, half of the prompts": HeadSettings(delta=DELTA, samples=2, share=0.5),
}
CELL_OF_TWO = Cell("hh_harmless_test", "anthropic-52b-rlhf-mix", "HH harmless, Anthropic-52B")
INTRODUCTION = """\
The margin objective on the features and splits of the first section; only the lengths that are
learned from differ, and the median of all samples always judges. Each seed takes other samples.
*A quarter of the prompts* (or half) is what the same number of answers buys where each prompt is
asked four times (or twice) and not once."""


def run(bench: Workbench) -> Section:
    """Compare numbers of samples in the cells that have several of each prompt."""
    four = [compare(bench, Setting(CELLS[0]), FOUR, REFERENCE, RATES)]
    two = [compare(bench, Setting(CELL_OF_TWO), TWO, REFERENCE, RATES)]
    return Section(
        "Medians of samples",
        [
            INTRODUCTION,
            *matrix_page.parts(four, list(FOUR), REFERENCE),
            *matrix_page.parts(two, list(TWO), REFERENCE),
        ],
    )
