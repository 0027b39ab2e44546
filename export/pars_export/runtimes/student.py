"""A student in plain numpy: embeddings, one convolution of width 3, a gated average, a small MLP.

For token t of a text, x[t] = token[id[t]] + pair[hash(id[t], id[t+1])] + head[t] + tail[T-1-t];
h[t] = relu([x[t-1], x[t], x[t+1]] W + b); the text's vector is the average of h under the weights
exp(h g), its maximum, and the text's surface features; two layers make the score of it. Whatever
depends on the whole batch is a concatenation: a score does not depend on its neighbours.

x is a sum of rows of tables and W is linear, so each table is multiplied by W once, when it is
loaded: a text then costs additions in place of that product. A row of such a table holds what its
token gives to the place after it, to its own and to the one before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.errors import PredictorError
from pars_export.runtimes.arrays import (
    FIRST,
    SECOND,
    Arrays,
    Floats,
    check_arrays,
    floats,
    pair_hash,
    read_arrays,
)
from pars_export.runtimes.blas import BlasThreads
from pars_export.runtimes.ngrams import MARK, NgramNetwork
from pars_export.words import FEATURES, WordTokenizer, read_tokenizer

Buckets = NDArray[np.integer]
TOKENIZER, WEIGHTS = "tokenizer.json", "student.safetensors"
GATE_BOUND = 8.0
"""Logits of the average's weights lie within this, so that exp neither overflows nor vanishes."""
_TOKENS = 1024
"""Tokens computed together: more of them leave the caches, fewer cost more calls."""
_ZERO, _LOW, _HIGH = (np.array(bound, "f4") for bound in (0.0, -GATE_BOUND, GATE_BOUND))
_FIRST, _SECOND = (np.array(factor, "u4") for factor in (FIRST, SECOND))
"""As arrays: to make one of a number takes longer than to use it."""
_LENGTHS = 64
"""Most lengths of texts whose places are kept: what is cut has one length, short texts few."""


