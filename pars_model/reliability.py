"""Are expected tokens and their intervals right? Measured on prompts that nothing was fitted to.

Where each true length lies in the distribution forecast for it must be uniform in [0, 1] (Dawid
1984): a share p of answers at or below the forecast's p-quantile. Cut-off answers lie above their
place; all shares and means are product-limit estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_export.calibration import Calibration
from pars_export.survival import product_limit_shares, restricted_mean
from pars_model.metrics import estimates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pars_bench.chart import Palette

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVELS = tuple(step / 20 for step in range(1, 20))
INTERVALS = (0.5, 0.8, 0.9)
"""Central intervals whose coverage is told."""
_BINS = 10


def reliability(
    calibration: Calibration,
    scores: Floats,
    lengths: Floats,
    censored: NDArray[np.bool_],
    prompt: Ints,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, object]:
    """How far forecasts are from what came.

    Args:
        calibration: with a spread.
        scores: (n,) of responses.
        lengths: (n,) tokens, lower bounds where censored.
        censored: (n,) which were cut off.
        prompt: (n,) which prompt; responses of one are drawn together.
        resamples: bootstrap draws per interval.
        seed: of the draws.

    Returns:
        Plain values. With intervals, as ``{"value", "low", "high"}``: ``tokens_ratio`` (expected
        over true mean tokens) and ``coverage`` (of each central interval, by its name in percent).
        Without, for resampling makes distances grow: ``tokens_error`` (mean distance of expected
        from true mean tokens over ten bins of equal count, as a share of the mean) and
        ``level_error`` (mean distance of the share below a quantile from its level). ``bins``
        (responses, expected and true mean tokens), and ``levels`` with the ``shares`` below them.
    """
    expected = calibration.expected_tokens(scores).astype(np.float64)
    level = calibration.levels_of(scores, lengths)
    ends = ~censored

    def shares(items: Ints) -> Floats:
        return product_limit_shares(level[items], ends[items], _ASKED)

    def bins(items: Ints) -> list[tuple[int, float, float]]:
        parts = np.array_split(items[np.argsort(expected[items], kind="stable")], _BINS)
        return [
            (
                len(part),
                float(expected[part].mean()),
                restricted_mean(lengths[part], ends[part]),
            )
            for part in parts
            if len(part)
        ]

    def statistic(items: Ints) -> Floats:
        found = dict(zip(_ASKED, shares(items), strict=True))
        inside = [found[_high(each)] - found[_low(each)] for each in INTERVALS]
        true = restricted_mean(lengths[items], ends[items])
        return np.array([expected[items].mean() / max(true, 1.0), *inside])

    tokens_ratio, *coverage = estimates(statistic, prompt, resamples, seed)
    everything = np.arange(len(scores))
    by_level = dict(zip(_ASKED, shares(everything), strict=True))
    count, mean, true = np.array(bins(everything)).T
    error = np.average(np.abs(mean - true), weights=count) / max(np.average(true, weights=count), 1)
    return {
        "tokens_ratio": asdict(tokens_ratio),
        "tokens_error": float(error),
        "level_error": float(np.mean([abs(by_level[p] - p) for p in LEVELS])),
        "coverage": {
            f"{each:.0%}": asdict(found) for each, found in zip(INTERVALS, coverage, strict=True)
        },
        "bins": [
            {"responses": count, "expected": mean, "true": true}
            for count, mean, true in bins(everything)
        ],
        "levels": list(LEVELS),
        "shares": [float(by_level[p]) for p in LEVELS],
    }


def _low(interval: float) -> float:
    return round((1 - interval) / 2, 4)


def _high(interval: float) -> float:
    return round((1 + interval) / 2, 4)


_ASKED = tuple(sorted({*LEVELS, *map(_low, INTERVALS), *map(_high, INTERVALS)}))


def write_plots(folder: Path, found: Sequence[tuple[str, Mapping[str, object]]]) -> list[Path]:
    """Two charts of the reliability of named cells; the paths of their files.

    Args:
        folder: where ``tokens.png`` and ``intervals.png`` are written.
        found: name of each cell and what `reliability` returned for it.
    """
    from pars_bench.chart import Palette, write_png

    colours = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2")
    # A legend of two columns has no more room.
    found = [
        (name if len(name) <= 20 else f"{name[:19]}\N{HORIZONTAL ELLIPSIS}", cell)
        for name, cell in found[: len(colours)]
    ]
    roles = {f"curve_{place}": colour for place, colour in enumerate(colours)}
    palette = Palette({"ink": "#1f2937", "line": "#e5e7eb", **roles})
    folder.mkdir(parents=True, exist_ok=True)
    charts: dict[str, Callable[[Axes, Palette], None]] = {
        "tokens.png": lambda axes, colour: _draw_tokens(axes, colour, found),
        "intervals.png": lambda axes, colour: _draw_levels(axes, colour, found),
    }
    for name, draw in charts.items():
        write_png(folder / name, draw, palette)
    return [folder / name for name in charts]


def _draw_tokens(
    axes: Axes, palette: Palette, found: Sequence[tuple[str, Mapping[str, object]]]
) -> None:
    every: list[float] = []
    for place, (name, cell) in enumerate(found):
        bins = cell["bins"]
        assert isinstance(bins, list)
        expected, true = [each["expected"] for each in bins], [each["true"] for each in bins]
        axes.plot(expected, true, "o-", ms=4, color=palette[f"curve_{place}"], label=name)
        every += [*expected, *true]
    _diagonal(axes, palette, min(every), max(every))
    axes.set(xscale="log", yscale="log", xlabel="expected tokens", ylabel="true mean tokens")


def _draw_levels(
    axes: Axes, palette: Palette, found: Sequence[tuple[str, Mapping[str, object]]]
) -> None:
    for place, (name, cell) in enumerate(found):
        levels, shares = cell["levels"], cell["shares"]
        assert isinstance(levels, list)
        assert isinstance(shares, list)
        axes.plot(levels, shares, "o-", ms=3, color=palette[f"curve_{place}"], label=name)
    _diagonal(axes, palette, 0.0, 1.0)
    axes.set(xlabel="level of the forecast quantile", ylabel="share of responses below")


def _diagonal(axes: Axes, palette: Palette, low: float, high: float) -> None:
    axes.plot([low, high], [low, high], "--", color=palette["ink"], lw=0.9, label="right")
