"""The network of a ranker in plain torch: encoder, pooled vector, linear head, one score.

A predictor folder's `config.json` and `model.safetensors` rebuild it without lightning; the ONNX
model is traced from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from pars_export.errors import PredictorError

POOLINGS = ("mean", "cls", "pooler")


class EncoderOutput(Protocol):
    """What transformers' encoders return, as far as it is used here."""

    last_hidden_state: Tensor
    pooler_output: Tensor


class RankerNetwork(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Token ids to one score per text; higher means a longer response.

    With several outputs the head classifies the length into ordered buckets, and the score is the
    expected bucket index, which ranks by all of the distribution and not by its mode alone.

    Args:
        encoder_config: content of the encoder's `config.json`.
        pooling: `mean` over tokens, `cls` (first token) or `pooler` (the encoder's own layer).
        outputs: 1, or the number of buckets.

    Raises:
        PredictorError: an encoder or pooling that cannot be built.
    """

    def __init__(
        self, encoder_config: Mapping[str, object], pooling: str, outputs: int = 1
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise PredictorError(
                f"config.json: pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}."
            )
        self.encoder = build_encoder(encoder_config)
        if pooling == "pooler" and getattr(self.encoder, "pooler", None) is None:
            raise PredictorError("config.json: pooling is 'pooler', which this encoder lacks.")
        if pooling != "pooler" and getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # it would take part in no score
        self.pooling = pooling
        self.head = nn.Linear(int(self.encoder.config.hidden_size), outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores (n,) in float32 of token ids (n, t) under a mask (n, t) of ones and zeros."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return self.score(self.pool(output, attention_mask))

    def pool(self, output: EncoderOutput, attention_mask: Tensor) -> Tensor:
        """One vector per text (n, width) from the encoder's output."""
        if self.pooling == "pooler":
            return output.pooler_output.float()
        states = output.last_hidden_state.float()
        if self.pooling == "cls":
            return states[:, 0]
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)

    def score(self, pooled: Tensor) -> Tensor:
        """Scores (n,) of pooled vectors (n, width)."""
        logits: Tensor = self.head(pooled)
        if logits.shape[1] == 1:
            return logits.squeeze(1)
        index = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
        return (logits.softmax(dim=1) * index).sum(dim=1)


def build_encoder(config: Mapping[str, object]) -> nn.Module:
    """The encoder of a `config.json` with random weights and eager attention.

    Eager attention is what exports to a graph that runtimes recognise and fuse.

    Raises:
        PredictorError: transformers knows no such model, or a value does not fit.
    """
    from transformers import AutoConfig, AutoModel

    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise PredictorError("config.json: the encoder's configuration names no model_type.")
    try:
        encoder: nn.Module = AutoModel.from_config(
            AutoConfig.for_model(model_type, **settings),
            attn_implementation="eager",
            trust_remote_code=False,
            # A configuration saved with half precision would build, and train, half weights.
            dtype=torch.float32,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PredictorError(
            f"config.json: an encoder of type {model_type!r} cannot be built from it "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
        ) from error
    return encoder
