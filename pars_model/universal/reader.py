"""What a pretrained encoder says of texts: the teacher's and the student's idea of a meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pars_export.inputs import text_digest
from pars_model.device import bfloat16_pays
from pars_model.encoder import find_encoder
from pars_model.experiments.frozen import ENCODER, FrozenEncoder
from pars_model.kept import in_steps
from pars_model.universal.corpus import whole_words

Rows = NDArray[np.float32]

WIDTH = 256
"""Principal components that are kept of the encoder's features."""


class Reader:
    """Texts to the principal components of frozen MiniLM's features.

    Args:
        prompts: whose features tell what the components are; lengths do not enter.
        folder: where features are kept between runs; nowhere by default.

    Attributes:
        known: components (n, up to `WIDTH`) of the prompts, the largest first.
    """

    def __init__(self, prompts: Sequence[str], folder: Path | None = None) -> None:
        digest = text_digest("\n".join(prompts))[:16]
        self._kept = None if folder is None else folder / f"read-{digest}.npz"
        self._encoder = FrozenEncoder()
        features = in_steps(
            self._features,
            prompts,
            "prompts",
            None if folder is None else folder / f"features-{digest}.npz",
        )
        self._mean = features.mean(axis=0)
        self._scale = 1 / np.maximum(features.std(axis=0), 1e-6)
        whole = self._standardised(features)
        _, components = np.linalg.eigh(whole.T.astype(np.float64) @ whole)  # ascending
        self._components = components[:, ::-1][:, :WIDTH].astype(np.float32)
        self.known: Rows = whole @ self._components

    def __call__(self, texts: Sequence[str]) -> Rows:
        """Components (n, up to `WIDTH`) of other texts."""
        return in_steps(self._read, texts, "more prompts", self._kept)

    def words(self) -> list[str]:
        """Words that the encoder knows, the most common first."""
        return whole_words(Tokenizer.from_str(find_encoder(ENCODER).tokenizer_json).get_vocab())

    def _read(self, texts: Sequence[str]) -> Rows:
        found: Rows = self._standardised(self._features(texts)) @ self._components
        return found

    def _features(self, texts: Sequence[str]) -> Rows:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16_pays()):
            return self._encoder(texts)

    def _standardised(self, features: Rows) -> Rows:
        found: Rows = (features - self._mean) * self._scale
        return found
