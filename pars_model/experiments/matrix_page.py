"""A matrix of comparisons as Markdown tables, sentences and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pars_model.experiments.judging import mean_gain, prompt_sets
from pars_model.experiments.matrix import (
    BASELINES,
    OVER_RIDGE,
    RIDGE,
    Comparison,
    rows_of,
    shown,
)
from pars_model.experiments.page import COLOURS, png, table
from pars_model.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pars_bench.chart import Palette

HEAD = ("method", "learning rates", "tau [95 %]", "sd over seeds", "difference [95 %]")


def overall(comparisons: Sequence[Comparison], name: str) -> Estimate:
    """A method's mean difference to the reference over sets of prompts."""
    gains = [each.standings[name].gain for each in comparisons]
    return mean_gain(gains, sets_of(comparisons))


def sets_of(comparisons: Sequence[Comparison]) -> list[int]:
    """The set of prompts of each cell."""
    return prompt_sets([each.truth.prompts for each in comparisons])


def short(
    subject: str, comparisons: Sequence[Comparison], names: Sequence[str], reference: str
) -> str:
    """One line: the mean difference to the reference, of the worst and of the best method."""
    gains = {name: overall(comparisons, name) for name in names if name != reference}
    order = sorted(gains, key=lambda name: gains[name].value)
    ends = [
        f"{shown(gains[name], signed=True)} ({name})"
        for name in dict.fromkeys([order[0], order[-1]])
    ]
    sets = len(set(sets_of(comparisons)))
    over = f", in the mean over {sets} sets of prompts" if sets > 1 else ""
    return f"{subject}: tau less that of {reference} is {' to '.join(ends)}{over}."


def over_ridge(comparisons: Sequence[Comparison], reference: str) -> str:
    """One line: what a method gains over the n-gram ridge in the worst and in the best cell."""
    gains = {each.setting.title: gain_over_ridge(each, reference) for each in comparisons}
    ends = sorted(gains, key=gains.__getitem__)
    told = " to ".join(f"{gains[title]:+.3f} ({title})" for title in (ends[0], ends[-1]))
    few = sum(gain < OVER_RIDGE for gain in gains.values())
    return (
        f"On the frozen encoder tau of {reference} less that of the {RIDGE} is {told}, and under "
        f"{OVER_RIDGE:+.2f} in {few} of {len(gains)} cells."
    )


def gain_over_ridge(comparison: Comparison, method: str) -> float:
    """Tau of a method less that of the n-gram ridge in a cell."""
    return comparison.standings[method].tau.value - comparison.standings[RIDGE].tau.value


def verdict(comparisons: Sequence[Comparison], names: Sequence[str], reference: str) -> str:
    """One sentence per method: its mean difference, and whether the interval leaves out zero.

    Below, where the reference is beaten: in the mean, and in single cells.
    """
    others = [name for name in names if name != reference]
    lines = []
    for name in others:
        gain = overall(comparisons, name)
        word = "better" if above(gain) else "worse" if below(gain) else "no different"
        lines.append(f"- {name}: {shown(gain, signed=True)}, {word} within 95 %.")
    of = f"Difference to {reference}:"
    cells, sets = len(comparisons), len(set(sets_of(comparisons)))
    if cells > 1:
        of = f"Mean difference to {reference} over the {cells} cells"
        alike = "; cells with prompts in common count as one, and err together"
        of += f" ({sets} sets of prompts{alike}):" if sets < cells else ":"
    return "\n".join([of, "", *lines, *_where_beaten(comparisons, others, reference)])


def above(gain: Estimate) -> bool:
    """Whether a difference is above zero beyond its interval."""
    return gain.low is not None and gain.low > 0


def below(gain: Estimate) -> bool:
    """Whether a difference is below zero beyond its interval."""
    return gain.high is not None and gain.high < 0


def _where_beaten(
    comparisons: Sequence[Comparison], others: Sequence[str], reference: str
) -> list[str]:
    """Where a method beats the reference in single cells, and whether one does in the mean."""
    if len(comparisons) == 1:
        return []
    mean = [name for name in others if above(overall(comparisons, name))]
    cells = [
        f"{name} in {each.setting.title} ({shown(each.standings[name].gain, signed=True)})"
        for name in others
        for each in comparisons
        if above(each.standings[name].gain)
    ]
    if not mean and not cells:
        return ["", f"Nothing beats {reference}, neither in the mean nor in any one cell."]
    told = f"Beyond the interval {reference} is beaten by {' and '.join(mean) or 'nothing'} in the"
    found = f"{told} mean, and in single cells by {'; '.join(cells) or 'nothing'}."
    many = len(others) * len(comparisons)
    chance = f"Were none of these {many} real, {many / 40:.1f} would still be above zero beyond it."
    return ["", f"{found} {chance}"]


def seeds(count: int, spread: bool = False) -> str:
    """How often everything was repeated, and what intervals hold.

    Args:
        count: number of seeds.
        spread: whether the tables tell how far tau spreads over them.
    """
    beside = ", whose standard deviation stands beside" if spread else ""
    return (
        f"{count} seeds, each with a split, weights and batches of its own; tau is "
        f"their mean. Intervals are over prompts and not over seeds{beside}. The minutes hold the "
        "features, in each section that uses them, and leave out the bootstraps."
    )


def parts(comparisons: Sequence[Comparison], names: Sequence[str], reference: str) -> list[str]:
    """Seeds, verdict and one table per cell, ceiling and baselines in each."""
    found = [seeds(len(comparisons[0].runs), spread=True), verdict(comparisons, names, reference)]
    for each in comparisons:
        prompts, judged = each.prompts
        ceiling = "too few repeated samples for a ceiling"
        if each.ceiling is not None:
            rerun, median = each.ceiling
            ceiling = f"ceiling: one run against another {shown(rerun)}"
            ceiling += f", against the median of the others {shown(median)}" if median else ""
        found.append(
            f"**{each.setting.title}**: {prompts} prompts, {judged} judged per seed; {ceiling}. "
            f"{reference} less the n-gram ridge: {gain_over_ridge(each, reference):+.3f}."
        )
        found.append(table(HEAD, rows_of(each, [*names, *BASELINES], reference)))
    return found


def picture(
    comparisons: Sequence[Comparison], names: Sequence[str], reference: str
) -> Callable[[Path], None]:
    """Writes a PNG: each method's difference to the reference, one dot and interval per cell."""

    def draw(axes: Axes, palette: Palette) -> None:
        others = [name for name in names if name != reference]
        step = 0.7 / len(comparisons)
        for number, each in enumerate(comparisons):
            gains = [each.standings[name].gain for name in others]
            places = [place + (number + 0.5) * step - 0.35 for place in range(len(others))]
            values = [gain.value for gain in gains]
            errors = [
                [gain.value - (gain.low if gain.low is not None else gain.value) for gain in gains],
                [
                    (gain.high if gain.high is not None else gain.value) - gain.value
                    for gain in gains
                ],
            ]
            axes.errorbar(
                values,
                places,
                xerr=errors,
                fmt="o",
                markersize=4,
                color=palette[f"curve{number % len(COLOURS)}"],
                label=each.setting.short_title,
            )
        axes.axvline(0, color=palette["ink"], linewidth=1)
        axes.set_yticks(range(len(others)), others)
        axes.invert_yaxis()
        axes.set_xlabel(f"tau less that of {reference}")

    return png(draw)
