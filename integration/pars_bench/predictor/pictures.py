"""The plots beside the page: time per prompt, and how far that is from the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pars_bench import chart
from pars_bench.chart import Palette
from pars_bench.predictor.goals import OVER_FLOOR
from pars_bench.predictor.report import (
    PredictorReport,
    SpeedCell,
    cells_of,
    is_student,
    median_ms,
    ours,
    over_floor,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's, told apart by people who confuse red and green; the marks tell them apart too.
_COLOURS = ("#0b62c4", "#c2570c", "#0a8a5f", "#a3358b", "#1c2430", "#56b4e9", "#8a6d00", "#6b7480")
_MARKS = "os^Dv<>PX*"
PALETTE = Palette({"ink": "#1c2430", "line": "#d5dae1"})


def write_pictures(page: Path, report: PredictorReport) -> list[tuple[str, str]]:
    """Write each plot beside ``page`` as SVG.

    Returns:
        (file name, caption) of each.
    """
    found = []
    everyone = list(report["contestants"])
    # A student's products take so little that its multiple would flatten the encoders' curves.
    mine = [n for n, entry in ours(report) if entry["work"] is not None and not is_student(entry)]
    batch = report["speed"][0]["batch"]
    for name, caption, draw in (
        (
            "latency",
            f"Milliseconds a prompt by its length, batch {batch}, one thread; both axes are "
            "logarithmic, baselines are dashed.",
            _curves(report, everyone, batch, median_ms, "milliseconds a prompt"),
        ),
        (
            "floor",
            f"An encoder's time as a multiple of its own floor, batch {batch}, one thread: 1 is as "
            f"fast as the machine's products allow, {OVER_FLOOR:g} (dotted) what was wanted.",
            _curves(
                report,
                mine,
                batch,
                lambda cell, name: over_floor(report, cell, name),
                "times the floor",
                wanted=OVER_FLOOR,
            ),
        ),
    ):
        path = page.with_name(f"{page.stem}-{name}.svg")
        chart.write_svg(path, draw, PALETTE)
        found.append((path.name, caption))
    return found


def _curves(
    report: PredictorReport,
    names: Sequence[str],
    batch: int,
    measure: Callable[[SpeedCell, str], float | None],
    label: str,
    wanted: float | None = None,
) -> chart.Draw:
    """One curve a contestant, which has its colour in every plot.

    From zero with a line at what was wanted, or logarithmic.
    """
    order = list(report["contestants"])

    def draw(axes: Axes, palette: Palette) -> None:
        cells = cells_of(report, report["speed"][0]["threads"], batch)
        for name in names:
            place = order.index(name)
            points = [(cell["length"], measure(cell, name)) for cell in cells]
            known = [(x, y) for x, y in points if y is not None]
            if known:
                axes.plot(
                    *zip(*known, strict=True),
                    color=_COLOURS[place % len(_COLOURS)],
                    marker=_MARKS[place % len(_MARKS)],
                    linestyle="-" if report["contestants"][name]["folder"] else "--",
                    markersize=4,
                    linewidth=1.5,
                    label=name,
                )
        lengths = [cell["length"] for cell in cells]
        axes.set(xscale="log", xlabel="tokens of the prompt", ylabel=label)
        if wanted is not None:
            axes.axhline(wanted, color=palette["ink"], linestyle=":", linewidth=1)
            axes.set_ylim(bottom=0)
        else:
            axes.set_yscale("log")
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")

    return draw
