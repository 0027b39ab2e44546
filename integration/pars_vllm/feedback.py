"""Is the predictor right? Its expected lengths against what the answers turn out to be.

Judged is a *cohort*: the last ``window`` requests that began to run, whatever became of them since.
Most are over and have a length; others still run, were aborted or reached their cap, and are known
to be longer than the tokens they have (right-censored). A window of finished requests instead would
be full of short answers, which end first.

A pair of answers is comparable if one ended by itself after ``t`` tokens and the other is known to
be longer: it ended later than ``t``, or has ``t`` tokens or more and did not end. The *concordance*
(Harrell 1982) is the share of comparable pairs whose longer answer was expected to be longer, a tie
of expectations counting one half: 1 is the true order, 0.5 is chance, 0 the reverse. Its interval
is the normal one around a U-statistic's first-order variance. Inside a short-first queue it lies
nearer to 0.5 than over all traffic, because what runs at one time was expected to be alike.

An evaluation spreads over many steps (one of them sorts the whole window), so that none is held up.
An answer is compared with the whole window at once, by 16-bit ranks. Pure: no vLLM, no clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pars_vllm.ratio import Ratio, fit_ratio

_Z = 2.5758293035489
"""Half width of a 99 % interval in standard errors: it is looked at again and again."""
_MOST_CORRECTION = 20.0
_COMPARED = 32_768
"""Pairs looked at in one step."""


class Sample(NamedTuple):
    """What is known of one answer."""

    expected: float
    """Tokens that the predictor expected, uncorrected; 1 or more."""
    tokens: int
    """Its length if it ended by itself, else the tokens that it is known to exceed."""
    ended: bool
    """Whether it ended by itself."""


@dataclass(frozen=True, slots=True)
class Concordance:
    """Share of comparable pairs in the right order, with a 99 % interval."""

    value: float
    low: float
    high: float
    ended: int
    """Answers of known length."""
    pairs: int
    """Comparable pairs."""


class Feedback:
    """The predictor's track record; says whether its order is to be trusted, and its scale.

    ``progress(key)`` gives the tokens so far of a request that has begun and not ended.
    """

    def __init__(
        self,
        progress: Callable[[str], int],
        *,
        window: int = 1024,
        threshold: float = 0.55,
        least_ended: int = 100,
        every: int | None = None,
        chunk: int = 64,
    ) -> None:
        """Judge anew after ``every`` ends, on ``least_ended`` known lengths or more.

        Without ``every``, when half as many have ended since as were judged last: a judgement that
        shares most of its answers with the one before says little that is new, and costs as much.
        """
        self.trusted = True
        """False while the order would better be by arrival."""
        self.concordance: Concordance | None = None
        """As of the last evaluation that had evidence enough."""
        self.ratio: Ratio | None = None
        """True over expected tokens, as of the same evaluation."""
        self.correction = 1.0
        """What expected tokens are to be multiplied by. One factor for all: never an order."""
        self.evaluations = 0
        self._progress = progress
        self._window = window
        self._threshold = threshold
        self._least_ended = least_ended
        self._every = every
        self._chunk = chunk
        self._expected: dict[str, float] = {}
        self._cohort: OrderedDict[str, _Answer] = OrderedDict()
        self._new_ends = 0
        self._next_ends = least_ended if every is None else every
        self._evaluation: Generator[None, None, bool] | None = None

    def scored(self, key: str, expected: float) -> None:
        """A request that has not ended has got its expected tokens."""
        self._expected[key] = expected

    def expected(self, key: str) -> float | None:
        """Expected tokens, uncorrected, of a request that has not ended; None without a score."""
        return self._expected.get(key)

    def began(self, key: str) -> None:
        """A request runs for the first time: it joins the cohort, scored or not."""
        self._cohort.pop(key, None)  # an id may be used again
        self._cohort[key] = _Answer()
        if len(self._cohort) > self._window:
            self._cohort.popitem(last=False)

    def ended(self, key: str, tokens: int, by_itself: bool) -> None:
        """A request is over after ``tokens`` tokens; aborted or capped ones not ``by_itself``."""
        expected = self._expected.pop(key, None)
        answer = self._cohort.get(key)
        if answer is not None:
            answer.over, answer.expected = True, expected
            answer.tokens, answer.ended = tokens, by_itself
            self._new_ends += by_itself

    def step(self) -> bool:
        """Go on judging, within a small bound of work; True if ``trusted`` has changed."""
        if self._evaluation is None:
            if self._new_ends < self._next_ends:
                return False
            self._new_ends = 0
            self._evaluation = self._evaluate()
        try:
            next(self._evaluation)
        except StopIteration as done:
            self._evaluation = None
            return bool(done.value)
        return False

    def _evaluate(self) -> Generator[None, None, bool]:
        samples: list[Sample] = []
        for index, (key, answer) in enumerate(list(self._cohort.items()), start=1):
            # One that left the cohort meanwhile may have ended unseen.
            alive = not answer.over and key in self._cohort
            expected = self._expected.get(key) if alive else answer.expected
            if expected is not None:
                tokens = self._progress(key) if alive else answer.tokens
                samples.append(Sample(max(expected, 1.0), tokens, answer.ended))
            if index % self._chunk == 0:
                yield
        ended = sum(sample.ended for sample in samples)
        if ended < self._least_ended:
            return False
        if self._every is None:
            self._next_ends = max(self._least_ended // 2, ended // 2)
        yield
        concordance = yield from concordance_sweep(samples, max(1, _COMPARED // len(samples)))
        if concordance is None:
            return False
        self.concordance = concordance
        yield
        self._set_scale(samples)
        self.evaluations += 1
        if self.trusted and concordance.high < self._threshold:
            self.trusted = False
            return True
        if not self.trusted and concordance.low > self._threshold:
            self.trusted = True
            return True
        return False

    def _set_scale(self, samples: Sequence[Sample]) -> None:
        counted = [s for s in samples if s.tokens > 0]  # one without a token tells no ratio
        if not counted:
            return
        expected, tokens, ended = map(np.array, zip(*counted, strict=True))
        ratio = fit_ratio(np.log(tokens / expected), ended)
        if ratio is None:
            return
        self.ratio = ratio
        # Half the way, in logarithms: works already queued keep the factor of their day.
        target = min(max(ratio.mean, 1 / _MOST_CORRECTION), _MOST_CORRECTION)
        self.correction = math.sqrt(self.correction * target)


@dataclass(slots=True, eq=False)
class _Answer:
    """One request of the cohort; the rest is filled in once it is over."""

    over: bool = False
    ended: bool = False
    """Whether by itself."""
    expected: float | None = None
    tokens: int = 0


def concordance_sweep(
    samples: Sequence[Sample], chunk: int = 32
) -> Generator[None, None, Concordance | None]:
    """Concordance of the samples, computed ``chunk`` of the known lengths between two yields.

    At most 32,767 samples. Returns (as the generator's value) None without a comparable pair.
    """
    if not samples:
        return None
    expectations, tokens, ended = map(np.array, zip(*samples, strict=True))
    expected = _ranks(expectations)
    # An end comes before those cut off at the same count: these are longer.
    known = _ranks(2 * tokens + ~ended)
    shorter = np.flatnonzero(ended)
    comparable = np.searchsorted(np.sort(known[shorter]), known).astype(np.int64)
    comparable[shorter] += len(samples) - np.searchsorted(np.sort(known), known[shorter], "right")
    pairs = int(comparable.sum()) // 2
    if not pairs:
        return None
    twice_concordant = np.zeros(len(samples), np.int64)
    for first in range(0, len(shorter), chunk):
        rows = shorter[first : first + chunk]
        longer = known > known[rows, None]
        right = longer & (expected > expected[rows, None])
        right_or_tied = longer & (expected >= expected[rows, None])
        credit = right.view(np.int8) + right_or_tied.view(np.int8)
        twice_concordant += credit.sum(axis=0, dtype=np.int32)
        twice_concordant[rows] += credit.sum(axis=1, dtype=np.int32)
        yield
    value = float(twice_concordant.sum()) / 4 / pairs
    residuals = twice_concordant / 2 - value * comparable
    half = _Z * math.sqrt(float(residuals @ residuals)) / pairs
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Concordance(value, low, high, len(shorter), pairs)


def _ranks(values: npt.NDArray[np.generic]) -> npt.NDArray[np.int16]:
    """Ranks from 0, equal values alike."""
    _, ranks = np.unique(values, return_inverse=True)
    return np.asarray(ranks, np.int16)
