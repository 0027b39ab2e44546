"""What a soak test watches: the bound on admissions, the memory of the process, the scorer."""

from __future__ import annotations

import gc
import logging
import math
import os
import random
import signal
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from vllm.v1.request import Request

from pars_vllm.order import WaitingOrder
from pars_vllm.scorer import Scorer

KEPT = 3_000
"""Objects that an idle scheduler may keep, however many requests it has served: about 1,800 after
500 of them, and 2,200 after 1,500 as after 4,000."""


class BoundWatch:
    """Fails when an urgent request waits beyond the bound of :mod:`pars_vllm.policy`.

    Stands in for the order's ``begin``, the only place where requests become urgent: one that is
    admitted in the same step counts too. All requests are of one priority class.
    """

    def __init__(self, order: WaitingOrder[Request], share: float) -> None:
        self.watched = 0
        self._order = order
        self._share = share
        self._since: dict[str, int] = {}
        """Admissions before the request was first seen urgent."""
        self._earlier: dict[str, int] = {}
        """Urgent earlier arrivals then, and such that became urgent since."""

    def begin(self, now: float) -> None:
        """The order's own, then check every urgent request that still waits."""
        WaitingOrder.begin(self._order, now)
        urgent = {
            key: (entry.group, entry.sequence)
            for key, entry in self._order._entries.items()
            if entry.urgent
        }
        for key in self._since.keys() - urgent.keys():
            del self._since[key], self._earlier[key]
        new = urgent.keys() - self._since.keys()
        for key in self._since:
            self._earlier[key] += sum(urgent[other] < urgent[key] for other in new)
        for key in new:
            self._since[key] = self._order.admissions
            self._earlier[key] = sum(place < urgent[key] for place in urgent.values())
        self.watched += len(new)
        for key, since in self._since.items():
            bound = math.ceil((self._earlier[key] + 1) / self._share)
            passed = self._order.admissions - since
            assert passed < bound, f"{key} still waits after {passed} admissions, bound {bound}"


def resident_mib() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def trouble(scorer: Scorer, draw: random.Random) -> None:
    """Now and then kill the scorer process; sometimes let it answer everything."""
    if draw.random() < 0.005 and scorer.pid is not None and scorer.ready:
        os.kill(scorer.pid, draw.choice((signal.SIGKILL, signal.SIGTERM)))
    elif draw.random() < 0.02:
        scorer.wait(2)


def kept_objects(root: object) -> int:
    """How many objects are kept by ``root``, however far down; code, classes and logs left out."""
    seen = {id(root): root}
    new = [root]
    while new:
        found = {id(each): each for each in gc.get_referents(*new)}
        new = [each for key, each in found.items() if key not in seen and not _is_shared(each)]
        seen |= {id(each): each for each in new}
    return len(seen)


def _is_shared(found: object) -> bool:
    kinds = (type, ModuleType, FunctionType, CodeType, logging.Logger, logging.Handler)
    return isinstance(found, kinds)
