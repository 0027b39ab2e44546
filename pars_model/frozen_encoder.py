"""What a pretrained encoder says of texts, as it is, without any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pars_model.batches import pad
from pars_model.kept import Rows
from pars_model.module import ResponseLengthRanker

LAYERS = (2, 4, 6)
"""Layers of MiniLM whose states, each the mean over tokens, make the features."""
ENCODER, MAX_LENGTH = "embedded:minilm", 128


class FrozenEncoder:
    """Texts to features; the encoder is loaded when it is first asked."""

    def __init__(self, max_length: int = MAX_LENGTH) -> None:
        self._max_length = max_length
        self._ranker: ResponseLengthRanker | None = None

    def __call__(self, texts: Sequence[str]) -> Rows:
        """Features (n, width) of texts."""
        if self._ranker is None:
            self._ranker = ResponseLengthRanker(encoder=ENCODER, max_length=self._max_length)
            self._ranker.eval()
        tokenizer = self._ranker.text_tokenizer()
        tokens = tokenizer.encode(texts)
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        found: list[Rows] = [np.empty(0, dtype=np.float32)] * len(tokens)
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            ids, mask = pad([tokens[place] for place in part], tokenizer.pad_id)
            with torch.inference_mode():
                states = self._ranker.encoder(
                    input_ids=ids, attention_mask=mask, output_hidden_states=True
                ).hidden_states
            shares = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
            rows = torch.cat([(states[layer] * shares).sum(dim=1) for layer in LAYERS], dim=1)
            for place, row in zip(part, rows.numpy(), strict=True):
                found[place] = row
        return np.stack(found)
