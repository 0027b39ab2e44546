"""Places on the frontier as a table's rows, sentences and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pars_model.experiments.matrix import OVER_RIDGE, RIDGE, shown
from pars_model.experiments.page import png, word
from pars_model.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

    from pars_bench.chart import Palette

TEACHER = "MiniLM, 6 layers"
OTHERS = (TEACHER, RIDGE)
Leads = Mapping[str, Mapping[str, Estimate]]
"""Of each student over each of `OTHERS`, in tau, with the interval of the difference."""
BURST = 256
"""Prompts that are many in one call."""
HEAD = ("predictor", "tau [95 %]", "us a prompt, alone", f"us a prompt, {BURST} at once", "minutes")
NEAR, FAST = 0.015, 100.0
"""Wanted of a student: so near its teacher, in so many microseconds."""
HEIGHTS = (4, -9, -18, 13, -27)
"""Points above its mark at which a name may stand, until one is free."""


@dataclass(frozen=True)
class Place:
    """One point of the frontier.

    Attributes:
        name: of the predictor.
        tau: on the judged prompts.
        alone: microseconds of a prompt scored alone.
        burst: microseconds of a prompt among many in one call.
        minutes: of training; None where nothing was trained.
    """

    name: str
    tau: Estimate
    alone: float
    burst: float
    minutes: float | None

    def row(self) -> list[str]:
        """For the table."""
        minutes = "-" if self.minutes is None else f"{self.minutes:.1f}"
        return [self.name, shown(self.tau), f"{self.alone:,.0f}", f"{self.burst:,.0f}", minutes]


def goals(places: Sequence[Place], leads: Leads, least: float) -> str:
    """What was wanted of the students, and what came of it.

    Args:
        places: all.
        leads: of each student over its teacher and over the ridge.
        least: microseconds of a hollow student alone.
    """
    by_name = {place.name: place for place in places}
    lines = [
        f"Wanted of a student: within {NEAR} of its teacher ({TEACHER}), {OVER_RIDGE} over the "
        f"ridge, at most {FAST:.0f} us alone and in a burst."
    ]
    for name, lead in leads.items():
        place, behind, over = by_name[name], lead[TEACHER], lead[RIDGE]
        slowest = max(place.alone, place.burst)
        told = (
            f"{_signed(behind)} to its teacher ({word(-behind.value <= NEAR)})",
            f"{_signed(over)} to the ridge ({word(over.value >= OVER_RIDGE)})",
            f"{slowest:.0f} us at worst ({word(slowest <= FAST)})",
        )
        lines.append(f"- {name}: {', '.join(told)}.")
    lines.append(
        f"- With one channel and one neuron left a student still takes {least:.0f} us alone: that "
        "is what reading a text and calling numpy some thirty times cost, whatever is computed."
    )
    return "\n".join([lines[0], "", *lines[1:]])


def _signed(lead: Estimate) -> str:
    return f"{lead.value:+.4f} [{lead.low:+.3f}, {lead.high:+.3f}]"


def picture(places: Sequence[Place]) -> Callable[[Path], None]:
    """Writes a PNG: tau over microseconds on a log axis, a pair of marks for each predictor."""

    def draw(axes: Axes, palette: Palette) -> None:
        for kind, colour, mark in (("alone", "curve0", "o"), ("burst", "curve1", "s")):
            axes.errorbar(
                [getattr(place, kind) for place in places],
                [place.tau.value for place in places],
                yerr=[
                    [place.tau.value - (place.tau.low or place.tau.value) for place in places],
                    [(place.tau.high or place.tau.value) - place.tau.value for place in places],
                ],
                fmt=mark,
                markersize=4,
                color=palette[colour],
                label="alone" if kind == "alone" else f"{BURST} at once",
            )
        axes.set_xscale("log")
        axes.set_xlabel("microseconds a prompt, tokenising included")
        axes.set_ylabel("tau")
        axes.margins(x=0.25)
        taken: list[Bbox] = []
        for place in places:
            label = axes.annotate(
                place.name,
                (max(place.alone, place.burst), place.tau.value),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=6.5,
                color=palette["ink"],
            )
            for height in HEIGHTS:
                label.xyann = (4, height)
                box = label.get_window_extent()
                if not any(box.overlaps(other) for other in taken):
                    break
            taken.append(box)

    return png(draw)
