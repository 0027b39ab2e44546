"""Which pairs teach: the paper's fixed delta, and filters that follow the noise of the lengths."""

from __future__ import annotations

import numpy as np

from pars_model.evidence import FEWEST, equal_delta, label_noise
from pars_model.experiments import matrix_page
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.matrix import Comparison, Setting, compare
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section
from pars_model.experiments.workbench import Workbench

REFERENCE = "delta 0"
SURVIVE, SPREAD = 0.75, 0.4
RATES = (1e-3,)
"""What margin chose in the section above; the filters share it."""
VARIANTS = {
    REFERENCE: HeadSettings(),
    **{f"delta {delta:g}": HeadSettings(delta=delta) for delta in (0.05, 0.1, 0.2, 0.4)},
    "rerun noise": HeadSettings(survive=SURVIVE),
    "noise model": HeadSettings(survive=SURVIVE, noise="length"),
    "weight by evidence": HeadSettings(evidence="weight"),
    "margin by evidence": HeadSettings(evidence="margin"),
}
SETTINGS = (
    Setting(CELLS[0], sample=3),
    Setting(CELLS[0]),
    Setting(CELLS[3]),
    Setting(CELLS[2]),
)
INTRODUCTION = """\
The margin objective on the features and splits of the section above, with one learning rate; only
which pairs teach, and how much, differs. *Rerun noise*: a delta per LLM, such that a rerun would
keep the order of the pairs with a probability of 0.75, from the LLM's own repeated samples (where
a table has too few, a spread of 0.4 of log lengths is taken: what other LLMs show at temperatures
of 0.3 to 0.7). *Noise model*: the same with a spread that falls with the length. *Weight* and
*margin*: all pairs teach, and weight or margin is the evidence, twice that probability less one.
Alpaca, Vicuna-7B stands here twice: learned from one sample (temperature 0.7), and from the median
of four, which judges both."""


def run(bench: Workbench) -> Section:
    """Compare the filters in every cell."""
    found = [compare(bench, setting, VARIANTS, REFERENCE, RATES) for setting in SETTINGS]
    names = list(VARIANTS)
    noises = "\n".join(map(_noise, found))
    return Section(
        "The filter",
        [INTRODUCTION, noises, *matrix_page.parts(found, names, REFERENCE)],
        {"filter.png": matrix_page.picture(found, names, REFERENCE)},
        {"filter.png": f"Tau of each filter less that of {REFERENCE}, by cell"},
    )


def _noise(comparison: Comparison) -> str:
    """How noisy the labels of a cell are, and the fixed delta that their noise amounts to."""
    labels = comparison.labels
    repeated = np.diff(labels.sample_start) > 1
    noise = float(np.median(label_noise(labels, repeated, "group", SPREAD)))
    source = "from repeated samples" if repeated.sum() >= FEWEST else "assumed"
    return (
        f"- {comparison.setting.title}: noise of a label's log {noise:.2f} ({source}); an order "
        f"that survives with {SURVIVE:g} takes a delta of {equal_delta(noise, SURVIVE):.2f}."
    )
