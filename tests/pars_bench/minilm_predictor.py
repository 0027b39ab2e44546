"""The embedded MiniLM with a head that nobody trained: a real encoder's graph and predictor.

The head tells prompts by what they differ in most, so that rounding is small beside the scores, as
it is beside those of a trained one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pars_export.artifact import Manifest
from pars_export.build import write_encoder_predictor
from pars_export.calibration import Calibration
from pars_export.engines import BY_PRECISION
from pars_export.inputs import InputSpec, TextTokenizer
from pars_export.network import RankerNetwork
from pars_export.parity import demonstration_texts
from pars_model.encoder import find_encoder, pretrained_weights

NAME = "embedded:minilm"
UNTRAINED = replace(BY_PRECISION["int8"], tau=0.97)
"""What int8 keeps of the order by a head that nobody trained; all other bounds are real ones."""


def minilm_network() -> RankerNetwork:
    """MiniLM with its pretrained weights; the head is random."""
    files = find_encoder(NAME)
    torch.manual_seed(0)
    network = RankerNetwork(files.config, "mean")
    network.encoder.load_state_dict(pretrained_weights(files), strict=False)
    network.eval()
    return network


def write_minilm_predictor(folder: Path, **settings: Any) -> Path:
    """A predictor folder of it, with the engines every one has, or more by ``settings``."""
    files = find_encoder(NAME)
    manifest = Manifest(
        kind="encoder",
        input=InputSpec(max_length=128, truncation="head_tail"),
        calibration=Calibration((-1.0, 0.0, 1.0), (10.0, 100.0, 1000.0)),
    )
    network = minilm_network()
    (folder.parent / "tokenizer.json").write_text(files.tokenizer_json, encoding="utf-8")
    tokenizer = TextTokenizer(folder.parent / "tokenizer.json", manifest.input)
    with torch.inference_mode():
        texts = torch.cat([_pooled(network, tokenizer, text) for text in demonstration_texts()[0]])
        network.head.weight.copy_(torch.pca_lowrank(texts, q=1)[2].T)
    write_encoder_predictor(
        folder, network, files.config, files.tokenizer_json, manifest, **settings
    )
    return folder


def _pooled(network: RankerNetwork, tokenizer: TextTokenizer, text: str) -> torch.Tensor:
    ids = torch.tensor(tokenizer.encode([text]))
    mask = torch.ones_like(ids)
    return network.pool(network.encoder(input_ids=ids, attention_mask=mask), mask)
