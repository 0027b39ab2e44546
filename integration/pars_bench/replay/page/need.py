"""How deep a queue must be before an order gains: the same requests by the depth they met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pars_bench.findings import WORTH_SAYING
from pars_bench.replay.page.compare import Replay
from pars_bench.replay.page.rows import Array, Requests, RunRows
from pars_bench.replay.schema import ReplayRun

_BOUNDS = (0, 1, 4, 16, 64, 256, 1024)

FEWEST = 30
"""Requests below which a class of depths says nothing."""


@dataclass(frozen=True)
class AtDepth:
    """Requests that arrived where arrival order's queue was so deep, over all loads and seeds."""

    least: int
    most: int | None
    """None: no upper bound."""
    requests: int
    before: float
    """Their mean time to last token in arrival order, seconds."""
    after: float
    """The same in the other order."""

    @property
    def gains(self) -> bool:
        """Whether the order is better by more than what is worth a word."""
        return self.after < self.before * (1 - WORTH_SAYING)


def depth_met(rows: RunRows) -> Array:
    """How many others waited when each request of a run came, those that came with it included."""
    arrived, admitted = (
        np.searchsorted(np.sort(times), rows.arrival, side="right")
        for times in (rows.arrival, rows.arrival + rows.queued)
    )
    return np.asarray(arrived - admitted - (rows.queued > 0), dtype=np.float64)


def by_depth(replay: Replay, requests: Requests) -> list[AtDepth]:
    """Compare the subject with arrival order, by classes of depth; only those that occur."""
    sums = np.zeros((3, len(_BOUNDS)))  # requests, seconds before, seconds after
    for base, own in _pairs(replay):
        before, after = requests.read(base), requests.read(own)
        classes = np.digitize(depth_met(before), _BOUNDS) - 1
        for row, weights in enumerate((None, before.ttlt, after.ttlt)):
            sums[row] += np.bincount(classes, weights, minlength=len(_BOUNDS))
    uppers = [*(bound - 1 for bound in _BOUNDS[1:]), None]
    return [
        AtDepth(least, most, int(count), before / count, after / count)
        for least, most, (count, before, after) in zip(_BOUNDS, uppers, sums.T, strict=True)
        if count
    ]


def enough(depths: Sequence[AtDepth]) -> list[AtDepth]:
    """The classes that say something."""
    return [each for each in depths if each.requests >= FEWEST]


def gaining(classes: Sequence[AtDepth]) -> tuple[AtDepth, AtDepth, AtDepth | None] | None:
    """The deepest classes that gain side by side: the first, the last, and the one behind them.

    Args:
        classes: Ascending in depth.

    Returns:
        None where no class gains; no class behind them where the deepest of all gains.
    """
    last = next((n for n in reversed(range(len(classes))) if classes[n].gains), None)
    if last is None:
        return None
    first = last
    while first and classes[first - 1].gains:
        first -= 1
    behind = classes[last + 1] if last + 1 < len(classes) else None
    return classes[first], classes[last], behind


def _pairs(replay: Replay) -> Iterator[tuple[ReplayRun, ReplayRun]]:
    base, subject = replay.base, replay.subject
    if base is None or subject is None:
        return
    for load in replay.loads:
        own: Mapping[int, ReplayRun] = {
            run["seed"]: run for run in replay.runs(subject.policy, load)
        }
        for run in replay.runs(base.policy, load):
            if run["seed"] in own:
                yield run, own[run["seed"]]