class StudentNetwork:
    """Weights and the way from ids to scores."""

    def __init__(self, weights: Arrays, threads: int = 1) -> None:
        """Take the arrays of `student.safetensors`.

        Args:
            weights: name to array.
            threads: cores that a call may use.

        Raises:
            PredictorError: an array is missing or its shape does not fit the others.
        """
        sizes = check_arrays(weights, _SHAPES, _KNOWN, {"token", "pair"})
        if sizes["inputs"] != 2 * sizes["channels"] + len(FEATURES):
            raise PredictorError(
                f"the array 'hidden' has {sizes['inputs']} inputs; distil it again."
            )
        self.vocab_size, self._buckets = sizes["tokens"], sizes["buckets"]
        power = self._buckets.bit_length() - 1
        self._shift = np.array(32 - power, "u4") if self._buckets == 1 << power else None
        channels = sizes["channels"]
        self._blas = BlasThreads(threads)
        # Small on disk, and ready for use in memory; the last row of tokens is that of none.
        conv = np.concatenate(list(floats(weights, "conv")), axis=1)
        self._token = np.zeros((self.vocab_size + 1, conv.shape[1]), dtype=np.float32)
        self._pair = np.empty((self._buckets, conv.shape[1]), dtype=np.float32)
        with self._blas:
            for name, rows in (("token", self._token[:-1]), ("pair", self._pair)):
                scaled = floats(weights, name) * floats(weights, f"{name}_scale")
                np.matmul(scaled, conv, out=rows)
            self._head, self._tail = (floats(weights, name) @ conv for name in ("head", "tail"))
        self._after, self._own, self._before = (
            slice(tap * channels, (tap + 1) * channels) for tap in range(3)
        )
        self._conv_bias, self._gate = floats(weights, "conv_bias"), floats(weights, "gate")
        self._hidden, self._hidden_bias = (floats(weights, n) for n in ("hidden", "hidden_bias"))
        self._mean, self._scale = (floats(weights, n) for n in ("feature_mean", "feature_scale"))
        self._out, self._out_bias = floats(weights, "out"), floats(weights, "out_bias")
        self._places: dict[int, Floats] = {}

    def __call__(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        """Scores (n,) of ids of n texts and their features (n, len(FEATURES))."""
        if len(ids) == 1:
            with self._blas:
                return self._one(ids[0], features[0])
        scores = np.empty(len(ids), dtype=np.float32)
        if not ids:
            return scores
        start = total = 0
        with self._blas:
            for index, each in enumerate(ids):
                if total and total + len(each) > _TOKENS:
                    scores[start:index] = self._score(ids[start:index], features[start:index])
                    start, total = index, 0
                total += len(each)
            scores[start:] = self._score(ids[start:], features[start:])
        return scores

    def _one(self, ids: Sequence[int], features: Floats) -> Floats:
        """Score (1,) of one text's ids and its features (f,): `_score` in the fewest calls."""
        none = self.vocab_size
        taps = self._token.take(np.array([none, *ids, none]), 0)
        inner = taps[1:-1]
        inner += self._pair.take(self._buckets_of(ids), 0)
        inner += self._place(len(ids))[:-1]
        h = taps[:-2, self._after] + inner[:, self._own]
        h += taps[2:, self._before]
        np.maximum(h, _ZERO, h)
        weight = h.dot(self._gate)
        np.minimum(np.maximum(weight, _LOW, weight), _HIGH, weight)
        np.exp(weight, weight)
        mean = weight.dot(h)
        mean /= np.add.reduce(weight)
        known = features - self._mean
        known *= self._scale
        vector = np.concatenate([mean, np.maximum.reduce(h, 0), known])
        hidden = vector.dot(self._hidden)
        hidden += self._hidden_bias
        score: Floats = np.maximum(hidden, _ZERO, hidden).dot(self._out) + self._out_bias
        return score

    def _buckets_of(self, ids: Sequence[int]) -> Buckets:
        """`pair_hash` of one text's neighbours, (t,), by whatever takes the fewest calls."""
        if self._shift is None:
            row = np.array([*ids, 0])
            hashed: Buckets = pair_hash(row[:-1], row[1:], self._buckets)
            return hashed
        short = np.array([*ids, 0], "u4")  # overflow is the remainder that `pair_hash` takes
        mixed: Buckets = short[:-1] * _FIRST
        mixed += short[1:] * _SECOND
        mixed >>= self._shift
        return mixed

    def _score(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        if len(ids) == 1:
            return self._one(ids[0], features[0])
        # All texts in one row, an empty place between them: what lies there stays zero.
        lengths = [len(each) for each in ids]
        row = np.array([0, *chain.from_iterable((*each, 0) for each in ids)])
        gaps = np.cumsum([0, *(length + 1 for length in lengths)])
        taps = self._token.take(row, axis=0)
        taps[:-1] += self._pair.take(pair_hash(row[:-1], row[1:], self._buckets), axis=0)
        taps[1:] += np.concatenate([self._place(length) for length in lengths])
        taps[gaps] = 0.0
        h = taps[:-2, self._after] + taps[1:-1, self._own]
        h += taps[2:, self._before]
        np.maximum(h, 0.0, out=h)
        inner = gaps[1:-1] - 1
        h[inner] = 0.0
        weight = np.exp(np.minimum(np.maximum(h @ self._gate, -GATE_BOUND), GATE_BOUND))
        weight[inner] = 0.0
        starts = gaps[:-1]
        mean = np.add.reduceat(h * weight[:, None], starts)
        mean /= np.add.reduceat(weight, starts)[:, None]
        top = np.maximum.reduceat(h, starts)
        known = (features - self._mean) * self._scale
        vector = np.concatenate([mean, top, known], axis=1)
        hidden = np.maximum(vector @ self._hidden + self._hidden_bias, 0.0)
        scores: Floats = hidden @ self._out + self._out_bias
        return scores

    def _place(self, length: int) -> Floats:
        """What the places of a text and the gap after it add, (length + 1, 3 * channels)."""
        found = self._places.get(length)
        if found is None:
            place = np.arange(length)
            found = np.zeros((length + 1, self._head.shape[1]), dtype=np.float32)
            found[:-1] = self._head[np.minimum(place, len(self._head) - 1)]
            found[:-1] += self._tail[np.minimum(place[::-1], len(self._tail) - 1)]
            found[:-1, self._own] += self._conv_bias
            if len(self._places) >= _LENGTHS:
                self._places.clear()
            self._places[length] = found
        return found


class Network(Protocol):
    """Ids and features of texts to scores."""

    @property
    def vocab_size(self) -> int:
        """Tokens that it has weights for."""

    def __call__(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        """Scores (n,) of ids of n texts and their features (n, len(FEATURES))."""


class SumNetwork:
    """Several networks on the same tokens; their scores are added up.

    Convolutions that were trained apart err apart; and what they smooth over, a linear model knows
    by heart: wide and deep (Cheng et al., DLRS 2016).
    """

    def __init__(self, parts: Sequence[Network]) -> None:
        """Take one network or more.

        Raises:
            PredictorError: they are not of the same tokens.
        """
        self._parts = parts
        self.vocab_size = parts[0].vocab_size
        for part in parts:
            if part.vocab_size != self.vocab_size:
                raise PredictorError(
                    f"the arrays of one network have {part.vocab_size} tokens, and those of "
                    f"another {self.vocab_size}; distil the student again."
                )

    def __call__(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        """Scores (n,) of ids of n texts and their features (n, len(FEATURES))."""
        scores = self._parts[0](ids, features)
        for part in self._parts[1:]:
            scores = scores + part(ids, features)
        return scores


def member_array(name: str, member: int) -> str:
    """Name of an array of one of several convolutions; the first one's bear no number."""
    return f"{name}.{member}" if member else name


def read_network(weights: Arrays, threads: int = 1) -> Network:
    """The convolutions, the linear model, or the sum of them: whatever the arrays are of.

    The linear model multiplies no matrices: one core is all that it uses.

    Raises:
        PredictorError: an array is missing or its shape does not fit the others.
    """
    members: defaultdict[str, dict[str, NDArray[np.generic]]] = defaultdict(dict)
    for full, array in weights.items():
        name, _, member = full.partition(".")
        if name in _SHAPES:
            members[member][name] = array
    parts: list[Network] = [StudentNetwork(members[each], threads) for each in sorted(members)]
    if MARK in weights:
        parts.append(NgramNetwork(weights))
    if not parts:
        return StudentNetwork(weights, threads)  # which says what is missing
    return parts[0] if len(parts) == 1 else SumNetwork(parts)


class StudentScorer:
    """Texts to scores."""

    survives_fork = True

    def __init__(self, tokenizer: WordTokenizer, network: Network) -> None:
        self._tokenizer = tokenizer
        self._network = network

    def score(self, texts: Sequence[str]) -> Floats:
        """Scores (n,) in the order of the texts."""
        return self._network(*self._tokenizer.read_all(texts))


def load(folder: Path, manifest: Manifest, threads: int) -> StudentScorer:
    """The scorer of a student's folder.

    Raises:
        PredictorError: a file is missing, cannot be read, or does not fit the other.
    """
    for name in (TOKENIZER, WEIGHTS):
        if name not in manifest.files:
            raise PredictorError(f"{folder / name}: a student needs this file; distil it again.")
    tokenizer = read_tokenizer(folder / TOKENIZER, manifest.input)
    path = folder / WEIGHTS
    weights = read_arrays(path)
    try:
        network = read_network(weights, threads)
    except PredictorError as error:
        raise PredictorError(f"{path}: {error}") from error
    if network.vocab_size != tokenizer.vocab_size:
        raise PredictorError(
            f"{folder / TOKENIZER}: it has {tokenizer.vocab_size} tokens and {WEIGHTS} "
            f"{network.vocab_size}; they are not of one student."
        )
    return StudentScorer(tokenizer, network)


_KNOWN = {"features": len(FEATURES), "three": 3, "one": 1}
_SHAPES: dict[str, tuple[str, ...]] = {
    "token": ("tokens", "width"),
    "token_scale": ("tokens", "one"),
    "pair": ("buckets", "width"),
    "pair_scale": ("buckets", "one"),
    "head": ("first places", "width"),
    "tail": ("last places", "width"),
    "conv": ("three", "width", "channels"),
    "conv_bias": ("channels",),
    "gate": ("channels",),
    "feature_mean": ("features",),
    "feature_scale": ("features",),
    "hidden": ("inputs", "neurons"),
    "hidden_bias": ("neurons",),
    "out": ("neurons",),
    "out_bias": ("one",),
}
"""Name of each array to its axes; axes of one name are of one size."""
