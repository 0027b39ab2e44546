"""A linear model: n-grams of subwords, hashed, and the text's surface features.

It is a student's linear part, and an encoder's n-gram half.

A text's tokens and pairs of neighbouring tokens count by (1 + log of how often) x idf, and all of
them together have length 1. Its first and last tokens are features of their own. Nothing here looks
at another text of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pars_export.runtimes.arrays import Arrays, Floats, check_arrays, floats, pair_hash
from pars_export.words import FEATURES

MARK = "ngram_token"
"""The array that only what has this part has."""
SURFACE_BOUND = 3.0
"""Standardised surface features are cut to this: a text of a million characters is no surprise."""
_PLACES = 4
"""First tokens that count by their place."""
# Ids of no token: they keep the kinds of ends apart before they are hashed.
_AT, _AFTER, _LAST, _LAST_TWO = (place << 20 for place in range(1, 5))

_FEW = 300
"""Texts with up to so many tokens in all are read one by one: arrays, which cost about the same for
one text as for a hundred, are slower for so few."""
_TEXT = 24
"""Tokens that a text counts for beside its own: what it takes to begin with one."""
_COUNTS = [0.0, *(1 + np.log(np.arange(1, 65))).tolist()]
"""1 + log of how often, as `counted` has it."""

Memory: TypeAlias = "memoryview[float]"
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


class Rows:
    """Tokens of several texts in one row.

    Attributes:
        ids: all ids, (t,).
        text: number of the text of each, (t,).
        start: place of each text's first token, (n,).
        size: tokens of each text, (n,), 1 or more.
    """

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        self.size = np.array([len(each) for each in ids], dtype=np.int64)
        self.ids = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(self.size.sum()))
        self.text = np.repeat(np.arange(len(ids)), self.size)
        self.start = np.cumsum(self.size) - self.size

    def __len__(self) -> int:
        return len(self.size)

    def pairs(self, buckets: int) -> tuple[Ints, Ints]:
        """Text and bucket of each pair of neighbouring tokens."""
        inside = self.text[1:] == self.text[:-1]
        bucket = pair_hash(self.ids[:-1], self.ids[1:], buckets)
        return self.text[1:][inside], bucket[inside]

    def ends(self, buckets: int) -> tuple[Ints, Ints]:
        """Text and bucket of each feature of the first and last tokens."""
        texts, found = [], []
        chained = self.ids[self.start]
        for place in range(_PLACES):
            mine = np.flatnonzero(self.size > place)
            token = self.ids[self.start[mine] + place]
            texts.append(mine)
            found.append(pair_hash(token, np.full_like(token, _AT + place), buckets))
            if place in (1, 2):
                chained[mine] = pair_hash(chained[mine] + _AFTER, token, buckets)
                texts.append(mine)
                found.append(chained[mine])
        last = self.ids[self.start + self.size - 1]
        texts.append(np.arange(len(self)))
        found.append(pair_hash(last, np.full_like(last, _LAST), buckets))
        mine = np.flatnonzero(self.size > 1)
        before = self.ids[self.start[mine] + self.size[mine] - 2]
        texts.append(mine)
        found.append(pair_hash(before + _LAST_TWO, last[mine], buckets))
        return np.concatenate(texts), np.concatenate(found)


def counted(text: Ints, column: Ints, columns: int) -> tuple[Ints, Ints, Doubles]:
    """Text, column and 1 + log of how often, of each different column in each text."""
    key, count = np.unique(text * columns + column, return_counts=True)
    return key // columns, key % columns, 1 + np.log(count)


def weighted(columns: Sequence[int], weight: Memory, idf: Memory) -> tuple[float, float]:
    """Sum of values times weights, and of squared values, of one text's columns."""
    often: dict[int, int] = {}
    for column in columns:
        often[column] = often.get(column, 0) + 1
    total = square = 0.0
    for column in sorted(often):
        times = often[column]
        count = _COUNTS[times] if times < len(_COUNTS) else 1 + float(np.log(times))
        value = count * idf[column]
        total += value * weight[column]
        square += value * value
    return total, square


def ends_of(ids: Sequence[int], buckets: int) -> Iterator[int]:
    """Buckets of one text's first and last tokens, as `Rows.ends` has them."""
    chained = ids[0]
    for place, token in enumerate(ids[:_PLACES]):
        yield pair_hash(token, _AT + place, buckets)
        if place in (1, 2):
            chained = pair_hash(chained + _AFTER, token, buckets)
            yield chained
    yield pair_hash(ids[-1], _LAST, buckets)
    if len(ids) > 1:
        yield pair_hash(ids[-2] + _LAST_TWO, ids[-1], buckets)


