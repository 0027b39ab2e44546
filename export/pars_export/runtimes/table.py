"""Known response lengths, looked up by the digest of the exact text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.errors import PredictorError
from pars_export.inputs import text_digest
from pars_export.table import TABLE


class TableScorer:
    """Score = known response length in tokens; NaN for any other text."""

    survives_fork = True

    def __init__(self, lengths: Mapping[str, float]) -> None:
        self._lengths = lengths

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Lengths in tokens, (n,)."""
        found = [self._lengths.get(text_digest(text), math.nan) for text in texts]
        return np.array(found, dtype=np.float32)


def load(folder: Path, manifest: Manifest, threads: int) -> TableScorer:
    """Read `table.json`.

    Raises:
        PredictorError: it is not part of the predictor, or no map from digests to lengths.
    """
    del threads
    path = folder / TABLE
    if TABLE not in manifest.files:
        raise PredictorError(f"{path}: a table predictor needs this file, and files lists it not.")
    try:
        table = json.loads(path.read_bytes())
        lengths = {str(digest): float(length) for digest, length in table.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PredictorError(
            f"{path}: it must map digests of texts to numbers of tokens ({error})."
        ) from error
    if not all(math.isfinite(length) and length >= 0 for length in lengths.values()):
        raise PredictorError(f"{path}: it holds a length that is negative or not finite.")
    return TableScorer(lengths)
