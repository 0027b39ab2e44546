"""Which pairs teach: the paper's fixed delta, and filters that follow the noise of the lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_model.evidence import FEWEST, equal_delta, label_noise, median_variance
from pars_model.experiments import matrix_page
from pars_model.experiments.cells import Cell, read_dataset
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.matrix import RATE, Comparison, Setting, compare
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section
from pars_model.experiments.workbench import Workbench
from pars_model.lengths import LengthTable

REFERENCE = "delta 0"
SURVIVE, SPREAD = 0.75, 0.4
VARIANTS = {
    REFERENCE: HeadSettings(),
    **{f"delta {delta:g}": HeadSettings(delta=delta) for delta in (0.05, 0.1, 0.2, 0.4)},
    "rerun noise": HeadSettings(survive=SURVIVE),
    "noise model": HeadSettings(survive=SURVIVE, noise="length"),
    "weight by evidence": HeadSettings(evidence="weight"),
    "margin by evidence": HeadSettings(evidence="margin"),
}
LLAMA, LLAMA_AGAIN = "Llama-3.1-405B-Inst@sambanova", "Meta-Llama-3.1-405B-Instruct@hyperbolic"
"""One LLM, served by two hosts."""
SETTINGS = (
    Setting(CELLS[0], sample=3),
    Setting(CELLS[0]),
    Setting(Cell("zeroeval_gsm", LLAMA, "GSM8K, Llama-3.1-405B", hosts=(LLAMA_AGAIN,))),
    Setting(Cell("zeroeval_math_l5", LLAMA, "MATH, Llama-3.1-405B", hosts=(LLAMA_AGAIN,))),
    Setting(CELLS[3]),
    Setting(CELLS[2]),
)
OASST = "oasst_eval"
"""Data set of many LLMs that answered each prompt more than once in one configuration."""
INTRODUCTION = f"""\
The margin objective on the features and splits of the section above, with the middle one of its
learning rates; only which pairs teach, and how much, differs. *Rerun noise*: a delta per LLM, such
that a rerun would keep the order of the pairs with a probability of {SURVIVE:g}, from the LLM's own
repeated samples; where a table has too few, a spread of {SPREAD:g} of log lengths is assumed.
*Noise model*: the same with a spread that falls with the length; where it is assumed, the two are
one and the same fixed delta. *Weight* and *margin*: all pairs teach, and weight or margin is the
evidence, twice that probability less one. Alpaca, Vicuna-7B stands here twice: learned from one
sample (temperature 0.7), and from the median of four, which judges both. Llama-3.1-405B answered
at two hosts, at each once (temperature 0): its labels are the medians of two."""


def run(bench: Workbench) -> Section:
    """Compare the filters in every cell."""
    found = [compare(bench, setting, VARIANTS, REFERENCE, (RATE,)) for setting in SETTINGS]
    names = list(VARIANTS)
    noises = "\n".join(map(_noise, found))
    others = _assumed(found, others_spreads(bench.data_root))
    return Section(
        "The filter",
        [INTRODUCTION, noises, *others, *matrix_page.parts(found, names, REFERENCE)],
        {"filter.png": matrix_page.picture(found, names, REFERENCE)},
        {"filter.png": f"Tau of each filter less that of {REFERENCE}, by cell"},
        matrix_page.short("Filter", found, names, REFERENCE),
    )


def _noise(comparison: Comparison) -> str:
    """How noisy the labels of a cell are, and the fixed delta that their noise amounts to."""
    labels = comparison.labels
    noise = float(np.median(label_noise(labels, _repeated(labels), "group", SPREAD)))
    single = _single(labels)
    source = "assumed: *rerun noise* and *noise model* coincide"
    if single is not None:
        source = f"from repeated samples, single ones spread by {single:.2f}"
    return (
        f"- {comparison.setting.title}: noise of a label's log {noise:.2f} ({source}); an order "
        f"that survives with {SURVIVE:g} takes a delta of {equal_delta(noise, SURVIVE):.2f}."
    )


def _repeated(labels: LengthTable) -> NDArray[np.bool_]:
    """The items whose samples tell the noise."""
    return (np.diff(labels.sample_start) > 1) & ~labels.censored


def _single(labels: LengthTable) -> float | None:
    """Spread of the log of single samples; None where too few items have several."""
    repeated = _repeated(labels)
    if repeated.sum() < FEWEST:
        return None
    noise = label_noise(labels, repeated, "group", SPREAD)
    return float(np.median(noise / np.sqrt(median_variance(np.diff(labels.sample_start)))))


def others_spreads(root: Path) -> list[float]:
    """Spread of the log lengths of one prompt's answers, of each LLM and configuration of OASST.

    Only answers that are known to have ended count. LLMs with too few prompts answered twice are
    left out.
    """
    _, rows = read_dataset(root, OASST)
    answers: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["finish"] == "stop":
            by_prompt = answers.setdefault((row["model"], row["gen_config"]), {})
            by_prompt.setdefault(row["prompt_id"], []).append(np.log1p(row["length"]))
    variances = [
        [np.var(logs, ddof=1) for logs in by_prompt.values() if len(logs) > 1]
        for by_prompt in answers.values()
    ]
    return [float(np.sqrt(np.mean(each))) for each in variances if len(each) >= FEWEST]


def _assumed(comparisons: Sequence[Comparison], others: Sequence[float]) -> list[str]:
    """What the assumed spread stands beside: that of cells with repeated samples, and others'."""
    cells = [single for each in comparisons if (single := _single(each.labels)) is not None]
    if not cells or not others:
        return []
    low, middle, high = np.percentile(others, [25, 50, 75])
    return [
        f"The {SPREAD:g} is a guess. Single answers to one prompt spread by {min(cells):.2f} to "
        f"{max(cells):.2f} in the cells above that have several, and by {low:.2f} to {high:.2f} in "
        f"the middle half of {len(others)} open LLMs and decodings of OASST ({middle:.2f} in the "
        "very middle; answers that ended by themselves)."
    ]
