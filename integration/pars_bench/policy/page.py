"""The policy sweep as a Markdown page, and the setting that it speaks for."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pars_bench.experiment import Facts, interval_text
from pars_export.files import atomic_file

LEAST_KEPT = 0.9
"""Of the unbounded order's gain, at every load and with every predictor."""

Results = dict[tuple[str, float], list[dict[str, list[float]]]]
"""(load, tau) -> one entry a seed: setting -> its measures."""


class Measure(enum.IntEnum):
    """Where a measure stands in a setting's list."""

    GAIN_KEPT = 0
    P99 = 1
    WORST_SLOWDOWN = 2


def write_page(
    path: Path, cells: Mapping[str, Facts], results: Mapping[str, Facts], command: str
) -> None:
    """Write the page."""
    with atomic_file(path) as temporary:
        temporary.write_text(render(cells, results, command), encoding="utf-8")


def render(cells: Mapping[str, Facts], results: Mapping[str, Facts], command: str) -> str:
    """The whole page."""
    grouped: Results = {}
    ratios: dict[str, list[float]] = {}
    for name, parameters in cells.items():
        load = "burst" if parameters["load"] is None else f"{parameters['load']:.2f}"
        key = (load, cast(float, parameters["tau"]))
        facts = cast(dict[str, list[float]], results[name])
        grouped.setdefault(key, []).append(facts)
        ratios.setdefault(load, []).append(cast(float, results[name]["oracle_ratio"]))
    best = choose(grouped)
    parts = [
        "# Patience and share",
        f"Made by `{command}`: 64 slots, log-normal lengths (median 150, spread 1), each request a "
        "token a step, no prefill and no KV cache; the score is the length times log-normal noise "
        "of the Kendall tau named, the expected length is calibrated. *Gain kept* is (arrival "
        "order - setting) / (arrival order - oracle) of the mean time to last token, the oracle "
        "being least true length first without bound; mean over seeds, ± its 95 % interval. The "
        "last two columns are ratios to arrival order at the middle tau: p99 of the time to last "
        "token, and the worst slowdown (the largest time to last token over length).",
        _choice(grouped, best),
    ]
    for load in ratios:
        parts += [
            f"## {'Burst' if load == 'burst' else f'Load {load}'}",
            f"The oracle's mean is {statistics.fmean(ratios[load]):.2f} times better than arrival "
            "order's.",
            _table(grouped, load, best),
        ]
    return "\n\n".join(parts) + "\n"


def choose(results: Results) -> str:
    """The setting with the lowest worst slowdown among those that keep nearly all of the gain.

    Nearly all: ``LEAST_KEPT`` of what the order without a bound gains, for every load and tau; the
    worst slowdown is what patience is there to bound, at the load and tau where it is largest.
    """
    settings = [name for name in next(iter(results.values()))[0] if "/" in name]
    keeping = [name for name in settings if _least_kept(results, name) >= LEAST_KEPT]
    return min(keeping, key=lambda name: _worst(results, name), default="unbounded")


def _least_kept(results: Results, setting: str) -> float:
    """Of the unbounded order's gain, at the load and tau where it is least."""
    gain = Measure.GAIN_KEPT
    return min(
        _mean(seeds, setting, gain) / _mean(seeds, "unbounded", gain) for seeds in results.values()
    )


def _worst(results: Results, setting: str) -> float:
    return max(_mean(seeds, setting, Measure.WORST_SLOWDOWN) for seeds in results.values())


def _mean(seeds: list[dict[str, list[float]]], setting: str, measure: Measure) -> float:
    return statistics.fmean(facts[setting][measure] for facts in seeds)


def _choice(results: Results, best: str) -> str:
    return (
        f"Of the settings that keep at least {LEAST_KEPT:.0%} of the unbounded order's gain at "
        f"every load and with every predictor, patience/share **{best}** has the lowest worst "
        f"slowdown: {_worst(results, best):.2f} of arrival order's where it is worst, against "
        f"{_worst(results, 'unbounded'):.2f} without a bound. It keeps "
        f"{_least_kept(results, best):.0%} where it keeps least."
    )


def _table(results: Results, load: str, best: str) -> str:
    taus = sorted({tau for found, tau in results if found == load}, reverse=True)
    middle = taus[len(taus) // 2]
    lines = [
        "| patience | share | "
        + " | ".join(f"gain kept, tau {tau:g}" for tau in taus)
        + " | p99 | worst slowdown |",
        "|---:|---:|" + "---:|" * (len(taus) + 2),
    ]
    idle = []
    for setting in results[load, middle][0]:
        if setting == "oracle_ratio":
            continue
        if "/" in setting and setting != best and _is_idle(results, load, setting):
            idle.append(setting)
            continue
        patience, _, share = setting.partition("/")
        cells = [f"**{patience}**", f"**{share}**"] if setting == best else [patience, share]
        for tau in taus:
            kept = [100 * facts[setting][Measure.GAIN_KEPT] for facts in results[load, tau]]
            cells.append(f"{interval_text(kept, 0)} %")
        cells += [
            f"{_mean(results[load, middle], setting, i):.2f}"
            for i in (Measure.P99, Measure.WORST_SLOWDOWN)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if idle:
        lines += ["", f"Nobody runs out of patience here with {', '.join(idle)}: as without bound."]
    return "\n".join(lines)


def _is_idle(results: Results, load: str, setting: str) -> bool:
    return all(
        facts[setting] == facts["unbounded"]
        for (found, _), seeds in results.items()
        if found == load
        for facts in seeds
    )
