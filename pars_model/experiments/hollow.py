"""A student that computes next to nothing: what reading a text and calling numpy cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pars_export.artifact import read_manifest, write_predictor
from pars_export.runtimes.arrays import arrays_bytes, read_arrays
from pars_export.runtimes.student import TOKENIZER, WEIGHTS
from pars_export.words import FEATURES

_FIRST: Mapping[str, Any] = {
    "token": np.s_[:, :1],
    "pair": np.s_[:, :1],
    "head": np.s_[:, :1],
    "tail": np.s_[:, :1],
    "conv": np.s_[:, :1, :1],
    "conv_bias": np.s_[:1],
    "gate": np.s_[:1],
    "hidden_bias": np.s_[:1],
    "out": np.s_[:1],
}
"""What is left of each array; the others stay."""


def hollow_out(student: Path, folder: Path) -> Path:
    """Write the predictor folder of a student with one channel and one neuron left.

    It reads as the other does and makes the same calls in the same order; its order means nothing.

    Raises:
        PredictorError: ``student`` is no predictor folder, or ``folder`` is something else.
    """
    manifest = read_manifest(student)
    arrays = read_arrays(student / WEIGHTS)
    left = {name: array[_FIRST.get(name, ...)] for name, array in arrays.items()}
    hidden = left["hidden"]
    left["hidden"] = np.concatenate([hidden[:2, :1], hidden[-len(FEATURES) :, :1]])
    files: dict[str, Path | str | bytes] = {
        TOKENIZER: student / TOKENIZER,
        WEIGHTS: arrays_bytes(left),
    }
    write_predictor(folder, manifest, files)
    return folder
