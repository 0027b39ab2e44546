r"""The order as pure functions and small counters: no vLLM, no clock of its own.

Unit of work and of time is the *decode step*: a running request gains one token per step, so a
request that needs ``n`` more tokens needs ``n`` more steps, and time waited is counted in the
engine's steps. That makes "waited longer than ``patience`` times its service" independent of how
fast the machine is, and nothing here ever reads a clock.

Order inside one priority class:

1. preempted requests, as vLLM itself puts them back, and those whose KV blocks could not be loaded;
2. an *urgent* request, earliest arrival first, whenever :class:`UrgentCredit` allows it;
3. least expected work first; requests without a score count as the running median of work; ties
   by arrival. Children of one ``n > 1`` request share the arrival of the first child and follow
   one another; only an urgent request out of turn may come between them.

**Bound.** Let an urgent request have ``k`` urgent earlier arrivals of its class still waiting. It
is among the next ``ceil((k + 1) / share)`` admissions of requests that have not run before,
provided no lower class value and no preempted request arrives and that it can be admitted at all
(its grammar is ready, its adapter fits). Proof: credit starts at 0 or more and never falls below
it. An admission that takes the earliest urgent request because it is first anyway costs and earns
nothing; say there are ``j`` of these among ``m``. Every other one earns ``share`` of a credit
*before* the choice, credit is not cut while an urgent request of its class waits, and the earliest
urgent request is chosen whenever the credit is at least 1, which costs 1. So at least
``j + floor((m - j) * share) >= floor(m * share)`` admissions took the earliest urgent request of
their time, or none was left. Urgent requests are taken by arrival, so ours is taken no later than
the ``(k + 1)``-th, that is by ``m = ceil((k + 1) / share)``. Requests that become urgent meanwhile
with an earlier arrival count among the ``k``, and so do siblings of an urgent request, which follow
it at once.

Conversely, in any ``m`` admissions at most ``floor(m * share) + 1`` urgent requests (groups of
siblings) are chosen out of turn: credit is capped at 1 while none waits, is spent as soon as it
reaches 1, and is not earned by urgent requests that go in turn.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

_CREDIT = 1_000_000  # one credit, in integer parts: sums of a float share would drift


@dataclass(frozen=True)
class Policy:
    """The operator's choices; see the module for the order they make."""

    patience: float = 20.0
    """Urgent after waiting this many times the expected work (decode steps)."""
    share: float = 0.05
    """Share of admissions that urgent requests may take out of turn, 0 to 1."""
    prefill_weight: float = 0.05
    """Cost of an uncached prompt token in decode tokens."""
    trust_priority: bool = False
    """Whether priority classes come before everything else (lower value first, as in vLLM)."""

    def work(
        self, uncached_tokens: int, expected_tokens: float, max_tokens: int, done: int = 0
    ) -> float:
        """Expected remaining work in decode steps.

        ``uncached_tokens`` prompt tokens have to be computed; the response is expected to have
        ``expected_tokens`` in all, never more than ``max_tokens`` and at least one more than the
        ``done`` tokens that exist.
        """
        response = min(max(expected_tokens, done + 1.0), float(max_tokens)) - done
        return self.prefill_weight * uncached_tokens + max(response, 0.0)

    def deadline(self, arrived: float, work: float) -> float:
        """The step from which a request that arrived at step ``arrived`` is urgent."""
        return arrived + self.patience * work

    def priority_class(self, priority: int) -> int:
        """The class a request competes in: its priority where trusted, else one for all."""
        return priority if self.trust_priority else 0


class RunningMedian:
    """Median of the last ``window`` values, in O(log window) comparisons per value."""

    def __init__(self, window: int = 1001) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._window = window

    def add(self, value: float) -> None:
        """Take a value in; forget the oldest beyond the window."""
        if len(self._recent) == self._window:
            old = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, old)]
        self._recent.append(value)
        insort(self._sorted, value)

    @property
    def value(self) -> float | None:
        """Lower median; None before the first value."""
        return self._sorted[(len(self._sorted) - 1) // 2] if self._sorted else None


class UrgentCredit:
    """Counts how many urgent requests may go out of turn: ``share`` of a credit per admission."""

    def __init__(self, share: float) -> None:
        self._share = round(share * _CREDIT)
        self._credit = 0

    @property
    def ready(self) -> bool:
        """Whether the admission now being chosen may go to an urgent request."""
        return self._credit + self._share >= _CREDIT

    def admitted(self, out_of_turn: bool, urgent_waits: bool) -> None:
        """Count one admission.

        ``urgent_waits``: whether an urgent request of its class was there to choose.
        """
        cost = _CREDIT if out_of_turn else 0
        self._credit = max(0, self._credit + self._share - cost)
        if not urgent_waits:
            self._credit = min(self._credit, _CREDIT - self._share)
