"""The report's pictures: drawn once, written as PNG and as SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_bench import chart
from pars_bench.chart import Palette
from pars_bench.findings import NAMES
from pars_bench.measures import DECILES, decile_means, deciles_by_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One run's columns by name, in submission order.
Columns = Mapping[str, NDArray[np.float64]]


# Told apart by people who confuse red and green; the line styles tell them apart in grey too.
LIGHT = Palette(
    {
        "ink": "#1c2430",
        "line": "#d5dae1",
        "fcfs": "#6b7480",
        "pars": "#0b62c4",
        "oracle": "#0a8a5f",
        "prompt_length": "#c2570c",
    }
)
_STYLES = {"fcfs": "-", "pars": "-", "oracle": (0, (5, 2)), "prompt_length": (0, (1, 1.2))}


@dataclass(frozen=True)
class Picture:
    """One plot: how to draw it and what it shows."""

    name: str
    """File name without suffix, and id in the page."""
    pattern: str
    caption: str
    draw: Callable[[Axes, Mapping[str, Columns], Palette], None]


def _curve(axes: Axes, values: NDArray[np.float64], policy: str, palette: Palette) -> None:
    shares = np.arange(1, values.size + 1) / values.size
    axes.step(
        np.sort(values),
        shares,
        where="post",
        color=palette[policy],
        linestyle=_STYLES[policy],
        linewidth=2.2 if policy == "pars" else 1.5,
        label=NAMES[policy],
    )


def _cdf_ttlt(axes: Axes, runs: Mapping[str, Columns], palette: Palette) -> None:
    for policy, columns in runs.items():
        _curve(axes, columns["ttlt"], policy, palette)
    axes.set(xlabel="time to last token, s", ylabel="share of requests", ylim=(0, 1.02))
    axes.set_xlim(left=0)


def _cdf_per_token(axes: Axes, runs: Mapping[str, Columns], palette: Palette) -> None:
    for policy, columns in runs.items():
        _curve(axes, columns["ttlt"] / columns["tokens"], policy, palette)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set(xlabel="seconds per response token (log)", ylabel="share of requests", ylim=(0, 1.02))


def _who_pays(axes: Axes, runs: Mapping[str, Columns], palette: Palette) -> None:
    lengths = runs["fcfs"]["tokens"]
    deciles = deciles_by_length(lengths)
    medians = [
        f"{np.median(lengths[deciles == decile]):.0f}" if np.any(deciles == decile) else "-"
        for decile in range(DECILES)
    ]
    for policy, columns in runs.items():
        means = decile_means(columns["ttlt"], deciles)
        axes.plot(
            range(DECILES),
            [np.nan if mean is None else mean for mean in means],
            color=palette[policy],
            linestyle=_STYLES[policy],
            linewidth=2.2 if policy == "pars" else 1.5,
            marker="o",
            markersize=3.5,
            label=NAMES[policy],
        )
    axes.set_xticks(range(DECILES), medians)
    axes.set(xlabel="tenths of requests, by median response tokens")
    axes.set_ylabel("mean time to last token, s")
    axes.set_ylim(bottom=0)


def pictures(patterns: Sequence[str]) -> list[Picture]:
    """All plots, by arrival pattern."""
    return [
        picture
        for pattern in patterns
        for picture in (
            Picture(
                f"{pattern}-ttlt",
                pattern,
                "Share of requests whose answer is complete within a time. Further left and up "
                "is better.",
                _cdf_ttlt,
            ),
            Picture(
                f"{pattern}-per-token",
                pattern,
                "Time to last token over response tokens. A short answer behind long ones waits "
                "seconds for each of its tokens.",
                _cdf_per_token,
            ),
            Picture(
                f"{pattern}-who-pays",
                pattern,
                "Who gains and who pays: requests in ten equal groups from the shortest answers "
                "to the longest.",
                _who_pays,
            ),
        )
    ]


def write_png(picture: Picture, runs: Mapping[str, Columns], folder: Path) -> None:
    """Write ``folder/<name>.png`` on white."""
    chart.write_png(folder / f"{picture.name}.png", _drawn(picture, runs), LIGHT)


def inline_svg(picture: Picture, runs: Mapping[str, Columns]) -> str:
    """An ``<svg>`` element in the page's colours."""
    return chart.inline_svg(picture.name, _drawn(picture, runs), tuple(NAMES), picture.caption)


def _drawn(picture: Picture, runs: Mapping[str, Columns]) -> chart.Draw:
    return lambda axes, palette: picture.draw(axes, runs, palette)
