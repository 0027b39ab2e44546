"""When a scheduling step looks for scores: always where they matter, else once in a while."""

from __future__ import annotations

_UNHURRIED_STEPS = 8
_FEW = 64


class Pace:
    """Says whether this step is to look for scores.

    Where fewer than one in 64 of the waiting requests still lacks its answer, the order as a whole
    stands, and a look at every 8th step does: a look costs a long step a tenth of a percent,
    mostly for code and data that are not in the caches, which several answers then share.
    """

    def __init__(self) -> None:
        self._passed = _UNHURRIED_STEPS

    def due(self, outstanding: int, waiting: int) -> bool:
        """Whether to look in this step, with so many answers to come; asked once a step."""
        self._passed += 1
        if outstanding * _FEW < waiting and self._passed < _UNHURRIED_STEPS:
            return False
        self._passed = 0
        return True