def standardised(features: Floats, mean: Floats, scale: Floats) -> Floats:
    """Surface features (n, f) around 0, cut to `SURFACE_BOUND`."""
    known: Floats = (features - mean) * scale
    return known.clip(-SURFACE_BOUND, SURFACE_BOUND)


def memory_of(array: Floats) -> Memory:
    """The array's memory: single numbers come out of it several times sooner than out of it."""
    return cast("Memory", array.data)


class NgramNetwork:
    """Weights, and the way from ids to scores."""

    def __init__(self, weights: Arrays) -> None:
        """Take the arrays of `student.safetensors`, or of a half.

        Raises:
            PredictorError: an array is missing or its shape does not fit the others.
        """
        check_arrays(weights, _SHAPES, {"features": len(FEATURES), "one": 1}, set())
        self.vocab_size = len(weights[MARK])
        self._token, self._token_idf = floats(weights, MARK), floats(weights, "ngram_token_idf")
        self._pair, self._pair_idf = (
            floats(weights, name) for name in ("ngram_pair", "ngram_pair_idf")
        )
        self._end = floats(weights, "ngram_end")
        self._bias = floats(weights, "ngram_bias")[0]
        self._tokens = memory_of(self._token), memory_of(self._token_idf)
        self._pairs = memory_of(self._pair), memory_of(self._pair_idf)
        self._ends = memory_of(self._end)
        names = ("ngram_feature_mean", "ngram_feature_scale", "ngram_surface")
        columns = [floats(weights, name).tolist() for name in names]
        self._surfaces: list[tuple[float, float, float]] = list(zip(*columns, strict=True))

    def __call__(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        """Scores (n,) of ids of n texts and their features (n, len(FEATURES))."""
        if sum(len(each) + _TEXT for each in ids) > _FEW:
            return self._many(ids, features)
        each = zip(ids, features.tolist(), strict=True)
        return np.array([self._one(*text) for text in each], dtype=np.float32)

    def _one(self, ids: Sequence[int], features: Sequence[float]) -> float:
        """The score of one text in plain Python.

        Arrays would cost several times as much beside an encoder, whose weights leave nothing of
        numpy's code in the processor's caches.
        """
        surface = 0.0
        for value, (mean, scale, weight) in zip(features, self._surfaces, strict=True):
            known = (value - mean) * scale
            surface += min(max(known, -SURFACE_BOUND), SURFACE_BOUND) * weight  # NaN stays NaN
        total, square = weighted(ids, *self._tokens)
        buckets = len(self._pair)
        pairs = [pair_hash(first, second, buckets) for first, second in pairwise(ids)]
        more, squares = weighted(pairs, *self._pairs)
        ends = 0.0
        for bucket in ends_of(ids, len(self._end)):
            ends += self._ends[bucket]
        length = math.sqrt(max(square + squares, 1e-12))
        return (total + more) / length + ends + surface + float(self._bias)

    def _many(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        surface = np.zeros(len(ids))  # the same sums in the same order as of one text
        each = zip(features.T.astype(np.float64), self._surfaces, strict=True)
        for values, (mean, scale, slope) in each:
            surface += ((values - mean) * scale).clip(-SURFACE_BOUND, SURFACE_BOUND) * slope
        rows = Rows(ids)
        n = len(rows)
        total, square = np.zeros(n), np.zeros(n)
        for weight, idf, (text, column) in (
            (self._token, self._token_idf, (rows.text, rows.ids)),
            (self._pair, self._pair_idf, rows.pairs(len(self._pair))),
        ):
            text, column, count = counted(text, column, len(weight))
            value = count * idf[column]
            total += np.bincount(text, value * weight[column], n)
            square += np.bincount(text, value * value, n)
        text, column = rows.ends(len(self._end))
        scores = (
            total / np.sqrt(np.maximum(square, 1e-12))
            + np.bincount(text, self._end[column], n)
            + surface
            + self._bias
        )
        return scores.astype(np.float32)  # type: ignore[no-any-return]  # bincount is Any


_SHAPES: dict[str, tuple[str, ...]] = {
    MARK: ("tokens",),
    "ngram_token_idf": ("tokens",),
    "ngram_pair": ("buckets",),
    "ngram_pair_idf": ("buckets",),
    "ngram_end": ("end buckets",),
    "ngram_surface": ("features",),
    "ngram_feature_mean": ("features",),
    "ngram_feature_scale": ("features",),
    "ngram_bias": ("one",),
}
