"""Around any encoder runtime: text to ids, length-sorted micro-batches, scores in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.batches import BatchPlan, micro_batches, padded
from pars_export.errors import PredictorError
from pars_export.inputs import TextTokenizer
from pars_export.runtimes.ngram_half import NgramHalf, read_half

TOKENIZER = "tokenizer.json"
CONFIG = "config.json"


class Core(Protocol):
    """Ids to scores: all that differs between encoder runtimes."""

    survives_fork: bool

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        """Scores (n,) of ids (n, t), and of facts (n, width) where the ranker reads them."""


class EncodedScorer:
    """Texts to scores through a tokenizer and a `Core`, and an n-gram half where there is one."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        core: Core,
        plan: BatchPlan | None = None,
        half: NgramHalf | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._core = core
        self._plan = plan or BatchPlan()
        self._half = half
        self.survives_fork = core.survives_fork

    def score(
        self, texts: Sequence[str], facts: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Scores (n,) in the order of the texts; a ranker that reads facts needs them."""
        ids = self._tokenizer.encode(texts)
        scores = np.empty(len(ids), dtype=np.float32)
        for batch in micro_batches([len(each) for each in ids], self._plan):
            rows = padded([ids[index] for index in batch], self._tokenizer.pad_id)
            if facts is None:
                scores[batch] = self._core(*rows)
            else:
                scores[batch] = self._core(*rows, facts[batch])
        if self._half is not None:
            scores += self._half.score(texts, ids)
        return scores


def encoded_scorer(
    folder: Path, manifest: Manifest, core: Core, plan: BatchPlan | None = None
) -> EncodedScorer:
    """The scorer of an encoder's folder: all of it but the network, which ``core`` runs.

    Raises:
        PredictorError: a file is missing, cannot be read, or does not fit the others.
    """
    tokenizer = load_tokenizer(folder, manifest)
    half = None if manifest.ngrams is None else read_half(folder / manifest.ngrams, tokenizer)
    return EncodedScorer(tokenizer, core, plan, half)


def load_tokenizer(folder: Path, manifest: Manifest) -> TextTokenizer:
    """The tokenizer of a predictor folder, checked against its encoder.

    Raises:
        PredictorError: a file is missing, or the two do not belong together.
    """
    check_named(folder, manifest)
    tokenizer = TextTokenizer(folder / TOKENIZER, manifest.input)
    check_encoder(folder, tokenizer)
    return tokenizer


def check_named(folder: Path, manifest: Manifest) -> None:
    """Whether the manifest names what every encoder needs; what it does not name is not read.

    Raises:
        PredictorError: it does not.
    """
    for name in (TOKENIZER, CONFIG):
        if name not in manifest.files:
            raise PredictorError(f"{folder / name}: an encoder needs this file; export it again.")


def check_encoder(folder: Path, tokenizer: TextTokenizer) -> None:
    """Whether the encoder of `config.json` can read what the tokenizer makes.

    Raises:
        PredictorError: ids beyond the encoder's vocabulary, or too many tokens in a text.
    """
    encoder = read_config(folder)["encoder"]
    assert isinstance(encoder, dict)
    vocabulary = encoder.get("vocab_size")
    if isinstance(vocabulary, int) and tokenizer.id_bound > vocabulary:
        raise PredictorError(
            f"{folder / TOKENIZER}: it has ids up to {tokenizer.id_bound - 1}, and the encoder of "
            f"{CONFIG} has {vocabulary} tokens; they are not of one model."
        )
    positions = positions_of(folder)
    if positions is not None and tokenizer.spec.max_length > positions:
        raise PredictorError(
            f"{folder / CONFIG}: the encoder takes {positions} tokens at most, and "
            f"input.max_length is {tokenizer.spec.max_length}."
        )


def positions_of(folder: Path) -> int | None:
    """Most tokens that a folder's encoder takes; None where its configuration does not say."""
    encoder = read_config(folder)["encoder"]
    assert isinstance(encoder, dict)
    found = encoder.get("max_position_embeddings")
    return found if isinstance(found, int) else None


def check_facts(where: Path, found: int, manifest: Manifest) -> None:
    """Whether a network reads as many numbers beside the text as the manifest's facts make.

    Raises:
        PredictorError: it does not.
    """
    if found != manifest.facts.width:
        raise PredictorError(
            f"{where}: the network reads {found} numbers beside the text, and the facts of "
            f"predictor.json make {manifest.facts.width}; export the predictor again."
        )


def read_config(folder: Path) -> dict[str, object]:
    """`config.json`: the encoder's configuration, its pooling and the number of outputs.

    Raises:
        PredictorError: it is not of that form.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PredictorError(f"{path}: not valid JSON ({error}).") from error
    whole = isinstance(config, dict) and isinstance(config.get("outputs"), int)
    if not whole or not isinstance(config.get("encoder"), dict) or config["outputs"] < 1:
        raise PredictorError(f"{path}: it must hold encoder, pooling and outputs.")
    return dict(config)
