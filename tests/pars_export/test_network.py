"""Encoders whose forms differ from BERT's, as networks of rankers."""

from __future__ import annotations

import torch

from pars_export.network import RankerNetwork

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def test_an_encoder_that_always_calls_its_pooler_does_without() -> None:
    config = {**SMALL, "model_type": "squeezebert", "embedding_size": 16}
    network = RankerNetwork(config, "mean").eval()
    assert not any("pooler" in name for name, _ in network.named_parameters())
    ids = torch.arange(14).reshape(2, 7)
    scores = network(ids, torch.ones_like(ids))
    assert scores.shape == (2,)
    assert scores.isfinite().all()


def test_a_long_text_has_one_score_by_bigbird_whatever_came_before() -> None:
    config = {**SMALL, "model_type": "big_bird", "attention_type": "block_sparse"}
    config |= {"block_size": 4, "num_random_blocks": 1}
    network = RankerNetwork(config, "layers").eval()
    ids = torch.arange(45)[None]
    mask = torch.ones_like(ids)
    before = network(ids, mask)
    network(ids[:, :5], mask[:, :5])
    assert torch.equal(network(ids, mask), before)
