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

An evaluation spreads over many steps, ``chunk`` answers in each (two of them sort the whole window
besides), so that no step is held up; it takes O(window log window) comparisons in all. Pure: no
vLLM, no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pars_vllm.ratio import Ratio, fit_ratio

_Z = 2.5758293035489
"""Half width of a 99 % interval in standard errors: it is looked at again and again."""
_MOST_CORRECTION = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
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
        every: int = 32,
        chunk: int = 64,
    ) -> None:
        """Judge anew after ``every`` ends, on ``least_ended`` known lengths or more."""
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
            if self._new_ends < self._every:
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
        if sum(sample.ended for sample in samples) < self._least_ended:
            return False
        yield
        concordance = yield from concordance_sweep(samples, self._chunk)
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
        ratio = fit_ratio(
            (math.log(sample.tokens / sample.expected), sample.ended)
            for sample in samples
            if sample.tokens > 0  # one without a token says nothing about its ratio
        )
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
    samples: Sequence[Sample], chunk: int = 64
) -> Generator[None, None, Concordance | None]:
    """Concordance of the samples, computed ``chunk`` of them between two yields.

    Returns (as the generator's value) None without a comparable pair.
    """
    # By what is known of the length, an end before those cut off at the same count: these are
    # longer. Each group holds answers that cannot be compared with each other.
    order = sorted(range(len(samples)), key=lambda i: (samples[i].tokens, not samples[i].ended))
    groups = [
        list(group)
        for _, group in groupby(order, key=lambda i: (samples[i].tokens, samples[i].ended))
    ]
    comparable = [0] * len(samples)
    concordant = [0.0] * len(samples)
    pairs = 0
    # Upwards, each answer meets the known lengths below it; downwards, each known length meets
    # everything above it. Both ways each answer has then met all its partners once.
    for upwards in (True, False):
        met: list[float] = []  # expectations, sorted
        seen = 0
        for group in groups if upwards else reversed(groups):
            ends = samples[group[0]].ended
            for i in group if upwards or ends else ():
                expected = samples[i].expected
                below, upto = bisect_left(met, expected), bisect_right(met, expected)
                right = below if upwards else len(met) - upto
                comparable[i] += len(met)
                concordant[i] += right + (upto - below) / 2
                pairs += len(met) if upwards else 0
                seen += 1
                if seen % chunk == 0:
                    yield
            for i in group if ends or not upwards else ():
                insort(met, samples[i].expected)
                seen += 1
                if seen % chunk == 0:
                    yield
    if not pairs:
        return None
    value = sum(concordant) / (2 * pairs)
    residuals = (good - value * all_ for good, all_ in zip(concordant, comparable, strict=True))
    half = _Z * math.sqrt(sum(residual * residual for residual in residuals)) / pairs
    ended = sum(sample.ended for sample in samples)
    return Concordance(value, max(0.0, value - half), min(1.0, value + half), ended, pairs)
