"""The report's pictures: drawn once, written as PNG and as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_bench.findings import NAMES
from pars_bench.measures import DECILES, decile_means, deciles_by_length
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One run's columns by name, in submission order.
Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Palette:
    """Colours by role: ``ink``, ``line`` and one per order."""

    colours: Mapping[str, str]

    def __getitem__(self, role: str) -> str:
        return self.colours[role]


ROLES = ("ink", "line", *NAMES)

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
# In the page each colour is a CSS variable: these marks are replaced after drawing.
_MARKS = Palette({role: f"#0102{number:02x}" for number, role in enumerate(ROLES, start=16)})
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


def _figure(picture: Picture, runs: Mapping[str, Columns], palette: Palette) -> Figure:
    # Figure without pyplot: no global state, no display, nothing left open.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.4), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    picture.draw(axes, runs, palette)
    axes.grid(color=palette["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette["line"])
    axes.tick_params(which="both", colors=palette["ink"], labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=palette["ink"], fontsize=9.5)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=2,
        frameon=False,
        fontsize=9,
        labelcolor=palette["ink"],
        handlelength=2.6,
    )
    return figure


def write_png(picture: Picture, runs: Mapping[str, Columns], folder: Path) -> None:
    """Write ``folder/<name>.png`` on white."""
    with atomic_file(folder / f"{picture.name}.png") as temporary:
        figure = _figure(picture, runs, LIGHT)
        figure.savefig(temporary, format="png", dpi=160, facecolor="white")


def inline_svg(picture: Picture, runs: Mapping[str, Columns], label: str) -> str:
    """An ``<svg>`` element whose colours are the page's CSS variables and whose text is text."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # The salt keeps the ids of several pictures in one page apart, and the file reproducible.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        figure = _figure(picture, runs, _MARKS)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Inside HTML an SVG needs no name spaces and no fixed size; the view box gives its shape.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("xlink:href", "href")
    for role in ROLES:
        svg = svg.replace(_MARKS[role], f"var(--{role.replace('_', '-')})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
