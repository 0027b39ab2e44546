"""Runs of a replay side by side: by load and order, over the seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import cast

from pars_bench.replay.page.names import KNOWING, Look, looks
from pars_bench.replay.schema import Decile, ReplayReport, ReplayRun
from pars_bench.schema import Summary

Number = Callable[[ReplayRun], float | None]
"""One figure of a run; None where it has none."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread | None:
    """None of nothing."""
    known = list(values)
    return Spread(fmean(known), min(known), max(known)) if known else None


def statistic(measure: str, name: str) -> Number:
    """``name`` of ``schema.STATISTICS`` of a measure such as ``ttlt``."""

    def number(run: ReplayRun) -> float | None:
        summary = cast("dict[str, Summary | None]", run)[measure]
        return None if summary is None else cast("dict[str, float]", summary)[name]

    return number


@dataclass(frozen=True)
class Replay:
    """A report with the questions that the page asks of it."""

    report: ReplayReport

    @cached_property
    def looks(self) -> list[Look]:
        """The orders as they were run."""
        return looks(list(dict.fromkeys(run["policy"] for run in self.report["runs"])))

    @cached_property
    def loads(self) -> list[float]:
        """Lightest first."""
        return sorted({run["load"] for run in self.report["runs"]})

    @cached_property
    def seeds(self) -> list[int]:
        """Least first."""
        return sorted({run["seed"] for run in self.report["runs"]})

    @cached_property
    def load(self) -> float:
        """The traffic's own load, or the one that was run nearest to it."""
        return min(self.loads, key=lambda load: abs(math.log(load)) if load > 0 else math.inf)

    @cached_property
    def base(self) -> Look | None:
        """Arrival order."""
        return next((look for look in self.looks if look.kind == "fcfs"), None)

    @cached_property
    def subject(self) -> Look | None:
        """The order that the page is about: PARS, else a score model, else what knows most."""
        for kind in ("pars", *reversed(KNOWING)):
            of_kind = [look for look in self.looks if look.kind == kind]
            if of_kind:
                return min(of_kind, key=lambda look: "@" in look.policy)
        return next((look for look in self.looks if look is not self.base), None)

    def runs(self, policy: str, load: float) -> list[ReplayRun]:
        """One for each seed that was run."""
        return [r for r in self.report["runs"] if r["policy"] == policy and r["load"] == load]

    def sample(self, policy: str, load: float) -> list[ReplayRun]:
        """The run of the least seed, for curves that cannot be averaged; empty if there is none."""
        return [run for run in self.runs(policy, load) if run["seed"] == self.seeds[0]]

    def tenths(self, policy: str, load: float) -> list[Decile]:
        """Tenths of the requests by response length: means over seeds, bounds as wide as theirs."""
        seeds = (run["slowdown_by_decile"] for run in self.runs(policy, load))
        return [
            {
                "fewest_tokens": min(each["fewest_tokens"] for each in tenths),
                "most_tokens": max(each["most_tokens"] for each in tenths),
                "ttlt": fmean(each["ttlt"] for each in tenths),
                "slowdown": fmean(each["slowdown"] for each in tenths),
            }
            for tenths in zip(*seeds, strict=False)
        ]

    def value(self, policy: str, load: float, number: Number) -> Spread | None:
        """A figure over seeds."""
        numbers = (number(run) for run in self.runs(policy, load))
        return spread(value for value in numbers if value is not None)

    def ratio(self, policy: str, load: float, number: Number) -> Spread | None:
        """A figure over arrival order's with the same seed: below 1 is less."""
        if self.base is None:
            return None
        before = {run["seed"]: number(run) for run in self.runs(self.base.policy, load)}
        pairs = [(number(run), before.get(run["seed"])) for run in self.runs(policy, load)]
        return spread(own / base for own, base in pairs if own is not None and base)


def mean_depth(run: ReplayRun) -> float:
    """Mean depth of the queue."""
    return run["mean_queue"]


def most_waiting(run: ReplayRun) -> float:
    """Greatest depth of the queue."""
    return max((depth for _, depth in run["queue_depth"]), default=0.0)


def longest_tenth(figure: str) -> Number:
    """``ttlt`` or ``slowdown`` of the longest tenth of the responses."""

    def number(run: ReplayRun) -> float | None:
        deciles = run["slowdown_by_decile"]
        return cast("dict[str, float]", deciles[-1])[figure] if deciles else None

    return number


def attained(measure: str, limit_s: float) -> Number:
    """Share of requests within a limit."""

    def number(run: ReplayRun) -> float | None:
        shares = (
            each["share"]
            for each in run["slo"]
            if (each["measure"], each["limit_s"]) == (measure, limit_s)
        )
        return next(shares, None)

    return number


def limits(runs: Sequence[ReplayRun]) -> list[tuple[str, float]]:
    """All (measure, seconds) that were asked for."""
    return list(dict.fromkeys((e["measure"], e["limit_s"]) for run in runs for e in run["slo"]))
