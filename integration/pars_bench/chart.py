"""Charts in one look, as PNG and as SVG whose colours are a page's CSS variables."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pars_export.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Palette:
    """Colours by role: ``ink``, ``line`` and one per curve."""

    colours: Mapping[str, str]

    def __getitem__(self, role: str) -> str:
        return self.colours[role]


Draw = Callable[["Axes", Palette], None]
"""Draws one chart."""


def new_figure(draw: Draw, palette: Palette, legend: bool = True) -> Figure:
    """A chart, its legend above it."""
    # Figure without pyplot: no global state, no display, nothing left open.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.4), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    draw(axes, palette)
    axes.grid(color=palette["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette["line"])
    axes.tick_params(which="both", colors=palette["ink"], labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=palette["ink"], fontsize=9.5)
    if legend:
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


def write_png(path: Path, draw: Draw, palette: Palette) -> None:
    """Write a chart on white."""
    with atomic_file(path) as temporary:
        figure = new_figure(draw, palette)
        figure.savefig(temporary, format="png", dpi=160, facecolor="white")


def write_svg(path: Path, draw: Draw, palette: Palette) -> None:
    """Write a chart on white as an SVG file, the same bytes for the same chart."""
    import matplotlib as mpl

    with (
        atomic_file(path) as temporary,
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}),
    ):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure = new_figure(draw, palette)
        figure.savefig(temporary, format="svg", metadata=nothing, facecolor="white")


def inline_svg(name: str, draw: Draw, roles: Sequence[str], label: str, legend: bool = True) -> str:
    """An ``<svg>`` element whose colours are the page's CSS variables and whose text is text.

    Args:
        name: Keeps the ids of several charts in one page apart.
        draw: Draws the chart with the colours ``ink``, ``line`` and those of ``roles``.
        roles: Of the curves.
        label: What a reader who cannot see the chart is told.
        legend: Whether the chart has one of its own.
    """
    import matplotlib as mpl

    # Each colour is drawn as a mark that nothing else has, and replaced after drawing.
    every = ("ink", "line", *roles)
    marks = Palette({role: f"#0102{number:02x}" for number, role in enumerate(every, start=16)})
    buffer = io.StringIO()
    # The salt makes the file reproducible too.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        new_figure(draw, marks, legend).savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Inside HTML an SVG needs no name spaces and no fixed size; the view box gives its shape.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("xlink:href", "href")
    for role in every:
        svg = svg.replace(marks[role], f"var(--{role.replace('_', '-')})")
    label = escape(label, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
