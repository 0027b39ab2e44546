"""The study's pictures: gain against load, and gain against tau."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pars_bench import chart
from pars_bench.chart import Palette
from pars_bench.replay.page.compare import Replay
from pars_bench.study.design import ENGINES, TAU, TRAFFIC
from pars_bench.study.gains import MEAN, ORACLE, PARS, RERUN, Place, places
from pars_bench.study.schema import Part, StudyFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by people who confuse red and green.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1c2430")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
_MARKS = "osv^D<>"
_GAIN = "mean TTLT, times better"
_PALETTE = Palette({"ink": "#1c2430", "line": "#d5dae1"})


def write_pictures(study: StudyFile, folder: Path, stem: str) -> list[tuple[str, str]]:
    """Write every picture that the study has runs for.

    Returns:
        File name and caption of each.
    """
    found = []
    sweep = [
        part
        for part in study["parts"]
        if part["section"] == "sweep" and len(Replay(part["report"]).loads) > 1
    ]
    if sweep:
        name = f"{stem}-load.png"
        chart.write_png(folder / name, _Loads(sweep), _PALETTE)
        found.append((name, f"Gain of PARS (score model, tau {TAU:g}) by load, mean over seeds."))
    tau = [part for part in study["parts"] if part["section"] == "tau"]
    if tau:
        name = f"{stem}-tau.png"
        chart.write_png(folder / name, _Taus(tau), _PALETTE)
        caption = "Gain by the ranker's tau; bars are the least and the greatest of the seeds."
        found.append((name, caption))
    return found


class _Loads:
    """One curve per traffic; of the second GPU in the traffic's colour, thin and hollow."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def __call__(self, axes: Axes, palette: Palette) -> None:
        kinds = list(dict.fromkeys(part["traffic"] for part in self._parts))
        for part in self._parts:
            cells = places([part])
            number = kinds.index(part["traffic"])
            first = part["engine"] == self._parts[0]["engine"]
            gpu = "" if first else f", {ENGINES[part['engine']].name}"
            axes.plot(
                [cell.load for cell in cells],
                [fmean(cell.gain(PARS, MEAN)) for cell in cells],
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=_DASHES[number % len(_DASHES)],
                marker=_MARKS[number % len(_MARKS)],
                markerfacecolor=None if first else "white",
                markersize=3.5 if first else 5,
                linewidth=1.5 if first else 0.8,
                label=TRAFFIC[part["traffic"]].title + gpu,
            )
        axes.axhline(1.0, color=palette["ink"], linewidth=0.8)
        axes.set(xlabel="load", ylabel=_GAIN)


class _Taus:
    """One curve per traffic; what knows more stands at its own tau."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._cells = places(parts)

    def __call__(self, axes: Axes, palette: Palette) -> None:
        for number, cell in enumerate(self._cells):
            colour = _COLOURS[number % len(_COLOURS)]
            models = [look.policy for look in cell.orders if look.kind == "pars"]
            where = f", {cell.traffic}" if len(self._cells) > 1 else ""
            for policies, mark, name in (
                (models, "o", "score model"),
                ([RERUN], "*", "rerun oracle"),
                ([ORACLE], "D", "oracle"),
            ):
                gains = [cell.gain(policy, MEAN) for policy in policies]
                if not all(gains):  # not every traffic has a rerun
                    continue
                mean = [fmean(gain) for gain in gains]
                axes.errorbar(
                    [tau_of(cell, policy) for policy in policies],
                    mean,
                    yerr=[
                        [m - min(gain) for m, gain in zip(mean, gains, strict=True)],
                        [max(gain) - m for m, gain in zip(mean, gains, strict=True)],
                    ],
                    color=colour,
                    marker=mark,
                    linestyle="-" if len(policies) > 1 else "none",
                    markersize=8 if mark == "*" else 4,
                    linewidth=1.5,
                    label=name + where,
                )
        axes.axhline(1.0, color=palette["ink"], linewidth=0.8)
        axes.set(xlabel="Kendall's tau of score and length")
        axes.set_ylabel(_GAIN)


def tau_of(cell: Place, policy: str) -> float:
    """The tau that an order's scores really had, mean over seeds."""
    runs = Replay(cell.part["report"]).runs(policy, cell.load)
    taus = [(run["scores"] or {}).get("tau") for run in runs]
    return fmean(tau for tau in taus if isinstance(tau, float))
