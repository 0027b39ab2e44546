"""The prompt's own length as its score: a baseline, and a test double without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest


class LengthScorer:
    """Score = number of characters."""

    survives_fork = True

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Characters of each text, (n,)."""
        return np.array([len(text) for text in texts], dtype=np.float32)


def load(folder: Path, manifest: Manifest, threads: int) -> LengthScorer:
    """The scorer; it needs nothing."""
    del folder, manifest, threads
    return LengthScorer()
