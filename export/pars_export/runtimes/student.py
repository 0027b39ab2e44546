"""A student in plain numpy: embeddings, one convolution of width 3, a gated average, a small MLP.

For token t of a text, x[t] = token[id[t]] + pair[hash(id[t], id[t+1])] + head[t] + tail[T-1-t];
h[t] = relu([x[t-1], x[t], x[t+1]] W + b); the text's vector is the average of h under the weights
exp(h g), its maximum, and the text's surface features; two layers make the score of it. Whatever
depends on the whole batch is a concatenation: a score does not depend on its neighbours.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.errors import PredictorError
from pars_export.words import FEATURES, WordTokenizer, read_tokenizer

TOKENIZER, WEIGHTS = "tokenizer.json", "student.npz"
GATE_BOUND = 8.0
"""Logits of the average's weights lie within this, so that exp neither overflows nor vanishes."""
_TOKENS = 2048
"""Tokens computed together: what they need stays in the cache of one core."""

Floats = NDArray[np.float32]
Integers = TypeVar("Integers", NDArray[np.int64], Any)


def pair_hash(first: Integers, second: Integers, buckets: int) -> Integers:
    """Bucket of each pair of neighbouring tokens; the same for ever, for weights hang on it.

    Args:
        first: ids, an int64 array (or a tensor, in training).
        second: the ids after them.
        buckets: number of buckets, at most 2 to the 31.
    """
    mixed = (first * 0x9E3779B1 + second * 0x85EBCA6B) & 0xFFFFFFFF
    return (mixed * buckets) >> 32


class StudentNetwork:
    """Weights and the way from ids to scores."""

    def __init__(self, weights: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the arrays of `student.npz`.

        Raises:
            PredictorError: an array is missing or its shape does not fit the others.
        """
        _check(weights)
        self.vocab_size = len(weights["token"])
        # Small on disk, and ready for use in memory.
        self._token, self._pair = (
            _floats(weights, name) * _floats(weights, f"{name}_scale") for name in ("token", "pair")
        )
        self._head, self._tail = _floats(weights, "head"), _floats(weights, "tail")
        width = self._token.shape[1]
        self._conv = np.ascontiguousarray(_floats(weights, "conv").reshape(3 * width, -1))
        self._conv_bias, self._gate = _floats(weights, "conv_bias"), _floats(weights, "gate")
        self._hidden, self._hidden_bias = (_floats(weights, n) for n in ("hidden", "hidden_bias"))
        self._out, self._out_bias = _floats(weights, "out"), _floats(weights, "out_bias")
        self._mean, self._scale = (_floats(weights, n) for n in ("feature_mean", "feature_scale"))
        self._places: dict[int, Floats] = {}

    def __call__(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        """Scores (n,) of ids of n texts and their features (n, len(FEATURES))."""
        scores = np.empty(len(ids), dtype=np.float32)
        start = total = 0
        for index, each in enumerate(ids):
            if total and total + len(each) > _TOKENS:
                scores[start:index] = self._score(ids[start:index], features[start:index])
                start, total = index, 0
            total += len(each)
        scores[start:] = self._score(ids[start:], features[start:])
        return scores

    def _score(self, ids: Sequence[Sequence[int]], features: Floats) -> Floats:
        # All texts in one row, an empty place between them: what lies there stays zero.
        lengths = [len(each) for each in ids]
        row = np.array([0, *chain.from_iterable((*each, 0) for each in ids)])
        gaps = np.cumsum([0, *(length + 1 for length in lengths)])
        x = self._token.take(row, axis=0)
        pair = pair_hash(row[:-1], row[1:], len(self._pair))
        x[:-1] += self._pair.take(pair, axis=0)
        x[1:] += np.concatenate([self._place(length) for length in lengths])
        x[gaps] = 0.0
        windows = np.concatenate([x[:-2], x[1:-1], x[2:]], axis=1)
        h = np.maximum(windows @ self._conv + self._conv_bias, 0.0)
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
        """Embeddings of the places of a text and of the gap after it, (length + 1, width)."""
        found = self._places.get(length)
        if found is None:
            place = np.arange(length)
            found = np.zeros((length + 1, self._head.shape[1]), dtype=np.float32)
            found[:-1] = self._head[np.minimum(place, len(self._head) - 1)]
            found[:-1] += self._tail[np.minimum(place[::-1], len(self._tail) - 1)]
            self._places[length] = found
        return found


class StudentScorer:
    """Texts to scores."""

    survives_fork = True

    def __init__(self, tokenizer: WordTokenizer, network: StudentNetwork) -> None:
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
    del threads
    for name in (TOKENIZER, WEIGHTS):
        if name not in manifest.files:
            raise PredictorError(f"{folder / name}: a student needs this file; distil it again.")
    tokenizer = read_tokenizer(folder / TOKENIZER, manifest.input)
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            weights = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise PredictorError(f"{path}: no arrays that can be read ({error}).") from error
    try:
        network = StudentNetwork(weights)
    except PredictorError as error:
        raise PredictorError(f"{path}: {error}") from error
    if network.vocab_size != tokenizer.vocab_size:
        raise PredictorError(
            f"{folder / TOKENIZER}: it has {tokenizer.vocab_size} tokens and {WEIGHTS} "
            f"{network.vocab_size}; they are not of one student."
        )
    return StudentScorer(tokenizer, network)


def _floats(weights: Mapping[str, NDArray[np.generic]], name: str) -> Floats:
    return np.ascontiguousarray(weights[name], dtype=np.float32)


def _check(weights: Mapping[str, NDArray[np.generic]]) -> None:
    """Whether the arrays are there and of shapes that fit together."""
    sizes: dict[str, int] = {"features": len(FEATURES), "three": 3, "one": 1}
    for name, wanted in _SHAPES.items():
        if name not in weights:
            raise PredictorError(f"the array {name!r} is missing; distil the student again.")
        found = weights[name]
        kinds = "i" if name in ("token", "pair") else "f"
        if found.dtype.kind not in kinds or found.ndim != len(wanted):
            raise PredictorError(
                f"the array {name!r} is {found.dtype} of shape {found.shape}; expected "
                f"{'whole numbers' if kinds == 'i' else 'fractions'} by {', '.join(wanted)}."
            )
        for size, axis in zip(found.shape, wanted, strict=True):
            if sizes.setdefault(axis, size) != size or size < 1:
                raise PredictorError(
                    f"the array {name!r} has {size} {axis}, and {sizes[axis]} were expected."
                )
        if not np.isfinite(found).all():
            raise PredictorError(f"the array {name!r} holds NaN or infinity.")
    if sizes["inputs"] != 2 * sizes["channels"] + len(FEATURES):
        raise PredictorError(f"the array 'hidden' has {sizes['inputs']} inputs; distil it again.")


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
