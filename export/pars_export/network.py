"""The network of a ranker in plain torch: encoder, pooled vector, linear head, one score.

A predictor folder's `config.json` and `model.safetensors` rebuild it without lightning; the ONNX
model is traced from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pars_export.encoder_config import transformers_config
from pars_export.errors import PredictorError

FACT_NEURONS = 32
"""Of the hidden layer that joins facts and text."""
POOLINGS = ("mean", "layers", "cls", "pooler")
_POOLER_CALLED = ("squeezebert",)
"""Types of encoders that call their pooler without asking whether they have one."""
_PARTS = 3
"""Of an encoder's layers, the ends of which `layers` pools."""


class EncoderOutput(Protocol):
    """What transformers' encoders return, as far as it is used here."""

    last_hidden_state: Tensor
    hidden_states: Sequence[Tensor]
    """Embeddings and what each layer makes of them, where asked for."""
    pooler_output: Tensor


class RankerNetwork(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Token ids to one score per text; higher means a longer response.

    With several outputs the head classifies the length into ordered buckets, and the score is the
    expected bucket index, which ranks by all of the distribution and not by its mode alone.

    Args:
        encoder_config: content of the encoder's `config.json`.
        pooling: `mean` over tokens, `layers` (that mean of the states after a third, two thirds and
            all of the layers, side by side), `cls` (first token) or `pooler` (the encoder's own
            layer).
        outputs: 1, or the number of buckets.
        facts: numbers per request that stand beside its text (`FactSpec.width`); 0 for none.

    Raises:
        PredictorError: an encoder or pooling that cannot be built.
    """

    def __init__(
        self, encoder_config: Mapping[str, object], pooling: str, outputs: int = 1, facts: int = 0
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
            # It would take part in no score.
            called = self.encoder.config.model_type in _POOLER_CALLED
            self.encoder.pooler = _Nothing() if called else None
        self.pooling = pooling
        width = int(self.encoder.config.hidden_size)
        if pooling == "layers":
            self.encoder.config.output_hidden_states = True
            width *= len(self.pooled_layers())
        self.head = nn.Linear(width, outputs)
        self.fact_head = FactHead(width, facts, outputs) if facts else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, facts: Tensor | None = None
    ) -> Tensor:
        """Scores (n,) in float32 of token ids (n, t) under a mask (n, t) of ones and zeros.

        A network that reads facts needs them, (n, facts).
        """
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return self.score(self.pool(output, attention_mask), facts)

    def pool(self, output: EncoderOutput, attention_mask: Tensor) -> Tensor:
        """One vector per text (n, width) from the encoder's output."""
        if self.pooling == "pooler":
            return output.pooler_output.float()
        if self.pooling == "cls":
            return output.last_hidden_state.float()[:, 0]
        pooled = [output.last_hidden_state]
        if self.pooling == "layers":
            pooled = [output.hidden_states[layer] for layer in self.pooled_layers()]
        mask = attention_mask.unsqueeze(-1).float()
        tokens = mask.sum(dim=1).clamp(min=1.0)
        means = [(states.float() * mask).sum(dim=1) / tokens for states in pooled]
        return means[0] if len(means) == 1 else torch.cat(means, dim=1)

    def pooled_layers(self) -> list[int]:
        """Which of the encoder's layers are pooled over tokens, counted from 1; none of others."""
        layers = int(self.encoder.config.num_hidden_layers)
        if self.pooling == "layers":
            return sorted({max(1, round(layers * part / _PARTS)) for part in range(1, _PARTS + 1)})
        return [layers] if self.pooling == "mean" else []

    def logits(self, pooled: Tensor, facts: Tensor | None = None) -> Tensor:
        """Outputs of the head (n, outputs) of pooled vectors (n, width) and facts (n, facts)."""
        logits: Tensor = self.head(pooled)
        if self.fact_head is not None:
            logits = logits + self.fact_head(pooled, facts)
        return logits

    def score(self, pooled: Tensor, facts: Tensor | None = None) -> Tensor:
        """Scores (n,) of pooled vectors (n, width) and facts (n, facts)."""
        logits = self.logits(pooled, facts)
        if logits.shape[1] == 1:
            return logits.squeeze(1)
        index = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
        return (logits.softmax(dim=1) * index).sum(dim=1)


class _Nothing(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """In the place of a pooler that is called although it is not needed."""

    def forward(self, *_: object) -> None:
        """Compute nothing."""


class FactHead(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """What facts add to the head's outputs, in the light of the text.

    A hidden layer reads both, because what a fact means hangs on what is asked: a long prompt of
    mathematics has a long answer, a long text to be classified has not.
    """

    def __init__(self, width: int, facts: int, outputs: int) -> None:
        super().__init__()
        self.text = nn.Linear(width, FACT_NEURONS)
        self.facts = nn.Linear(facts, FACT_NEURONS, bias=False)
        self.out = nn.Linear(FACT_NEURONS, outputs, bias=False)
        # What training never varied, such as a mark of facts that were always known, stays silent.
        nn.init.zeros_(self.facts.weight)

    def forward(self, pooled: Tensor, facts: Tensor) -> Tensor:
        """Addends (n, outputs) from pooled vectors (n, width) and facts (n, facts)."""
        found: Tensor = self.out(torch.relu(self.text(pooled) + self.facts(facts)))
        return found


def build_encoder(config: Mapping[str, object]) -> nn.Module:
    """The encoder of a `config.json` with random weights and eager attention; nothing is fetched.

    Eager attention is what exports to a graph of plain operators, which every runtime reads.
    BigBird attends to all tokens: its sparse attention to long texts would end for good with the
    first short one.

    Raises:
        PredictorError: no model of `MODEL_TYPES`, or a value does not fit.
    """
    from transformers import AutoModel

    try:
        made = transformers_config(config)
        if made.model_type == "big_bird":
            made.attention_type = "original_full"
        encoder: nn.Module = AutoModel.from_config(
            made,
            attn_implementation="eager",
            trust_remote_code=False,
            # A configuration saved with half precision would build, and train, half weights.
            dtype=torch.float32,
        )
    except PredictorError:
        raise
    except Exception as error:  # what transformers and torch raise shares no other base class
        raise PredictorError(
            f"config.json: an encoder of type {config['model_type']!r} cannot be built from it "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
        ) from error
    return encoder
