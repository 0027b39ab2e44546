"""Figures of one cell of the study: an engine under a traffic at a load, several orders in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from pars_bench.experiment import interval_text
from pars_bench.replay.page.compare import Number, Replay, longest_tenth, statistic
from pars_bench.replay.page.names import Look
from pars_bench.study.design import ENGINES, SCORE_RATE, TAU, TRAFFIC
from pars_bench.study.schema import Part
from pars_bench.tables import NOTHING

BASE, ORACLE, RERUN = "fcfs", "oracle", "rerun"
PARS = f"pars@tau={TAU:g}"
READER = "pars"
"""By a predictor that reads the prompts."""
MEAN, TAIL = statistic("ttlt", "mean"), statistic("ttlt", "p99")
PER_TOKEN = statistic("per_token", "mean")
LONGEST = longest_tenth("ttlt")

Key = tuple[str, str, int, bool, float, float]
"""Traffic, engine, requests, whether all at once, scores per second, load."""


@dataclass(frozen=True)
class Place:
    """One cell; its figures are lists with one value per seed."""

    part: Part
    load: float

    @property
    def key(self) -> Key:
        """Equal for the same cell in two sections."""
        part = self.part
        names = part["traffic"], part["engine"]
        return *names, part["size"], part["burst"], part["score_rate"], self.load

    @property
    def traffic(self) -> str:
        """In words."""
        return TRAFFIC[self.part["traffic"]].title

    @property
    def engine(self) -> str:
        """In words."""
        return ENGINES[self.part["engine"]].title

    @property
    def arrivals(self) -> str:
        """In words."""
        size, rate = self.part["size"], self.part["score_rate"]
        words = f"burst of {size}" if self.part["burst"] else f"load {self.load:g}, {size} requests"
        return words if rate == SCORE_RATE else f"{words}, {rate:g} scores a second"

    @cached_property
    def replay(self) -> Replay:
        """The runs with the study's PARS, and of no other scores."""
        report = self.part["report"]
        runs = [
            run
            for run in report["runs"]
            if run["policy"].partition("@")[0] != "pars" or run["policy"] == PARS
        ]
        return Replay({**report, "runs": runs})

    @property
    def orders(self) -> list[Look]:
        """All that arrival order is compared with."""
        return [look for look in Replay(self.part["report"]).looks if look.policy != BASE]

    def values(self, policy: str, number: Number) -> list[float]:
        """A figure of an order."""
        found = (number(run) for run in Replay(self.part["report"]).runs(policy, self.load))
        return [value for value in found if value is not None]

    def gain(self, policy: str, number: Number) -> list[float]:
        """Arrival order's figure over the order's: above 1 the order is better."""
        own, base = self.values(policy, number), self.values(BASE, number)
        return [b / o for b, o in zip(base, own, strict=False) if o > 0]

    def gap(self, policy: str) -> list[float] | None:
        """Share of the oracle's gain; None where that cannot be told from zero in some seed."""
        runs = Replay(self.part["report"]).runs(policy, self.load)
        known = [run["oracle_gap_closed"] for run in runs]
        shares = [share for share in known if share is not None]
        return shares if shares and len(shares) == len(known) else None


def places(parts: Iterable[Part]) -> list[Place]:
    """Every cell once, however many sections it stands in."""
    found: dict[Key, Place] = {}
    for part in parts:
        for load in Replay(part["report"]).loads:
            place = Place(part, load)
            found.setdefault(place.key, place)
    return list(found.values())


def times(values: list[float]) -> str:
    """``1.84 ± 0.10``, as a factor over seeds; a dash of nothing."""
    return interval_text(values) if values else NOTHING


def share(values: list[float] | None) -> str:
    """A share in percent over seeds; a dash of None."""
    return NOTHING if values is None else f"{interval_text([100 * v for v in values], 0)} %"
