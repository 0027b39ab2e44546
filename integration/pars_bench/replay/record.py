"""What happened to every request of a run, in arrays of a few bytes a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pars_bench.replay.columns import Columns
from pars_bench.replay.costmodel import Array
from pars_export.errors import ParsError


class ConservationError(ParsError):
    """Requests or tokens were lost, or came out of nowhere."""


@dataclass
class Cost:
    """Processor seconds that steps took at one length of the queue."""

    seconds: float = 0.0
    request_steps: int = 0


class Record:
    """Arrays over the requests of ``columns``, NaN until something happened."""

    def __init__(self, columns: Columns) -> None:
        count = len(columns)
        self.columns = columns
        self.first_token_s: Array = np.full(count, np.nan)
        self.last_token_s: Array = np.full(count, np.nan)
        self.admitted_s: Array = np.full(count, np.nan)
        self.cached_tokens: NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        """Prompt tokens found in the prefix cache at the first admission."""
        self.preemptions: NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self.steps = 0
        self.request_steps = 0
        """Requests over all steps: the work of a scheduler."""
        self.scheduled_tokens = 0
        self.wasted = 0
        """Tokens computed for requests that had ended: the price of asynchronous scheduling."""
        self.finished = 0
        self.scheduling_s = 0.0
        """Processor seconds inside vLLM's scheduler, our queue included."""
        self.costs: dict[int, Cost] = {}
        """By the number of digits of the queue's depth."""
        self._bucket = Cost()
        self._seen_s = 0.0

    def admit(self, index: int, now: float, cached_tokens: int) -> None:
        """A request runs for the first time."""
        if np.isnan(self.admitted_s[index]):
            self.admitted_s[index] = now
            self.cached_tokens[index] = cached_tokens

    def step(self, tokens: int, requests: int, waiting: int) -> None:
        """A batch was scheduled."""
        self.steps += 1
        self.scheduled_tokens += tokens
        self.request_steps += requests
        # What the scheduler took since the last step belongs to the last step's queue.
        self._bucket.seconds += self.scheduling_s - self._seen_s
        self._seen_s = self.scheduling_s
        self._bucket = self.costs.setdefault(len(str(waiting)), Cost())
        self._bucket.request_steps += requests

    def first_token(self, index: int, now: float) -> None:
        """A request's first token is there."""
        self.first_token_s[index] = now

    def finish(self, index: int, now: float, preemptions: int) -> None:
        """A request's last token is there."""
        self.last_token_s[index] = now
        self.preemptions[index] = preemptions
        self.finished += 1

    @property
    def recomputed_tokens(self) -> int:
        """Tokens computed again after preemption, less what other requests' caches then gave.

        Every token but a request's last is computed once unless it was in the cache; what was
        scheduled beyond that, and not wasted on requests that had ended, was computed again.
        """
        columns = self.columns
        once = columns.prompt_tokens + columns.output_tokens - 1 - self.cached_tokens
        return max(0, self.scheduled_tokens - int(once.sum()) - self.wasted)

    def check(self) -> None:
        """Every request admitted, answered and finished once, in that order.

        Raises:
            ConservationError: it is not so.
        """
        count = len(self.columns)
        arrival = self.columns.arrival_s
        missing = count - int(np.isfinite(self.last_token_s).sum())
        if missing or self.finished != count:
            raise ConservationError(
                f"{self.finished} requests finished and {missing} did not, of {count} that arrived."
            )
        in_order = (
            (arrival <= self.admitted_s)
            & (self.admitted_s < self.first_token_s)
            & (self.first_token_s <= self.last_token_s)
        )
        if not in_order.all():
            raise ConservationError(
                f"{int((~in_order).sum())} requests were not admitted, answered and finished in "
                "that order."
            )
