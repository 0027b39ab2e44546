"""A tiny real encoder with a real tokenizer, exported once per run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pars_export.artifact import Manifest
from pars_export.build import write_encoder_predictor
from pars_export.calibration import Calibration
from pars_export.inputs import InputSpec
from pars_export.network import RankerNetwork
from pars_export.parity import builtin_texts

MakeNetwork = Callable[..., RankerNetwork]
"""Pooling, outputs and seed to a network."""
Write = Callable[..., Manifest]
"""Folder (and network, more arguments of the export) to the manifest written there."""

_WORDS = ["what", "is", "the", "moon", "write", "a", "story", "of", "ten", "words", "list", "facts"]
_PIECES = [
    f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789?.," for mark in ("", "##")
]


def tiny_tokenizer_json() -> str:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(_WORDS + _PIECES)]
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


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    return tiny_tokenizer_json()


@pytest.fixture(scope="session")
def encoder_config(tokenizer_json: str) -> dict[str, object]:
    return tiny_config(tokenizer_json)


@pytest.fixture(scope="session")
def make_network(encoder_config: dict[str, object]) -> MakeNetwork:
    def make(pooling: str = "mean", outputs: int = 1, seed: int = 0) -> RankerNetwork:
        torch.manual_seed(seed)
        network = RankerNetwork(encoder_config, pooling, outputs)
        network.eval()
        return network

    return make


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return Manifest(
        kind="encoder",
        input=InputSpec(max_length=64, truncation="head_tail"),
        calibration=Calibration((-1.0, 0.0, 1.0), (10.0, 100.0, 1000.0)),
        training={"data": {"rows": 3}, "lr": 1e-4},
        metrics={"tau": 0.5, "nothing": float("nan")},
    )


@pytest.fixture(scope="session")
def write(
    tokenizer_json: str,
    encoder_config: dict[str, object],
    manifest: Manifest,
    make_network: MakeNetwork,
) -> Write:
    def write(out: Path, network: RankerNetwork | None = None, **changes: Any) -> Manifest:
        settings = {"texts": builtin_texts(), **changes}
        return write_encoder_predictor(
            out, network or make_network(), encoder_config, tokenizer_json, manifest, **settings
        )

    return write


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, write: Write) -> Path:
    """An exported predictor; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("exported") / "predictor"
    write(folder)
    return folder
