"""Scores in virtual time: what the scorer process does, without the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScorerSpeed:
    """How fast scores come."""

    latency_s: float = 0.02
    """Seconds from the hand-over of a prompt to its score, when no other waits."""
    rate: float = 200.0
    """Prompts scored per second, one after another."""
    max_pending: int = 10_000
    """Prompts that may wait for their score; those beyond it never get one, as in serving."""


class VirtualScorer:
    """Stands in for ``pars_vllm.scorer.Scorer``; its clock is the replay's.

    It answers in the order in which it was asked, ``latency_s`` after a prompt's turn has come.
    """

    def __init__(
        self,
        speed: ScorerSpeed,
        clock: Callable[[], float],
        expected: Callable[[str], float | None],
    ) -> None:
        self.lost = False
        self.recovered = False
        self._speed = speed
        self._clock = clock
        self._expected = expected
        self._free_at = 0.0
        self._due: deque[tuple[float, str]] = deque()

    @property
    def outstanding(self) -> int:
        """Requests whose answer is awaited, or not yet taken by ``poll``."""
        return len(self._due)

    def submit(self, request_id: str, token_ids: Sequence[int], known: bytes = b"") -> None:
        """Ask for the expected length of a request."""
        del token_ids, known
        if len(self._due) >= self._speed.max_pending:
            return
        self._free_at = max(self._free_at, self._clock()) + 1 / self._speed.rate
        self._due.append((self._free_at + self._speed.latency_s, request_id))

    def poll(self) -> list[tuple[str, float | None]]:
        """(request id, expected tokens) of what is answered by now."""
        answers = []
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            name = self._due.popleft()[1]
            answers.append((name, self._expected(name)))
        return answers

    def close(self) -> None:
        """Nothing to end."""
