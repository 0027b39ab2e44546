"""When a scheduling step looks for scores: always where they matter, else once in a while."""

from __future__ import annotations

_FEW = 64
_MOST_STEPS = 12


class Pace:
    """Says whether this step is to look for scores.

    A look costs a long step some tenths of a percent, mostly for code and data that are not in the
    caches, which several answers then share. Not to look costs each request that lacks its answer
    a step out of its place. So there is a look once the requests that lack theirs (or one, for the
    predictor is judged in these steps too), times the steps since the last look, are one in 64 of
    those that wait: in every step where the queue is short or many are new, at least in every 12th
    where it is long and its order stands.
    """

    def __init__(self) -> None:
        self._passed = _MOST_STEPS

    def due(self, lacking: int, waiting: int) -> bool:
        """Whether to look in this step; asked once a step.

        Args:
            lacking: requests whose answers are to come.
            waiting: requests in the queue.
        """
        self._passed += 1
        if max(lacking, 1) * self._passed * _FEW < waiting and self._passed < _MOST_STEPS:
            return False
        self._passed = 0
        return True
