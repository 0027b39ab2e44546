"""The charts of a replay's page; each says its numbers to those who cannot see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pars_bench import chart
from pars_bench.chart import Palette
from pars_bench.findings import seconds
from pars_bench.replay.page.compare import Replay, statistic
from pars_bench.replay.page.names import ROLES, Look
from pars_bench.replay.page.rows import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_DASHES: dict[str, str | tuple[int, tuple[float, ...]]] = {
    "solid": "-",
    "dashed": (0, (5, 2)),
    "dotted": (0, (1, 1.2)),
}
# What a curve of any number of requests looks like; the tail closer, for there it is read.
_QUANTILES = np.concatenate((np.linspace(0, 0.98, 99), np.linspace(0.981, 0.999, 19), [0.9995, 1]))


@dataclass(frozen=True)
class Picture:
    """One chart."""

    name: str
    caption: str
    gist: str
    """Its numbers in words."""
    draw: chart.Draw

    def svg(self) -> str:
        """The chart in the page's colours; its legend is the page's."""
        label = f"{self.caption} {self.gist}"
        return chart.inline_svg(self.name, self.draw, ROLES, label, legend=False)


def quantiles(values: Array) -> Array:
    """What :func:`distribution` draws of a run."""
    return np.asarray(np.quantile(values, _QUANTILES), dtype=np.float64)


def distribution(
    name: str, caption: str, xlabel: str, curves: Sequence[tuple[Look, Array]]
) -> Picture:
    """Share of requests within a time, on a logarithmic axis of seconds."""

    def draw(axes: Axes, palette: Palette) -> None:
        for look, values in curves:
            axes.plot(np.maximum(values, 1e-4), _QUANTILES, **_curve(look, palette))
        _label(axes.xaxis, axes.set_xscale)
        axes.set(xlabel=f"{xlabel} (log)", ylabel="share of requests", ylim=(0, 1.02))

    half, most = (int(np.searchsorted(_QUANTILES, share)) for share in (0.5, 0.9))
    gist = "; ".join(
        f"{look.name}: half within {seconds(values[half])} s, nine in ten within "
        f"{seconds(values[most])} s"
        for look, values in curves
    )
    return Picture(name, caption, f"{gist}.", draw)


def tail(name: str, caption: str, xlabel: str, curves: Sequence[tuple[Look, Array]]) -> Picture:
    """Share of requests that take longer than a time, both logarithmic: the slowest in detail."""

    def draw(axes: Axes, palette: Palette) -> None:
        for look, values in curves:
            axes.plot(np.maximum(values[:-1], 1e-4), 1 - _QUANTILES[:-1], **_curve(look, palette))
        _label(axes.xaxis, axes.set_xscale)
        _label(axes.yaxis, axes.set_yscale)
        axes.set(xlabel=f"{xlabel} (log)", ylabel="share that takes longer (log)")

    place = int(np.searchsorted(_QUANTILES, 0.99))
    gist = "; ".join(
        f"{look.name}: one in a hundred takes longer than {seconds(values[place])} s, the slowest "
        f"{seconds(values[-1])} s"
        for look, values in curves
    )
    return Picture(name, caption, f"{gist}.", draw)


def load_sweep(replay: Replay, name: str, caption: str, which: str) -> Picture:
    """A statistic of the time to last token by load, with its range over seeds."""
    number = statistic("ttlt", which)
    curves = []
    for look in replay.looks:
        found = [(load, replay.value(look.policy, load, number)) for load in replay.loads]
        curves.append((look, [(load, each) for load, each in found if each]))

    def draw(axes: Axes, palette: Palette) -> None:
        for look, points in curves:
            loads = [load for load, _ in points]
            axes.plot(loads, [each.mean for _, each in points], **_curve(look, palette, "o"))
            if len(replay.seeds) > 1:
                low, high = [each.low for _, each in points], [each.high for _, each in points]
                axes.fill_between(loads, low, high, color=palette[look.role], alpha=0.15, lw=0)
        _label(axes.yaxis, axes.set_yscale)
        axes.set(xlabel="load, times the traffic", ylabel=f"{which} time to last token, s (log)")
        axes.set_xticks(replay.loads, [f"{load:g}" for load in replay.loads])
        axes.minorticks_off()

    gist = "; ".join(
        f"{look.name}: {', '.join(f'{seconds(each.mean)} s at {load:g}' for load, each in points)}"
        for look, points in curves
    )
    return Picture(name, caption, f"{gist}.", draw)


def who_pays(replay: Replay, name: str, caption: str, figure: str) -> Picture:
    """``ttlt`` or ``slowdown`` by tenths of the response length, mean over seeds."""
    curves = []
    ticks: list[str] = []
    for look in replay.looks:
        tenths = replay.tenths(look.policy, replay.load)
        if tenths:
            values = [each["ttlt"] if figure == "ttlt" else each["slowdown"] for each in tenths]
            curves.append((look, values))
            ticks = [f"{each['most_tokens']}" for each in tenths]
    label = "mean time to last token, s" if figure == "ttlt" else "mean latency over service time"

    def draw(axes: Axes, palette: Palette) -> None:
        for look, values in curves:
            axes.plot(range(len(values)), values, **_curve(look, palette, "o"))
        _label(axes.yaxis, axes.set_yscale)
        axes.set_xticks(range(len(ticks)), ticks)
        axes.tick_params(axis="x", labelrotation=45 if max(map(len, ticks), default=0) > 3 else 0)
        axes.set(xlabel="tenths of requests, up to so many tokens", ylabel=f"{label} (log)")

    gist = "; ".join(
        f"{look.name}: {seconds(values[0])} in the shortest tenth, {seconds(values[-1])} in the "
        "longest"
        for look, values in curves
    )
    return Picture(name, caption, f"{gist}.", draw)


def queue_over_time(replay: Replay, name: str, caption: str) -> Picture:
    """Waiting requests over time, of the seed that is shown."""
    curves = [
        (look, np.asarray([*run["queue_depth"], [run["makespan"], 0.0]]).T)
        for look in replay.looks
        for run in replay.sample(look.policy, replay.load)
    ]

    def draw(axes: Axes, palette: Palette) -> None:
        for look, (times, depths) in curves:
            axes.step(times, depths, where="post", **_curve(look, palette))
        axes.set(xlabel="seconds", ylabel="waiting requests", ylim=(0, None), xlim=(0, None))

    gist = "; ".join(f"{look.name}: at most {depths.max():.0f}" for look, (_, depths) in curves)
    return Picture(name, caption, f"{gist}.", draw)


def _curve(look: Look, palette: Palette, marker: str = "") -> dict[str, Any]:
    subject = look.kind == "pars"
    return {
        "color": palette[look.role],
        "linestyle": _DASHES[look.dash],
        "linewidth": 2.2 if subject else 1.5,
        "marker": marker or None,
        "markersize": 3.5,
        "zorder": 3 if subject else 2,
    }


def _label(axis: Axis, set_scale: Callable[[str], None]) -> None:
    """Make an axis logarithmic, with plain numbers and enough of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    set_scale("log")
    low, high = axis.get_view_interval()
    # Over few decades a tick at each power of ten is too few to read a value from.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(_plain)
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _place: float) -> str:
    return f"{value:g}"
