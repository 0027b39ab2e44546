"""Tiny networks of several families of encoders, with random weights."""

from __future__ import annotations

import torch

from pars_export.network import RankerNetwork

CONFIG: dict[str, float] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 140,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
_DISTILBERT: dict[str, object] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
_MODERNBERT: dict[str, object] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
FAMILIES: dict[str, dict[str, object]] = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "deberta-v2": {
        "relative_attention": True,
        "max_relative_positions": 20,
        "pos_att_type": ["c2p", "p2c"],
    },
    "distilbert": _DISTILBERT,
    "electra": {"embedding_size": 16},
    "modernbert": _MODERNBERT,
    "mpnet": {},
    "roberta": {},
    "xlm-roberta": {},
}


def network_of(
    kind: str, outputs: int = 1, facts: int = 0, pooling: str = "mean", **more: object
) -> RankerNetwork:
    torch.manual_seed(1)
    config = {"model_type": kind, **CONFIG, **FAMILIES[kind], **more}
    network = RankerNetwork(config, pooling, outputs, facts)
    network.eval()
    for parameter in network.parameters():  # biases begin as zeros
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return network
