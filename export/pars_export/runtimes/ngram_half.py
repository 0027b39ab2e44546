"""The n-gram half of an encoder's predictor: a linear model whose score joins the network's.

It reads the encoder's own tokens, special ones left out, and the surface features of the text. Its
score is added after the network ran, so it is the same float32 sum beside every engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pars_export.errors import PredictorError
from pars_export.inputs import TextTokenizer
from pars_export.runtimes.arrays import Arrays, Floats, read_arrays
from pars_export.runtimes.ngrams import NgramNetwork
from pars_export.words import FEATURES, surface

HALF = "ngrams.safetensors"
"""Its arrays, which are those of a linear student."""


class NgramHalf:
    """Texts and the ids that the encoder reads of them, to scores."""

    def __init__(self, arrays: Arrays, tokenizer: TextTokenizer) -> None:
        """Take the arrays of `ngrams.safetensors`.

        Raises:
            PredictorError: an array is missing or does not fit, or the tokenizer has ids that
                there are no weights for.
        """
        self._network = NgramNetwork(arrays)
        self._tokenizer = tokenizer
        if self._network.vocab_size < tokenizer.id_bound:
            raise PredictorError(
                f"it has weights for {self._network.vocab_size} tokens, and the tokenizer has ids "
                f"up to {tokenizer.id_bound - 1}; they are not of one predictor."
            )

    def score(self, texts: Sequence[str], ids: Sequence[list[int]]) -> Floats:
        """Scores (n,) of texts, ``ids`` being what the tokenizer's `encode` gave of them."""
        return self._network(*half_inputs(self._tokenizer, texts, ids))


def half_inputs(
    tokenizer: TextTokenizer, texts: Sequence[str], ids: Sequence[list[int]]
) -> tuple[list[list[int]], Floats]:
    """What the half reads, in training as in serving.

    Args:
        tokenizer: the encoder's.
        texts: strings.
        ids: what its `encode` gave of them.

    Returns:
        Ids of each text without special tokens, one or more, and the texts' surface features
        (n, len(FEATURES)). A text that fills ``max_length`` counts as cut, for nothing tells it
        from one that was.
    """
    spec, features = tokenizer.spec, np.empty((len(texts), len(FEATURES)), dtype=np.float32)
    for index, (text, each) in enumerate(zip(texts, ids, strict=True)):
        features[index] = surface(text, spec, len(each) >= spec.max_length)
    return [tokenizer.content(each) for each in ids], features


def read_half(path: Path, tokenizer: TextTokenizer) -> NgramHalf:
    """The half that stands in a file.

    Raises:
        PredictorError: naming the file, which cannot be read or does not fit the tokenizer.
    """
    arrays = read_arrays(path)
    try:
        return NgramHalf(arrays, tokenizer)
    except PredictorError as error:
        raise PredictorError(f"{path}: {error}") from error
