"""A matrix of comparisons as Markdown tables, sentences and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pars_model.experiments.judging import mean_gain
from pars_model.experiments.matrix import BASELINES, RIDGE, Comparison, rows_of, shown
from pars_model.experiments.page import table
from pars_model.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pars_bench.chart import Palette

HEAD = ("method", "learning rate", "tau [95 %]", "sd over seeds", "difference [95 %]")


def overall(comparisons: Sequence[Comparison], name: str) -> Estimate:
    """A method's mean difference to the reference over cells."""
    return mean_gain([each.standings[name].gain for each in comparisons])


def verdict(comparisons: Sequence[Comparison], names: Sequence[str], reference: str) -> str:
    """One sentence per method: its mean difference, and whether the interval leaves out zero."""
    lines = []
    for name in names:
        if name == reference:
            continue
        gain = overall(comparisons, name)
        assert gain.low is not None
        assert gain.high is not None
        word = "better" if gain.low > 0 else "worse" if gain.high < 0 else "no different"
        lines.append(f"- {name}: {shown(gain, signed=True)}, {word} within 95 %.")
    of = f"Mean difference to {reference} over the {len(comparisons)} cells"
    of = of if len(comparisons) > 1 else f"Difference to {reference}"
    return "\n".join([f"{of}:", "", *lines, *_nothing_better(comparisons, names, reference)])


def _nothing_better(
    comparisons: Sequence[Comparison], names: Sequence[str], reference: str
) -> list[str]:
    """Says so where no method beats the reference, in the mean or in any cell."""
    gains = [
        gain
        for name in names
        if name != reference
        for gain in (
            overall(comparisons, name),
            *(each.standings[name].gain for each in comparisons),
        )
    ]
    if any(gain.low is not None and gain.low > 0 for gain in gains):
        return []
    return ["", f"Nothing beats {reference}, neither in the mean nor in any one cell."]


def parts(comparisons: Sequence[Comparison], names: Sequence[str], reference: str) -> list[str]:
    """Verdict and one table per cell, ceiling and baselines in each."""
    found = [verdict(comparisons, names, reference)]
    for each in comparisons:
        prompts, judged = each.prompts
        ceiling = "too few repeated samples for a ceiling"
        if each.ceiling is not None:
            rerun, median = each.ceiling
            ceiling = f"ceiling: one run against another {shown(rerun)}"
            ceiling += f", against the median of the others {shown(median)}" if median else ""
        ridge = each.standings[RIDGE].tau.value
        best = each.standings[reference].tau.value - ridge
        found.append(
            f"**{each.setting.title}**: {prompts} prompts, {judged} judged per seed; {ceiling}. "
            f"{reference} less the n-gram ridge: {best:+.3f}."
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
                color=palette[f"curve{number % 6}"],
                label=each.setting.title.partition(" (")[
                    0
                ],  # a legend of two columns has no more room
            )
        axes.axvline(0, color=palette["ink"], linewidth=1)
        axes.set_yticks(range(len(others)), others)
        axes.invert_yaxis()
        axes.set_xlabel(f"tau less that of {reference}")

    def write(path: Path) -> None:
        from pars_bench.chart import Palette, write_png

        colours = ("#0b62c4", "#c2570c", "#0a8a5f", "#8a3fa0", "#6b7480", "#b0912a")
        curves = {f"curve{number}": colour for number, colour in enumerate(colours)}
        write_png(path, draw, Palette({"ink": "#1c2430", "line": "#d5dae1", **curves}))

    return write
