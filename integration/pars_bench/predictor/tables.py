"""Figures and tables as the page of `pars bench predictor` shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pars_bench.predictor.report import PredictorReport, SpeedCell


def by_length(
    report: PredictorReport, cells: Sequence[SpeedCell], content: Callable[[SpeedCell, str], str]
) -> str:
    """A column for each cell, a row for each contestant that has any content."""
    lines = [
        f"| tokens | {' | '.join(str(cell['length']) for cell in cells)} |",
        f"|---|{'---:|' * len(cells)}",
    ]
    for name, entry in report["contestants"].items():
        shown = [content(cell, name) for cell in cells]
        if any(shown):
            lines.append(f"| {bold(name, entry['auto'])} | {' | '.join(shown)} |")
    return "\n".join(lines)


def spread(found: tuple[float, float, float] | None) -> str:
    """A median with its quartiles, given as (low, median, high)."""
    if found is None:
        return ""
    low, middle, high = found
    if low == high:
        return number(middle)
    return f"{number(middle)} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    """With three digits, or as many as it has before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bold(name: str, auto: bool) -> str:
    """What a folder is loaded with by default stands out."""
    return f"**{name}**" if auto else name
