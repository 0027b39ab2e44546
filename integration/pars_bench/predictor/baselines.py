"""Baselines: what the paper and others score with, and the simplest thing that might do.

Networks have random weights of the published sizes: what a dense network costs does not depend on
its weights. Nothing is downloaded, and nothing here says how well one of them would rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pars_bench.predictor.contestants import read_encoder
from pars_bench.predictor.work import Work, work_of_encoder
from pars_export.artifact import Manifest
from pars_export.batches import BatchPlan
from pars_export.inputs import TextTokenizer
from pars_export.runtimes import Scorer
from pars_export.runtimes.encoded import TOKENIZER, EncodedScorer

# Sizes as published: Devlin et al. 2019 and Zhang et al. 2022.
BERT_BASE: Mapping[str, object] = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
OPT_125M: Mapping[str, object] = {
    "model_type": "opt",
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 768,
}
_ONE_BATCH = BatchPlan(tokens=1 << 40, rows=1 << 40, padding=1.0)


def open_eager(config: Mapping[str, object], pooling: str) -> Callable[..., Scorer]:
    """A network of that shape in eager PyTorch, all texts of a call in one padded batch."""

    def open_(folder: Path, manifest: Manifest, threads: int) -> Scorer:
        from pars_export.network import RankerNetwork
        from pars_export.runtimes.torch_eager import TorchCore

        tokenizer = TextTokenizer(folder / TOKENIZER, manifest.input)
        known = {**config, "vocab_size": max(int(str(config["vocab_size"])), tokenizer.vocab_size)}
        return EncodedScorer(
            tokenizer, TorchCore(RankerNetwork(known, pooling), threads), _ONE_BATCH
        )

    return open_


class PipelineScorer:
    """transformers' pipeline for a text classifier with one output, of the encoder's shape."""

    survives_fork = False

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        from transformers import (
            AutoModelForSequenceClassification,
            PreTrainedTokenizerFast,
            pipeline,
        )

        from pars_export.encoder_config import transformers_config

        config = transformers_config({**read_encoder(folder), "num_labels": 1})
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / TOKENIZER),
            pad_token="[PAD]",  # noqa: S106  # a token of text, no secret
            model_max_length=manifest.input.max_length,
        )
        self._pipeline: Any = pipeline(
            "text-classification",
            model=AutoModelForSequenceClassification.from_config(config).eval(),
            tokenizer=tokenizer,
            device="cpu",
        )

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores (n,) of texts, all in one batch."""
        found = self._pipeline(
            list(texts), batch_size=len(texts), truncation=True, function_to_apply="none"
        )
        return np.array([each["score"] for each in found], dtype=np.float32)


def _open_pipeline(folder: Path, manifest: Manifest, threads: int) -> Scorer:
    import torch

    torch.set_num_threads(threads)
    return PipelineScorer(folder, manifest)


def _open_ridge(folder: Path, manifest: Manifest, threads: int) -> Scorer:
    from pars_bench.predictor.ridge import fit_ridge

    del folder, manifest, threads  # one thread is all that it can use
    return fit_ridge()


OPEN: Mapping[str, Callable[[Path, Manifest, int], Scorer]] = {
    # The paper reads the first token's vector. vllm-ltr reads the last token's, which costs as
    # little beside the decoder as the average that is taken here.
    "bert-base": open_eager(BERT_BASE, "cls"),
    "opt-125m": open_eager(OPT_125M, "mean"),
    "pipeline": _open_pipeline,
    "ngram-ridge": _open_ridge,
}


def work_of(name: str, folder: Path) -> Work | None:
    """What a baseline computes; None for one that multiplies no matrices."""
    if name == "ngram-ridge":
        return None
    config = {"bert-base": BERT_BASE, "opt-125m": OPT_125M}.get(name)
    return work_of_encoder(config or read_encoder(folder), "torch")
