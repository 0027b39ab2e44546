"""The parts of a tiny encoder: any test folder may import it, for it needs no fixtures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

_WORDS = ["what", "is", "the", "moon", "write", "a", "story", "of", "ten", "words", "list", "facts"]
_PIECES = [
    f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789?.," for mark in ("", "##")
]


def tiny_tokenizer_json(words: Sequence[str] = _WORDS) -> str:
    """A WordPiece tokenizer of these words and of single letters, digits and signs."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*words, *_PIECES])]
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return tokenizer.to_str()


def tiny_config(tokenizer_json: str) -> dict[str, object]:
    return {
        "model_type": "bert",
        "vocab_size": len(json.loads(tokenizer_json)["model"]["vocab"]),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        # Wide enough that scores of different prompts differ by far more than rounding.
        "initializer_range": 0.2,
    }


def tiny_half(tokenizer_json: str) -> dict[str, NDArray[np.generic]]:
    """Arrays of an n-gram half with random weights, whose scores differ as the network's do."""
    tokens = len(json.loads(tokenizer_json)["model"]["vocab"])
    rng = np.random.default_rng(0)
    sizes = {"token": tokens, "pair": 97, "end": 31}
    half = {f"ngram_{name}": rng.normal(size=size) for name, size in sizes.items()}
    half |= {f"ngram_{name}_idf": rng.uniform(0, 5, sizes[name]) for name in ("token", "pair")}
    single = {name: rng.normal(size=7) for name in ("ngram_surface", "ngram_feature_mean")}
    single |= {"ngram_feature_scale": rng.uniform(size=7), "ngram_bias": rng.normal(size=1)}
    return {
        **{name: each.astype(np.float16) for name, each in half.items()},
        **{name: each.astype(np.float32) for name, each in single.items()},
    }


def write_tiny_predictor(folder: Path, facts: Sequence[str] = (), half: bool = False) -> Path:
    """A predictor folder of the kind encoder, with the engines every one has.

    ``facts``: what it reads beside the text, and heeds as much. ``half``: whether it has one.
    """
    import torch

    from pars_export.artifact import Manifest
    from pars_export.build import write_encoder_predictor
    from pars_export.calibration import Calibration
    from pars_export.facts import FactSpec, Standard
    from pars_export.inputs import InputSpec
    from pars_export.network import RankerNetwork
    from pars_export.parity import builtin_texts

    tokenizer_json = tiny_tokenizer_json()
    config = tiny_config(tokenizer_json)
    torch.manual_seed(0)
    network = RankerNetwork(config, "mean", facts=2 * len(facts)).eval()
    if network.fact_head is not None:
        torch.nn.init.normal_(network.fact_head.facts.weight)
    write_encoder_predictor(
        folder,
        network,
        config,
        tokenizer_json,
        Manifest(
            kind="encoder",
            input=InputSpec(max_length=64, truncation="head_tail"),
            calibration=Calibration((-1.0, 0.0, 1.0), (10.0, 100.0, 1000.0)),
            facts=FactSpec(tuple(Standard(name, 0.5, 1.0) for name in facts)),
        ),
        builtin_texts(),
        ngrams=tiny_half(tokenizer_json) if half else None,
    )
    return folder
