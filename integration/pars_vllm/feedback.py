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

An evaluation spreads over a dozen steps, so that none is held up, and touches little memory: what a
step of the engine has in the caches is to stay there. Pure: no vLLM, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pars_vllm.ratio import Ratio, fit_ratio

_Z = 2.5758293035489
"""Half width of a 99 % interval in standard errors: it is looked at again and again."""
_MOST_CORRECTION = 20.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Answers(NamedTuple):
    """What is known of n answers, in columns."""

    expected: Floats
    """Tokens that the predictor expected, uncorrected; 1 or more; (n,)."""
    tokens: Ints
    """Length of one that ended by itself, else the tokens that it is known to exceed; (n,)."""
    ended: Flags
    """Whether by themselves; (n,)."""
    at_random: Flags
    """Whether what cuts them off, if anything does, does not hang on their length; (n,)."""


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
        """True over expected tokens, as of the last evaluation that told it."""
        self.correction = 1.0
        """What expected tokens are to be multiplied by: one factor for all."""
        self.evaluations = 0
        self._progress = progress
        self._threshold = threshold
        self._least_ended = least_ended
        self._every = every
        self._chunk = chunk
        self._expected: dict[str, float] = {}
        self._cohort = _Cohort(window)
        self._new_ends = 0
        self._next_ends = least_ended if every is None else every
        self._evaluation: Generator[None, None, bool] | None = None

    def scored(self, key: str, expected: float) -> None:
        """A request that has not ended has got its expected tokens."""
        self._expected[key] = expected

    def expected(self, key: str) -> float | None:
        """Expected tokens, uncorrected, of a request that has not ended; None without a score."""
        return self._expected.get(key)

    def began(self, key: str, at_random: bool = True) -> None:
        """A request runs for the first time: it joins the cohort, scored or not.

        Without ``at_random`` it counts for the order alone, not for the scale: a stop string, say,
        may cut it off where it would have ended, and looks like an abort.
        """
        self._cohort.add(key, at_random)

    def ended(self, key: str, tokens: int, by_itself: bool) -> None:
        """A request is over after ``tokens`` tokens; aborted or capped ones not ``by_itself``."""
        expected = self._expected.pop(key, None)
        if self._cohort.ended(key, math.nan if expected is None else expected, tokens, by_itself):
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
        for index, key in enumerate(self._cohort.running_keys(), start=1):
            if self._cohort.runs(key):  # others have ended, or left the cohort, since
                expected = self._expected.get(key, math.nan)
                self._cohort.running(key, expected, self._progress(key))
            if index % self._chunk == 0:
                yield
        answers = self._cohort.scored()
        known_lengths = int(np.count_nonzero(answers.ended))
        if known_lengths < self._least_ended:
            return False
        if self._every is None:
            self._next_ends = max(self._least_ended // 2, known_lengths // 2)
        yield
        concordance = yield from concordance_sweep(answers)
        if concordance is None:
            return False
        self.concordance = concordance
        yield
        self._set_scale(answers)
        self.evaluations += 1
        if self.trusted and concordance.high < self._threshold:
            self.trusted = False
            return True
        if not self.trusted and concordance.low > self._threshold:
            self.trusted = True
            return True
        return False

    def _set_scale(self, answers: Answers) -> None:
        expected, tokens, ended, at_random = answers
        # The product-limit estimate holds where the cut says nothing of what would have come.
        counted = at_random & (tokens > 0)  # one without a token tells no ratio
        if np.count_nonzero(ended[counted]) < self._least_ended:
            return
        ratio = fit_ratio(np.log(tokens[counted] / expected[counted]), ended[counted])
        if ratio is None:
            return
        self.ratio = ratio
        # Half the way, in logarithms: works already queued keep the factor of their day.
        target = min(max(ratio.mean, 1 / _MOST_CORRECTION), _MOST_CORRECTION)
        self.correction = math.sqrt(self.correction * target)


class _Cohort:
    """What is known of the ``window`` requests that began to run last, in columns."""

    def __init__(self, window: int) -> None:
        self._expected = np.full(window, math.nan)
        self._tokens = np.zeros(window, np.int64)
        self._ended = np.zeros(window, np.bool_)
        self._at_random = np.zeros(window, np.bool_)
        self._keys = [""] * window
        self._row: dict[str, int] = {}  # of those that have not ended
        self._next = 0

    def __len__(self) -> int:
        """How many of them have not ended."""
        return len(self._row)

    def add(self, key: str, at_random: bool) -> None:
        """One begins, in the place of the one that began first."""
        row, self._next = self._next, (self._next + 1) % len(self._keys)
        if self._row.get(self._keys[row]) == row:
            del self._row[self._keys[row]]
        before = self._row.get(key)
        if before is not None:  # a streaming session goes on as a new request of its id
            self._expected[before], self._ended[before] = math.nan, False
        self._keys[row], self._row[key] = key, row
        self._expected[row], self._ended[row] = math.nan, False
        self._at_random[row] = at_random

    def running_keys(self) -> list[str]:
        """Keys of those that have not ended."""
        return list(self._row)

    def runs(self, key: str) -> bool:
        """Whether it is here and has not ended."""
        return key in self._row

    def running(self, key: str, expected: float, tokens: int) -> None:
        """One that has not ended has come so far."""
        row = self._row[key]
        self._expected[row], self._tokens[row] = expected, tokens

    def ended(self, key: str, expected: float, tokens: int, by_itself: bool) -> bool:
        """One is over; False if it is not here."""
        row = self._row.pop(key, None)
        if row is None:
            return False
        self._expected[row], self._tokens[row], self._ended[row] = expected, tokens, by_itself
        return True

    def scored(self) -> Answers:
        """Those with a score; of one that runs, as of the last :meth:`running`."""
        known = ~np.isnan(self._expected)
        return Answers(
            np.maximum(self._expected[known], 1.0),
            self._tokens[known],
            self._ended[known],
            self._at_random[known],
        )


def concordance_sweep(answers: Answers) -> Generator[None, None, Concordance | None]:
    """Concordance of n answers in O(n log^2 n), of which one part in log n between two yields.

    As in a merge sort: in the order of lengths, blocks of 1, 2, 4... answers are compared with the
    next block as a whole. At most 32,767 answers. Returns (as the generator's value) None without a
    comparable pair.
    """
    expected, tokens, ended, _ = answers
    count = len(expected)
    known = 2 * tokens + ~ended  # an end comes before those cut off at the same count
    order = np.lexsort((-expected, known))
    known, ended = known[order], ended[order]
    ranks = np.searchsorted(np.sort(expected), expected[order])
    first, last = np.searchsorted(known, known), np.searchsorted(known, known, "right")
    ends = np.concatenate([[0], np.cumsum(ended)])
    comparable = ends[first] + ended * (count - last)
    pairs = int(comparable.sum()) // 2
    if not pairs:
        return None
    # Of equal lengths the lower expectation comes later, so that among these only equal
    # expectations are credited, and that is taken back here.
    both = known * count - ranks
    equal = np.searchsorted(both, both, "right") - np.searchsorted(both, both)
    twice_concordant = -(ended * (equal - 1))
    rising = np.argsort(ranks).astype(np.int16)
    for level in range((count - 1).bit_length()):
        yield
        block = rising >> level
        by_pair = np.argsort(block >> 1, kind="stable")
        place, block = rising[by_pair], block[by_pair]
        start = (block >> 1).astype(np.int64) * count
        key = start + ranks[place]
        second = (block & 1).astype(bool)
        one, other = np.flatnonzero(~second & ended[place]), np.flatnonzero(second)
        shorter, longer = key[one], key[other]
        above = 2 * np.searchsorted(longer, start[one] + count)
        above -= np.searchsorted(longer, shorter) + np.searchsorted(longer, shorter, "right")
        below = np.searchsorted(shorter, longer) + np.searchsorted(shorter, longer, "right")
        below -= 2 * np.searchsorted(shorter, start[other])
        twice_concordant[place[one]] += above
        twice_concordant[place[other]] += below
    value = float(twice_concordant.sum()) / 4 / pairs
    residuals = twice_concordant / 2 - value * comparable
    half = _Z * math.sqrt(float(residuals @ residuals)) / pairs
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Concordance(value, low, high, int(ends[-1]), pairs)
