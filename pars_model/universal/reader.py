"""What a pretrained encoder says of texts: the teacher's and the student's idea of a meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from pars_export.files import atomic_file
from pars_export.inputs import text_digest
from pars_model.device import bfloat16_pays
from pars_model.encoder import find_encoder
from pars_model.frozen_encoder import ENCODER, LAYERS, MAX_LENGTH, FrozenEncoder
from pars_model.kept import Rows, in_steps
from pars_model.universal.corpus import whole_words

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
        self._folder = folder
        self._encoder = FrozenEncoder()
        precision = "bfloat16" if bfloat16_pays() else "float32"
        asked = f"{ENCODER} {MAX_LENGTH} {LAYERS} {WIDTH} {precision}"
        name = text_digest("\n".join((asked, *prompts)))[:16]
        features = in_steps(self._features, prompts, "prompts", self._file(f"features-{name}"))
        self._mean = features.mean(axis=0)
        self._scale = 1 / np.maximum(features.std(axis=0), 1e-6)
        whole = self._standardised(features)
        self._components = _kept_components(whole, self._file(f"components-{name}"))
        # Other components, other projections: their signs are the linear algebra library's own.
        content = hashlib.sha256(self._components.tobytes()).hexdigest()[:16]
        self._projected = self._file(f"projected-{content}")
        self.known: Rows = whole @ self._components

    def __call__(self, texts: Sequence[str]) -> Rows:
        """Components (n, up to `WIDTH`) of other texts."""
        return in_steps(self._read, texts, "more prompts", self._projected)

    def words(self) -> list[str]:
        """Words that the encoder knows, the most common first."""
        return whole_words(Tokenizer.from_str(find_encoder(ENCODER).tokenizer_json).get_vocab())

    def _file(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{name}.npz"

    def _read(self, texts: Sequence[str]) -> Rows:
        found: Rows = self._standardised(self._features(texts)) @ self._components
        return found

    def _features(self, texts: Sequence[str]) -> Rows:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16_pays()):
            return self._encoder(texts)

    def _standardised(self, features: Rows) -> Rows:
        found: Rows = (features - self._mean) * self._scale
        return found


def _kept_components(rows: Rows, kept: Path | None) -> Rows:
    """Principal components (width, up to `WIDTH`) of rows (n, width), from ``kept`` where there."""
    if kept is not None and kept.is_file():
        with np.load(kept, allow_pickle=False) as arrays:
            stored: Rows = arrays["components"]
        return stored
    _, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows)  # ascending
    components = np.ascontiguousarray(vectors[:, ::-1][:, :WIDTH], dtype=np.float32)
    if kept is not None:
        with atomic_file(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, components=components)
    return components
