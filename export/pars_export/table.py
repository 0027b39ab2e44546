"""Predictors without a model: known response lengths, and the prompt's own length.

They go the same way as a trained one, so that an oracle or a baseline is measured with the same
machinery.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from pars_export.artifact import Manifest, write_predictor
from pars_export.calibration import Calibration
from pars_export.errors import InputError
from pars_export.inputs import text_digest

TABLE = "table.json"
_CHARACTERS_PER_TOKEN = 4.0
"""Of English prose under the usual vocabularies; only the unit of `length`, never its order."""


def write_table_predictor(folder: str | Path, lengths: Mapping[str, float]) -> Manifest:
    """Write a predictor that knows the response length in tokens of exactly these texts.

    Any other text scores NaN: unknown, not short.

    Raises:
        InputError: a length that is negative or not a number.
    """
    table: dict[str, float] = {}
    for text, length in lengths.items():
        if not math.isfinite(length) or length < 0:
            raise InputError(
                f"The length of {text[:40]!r} is {length!r}; it must be a number of tokens, 0 or "
                "more."
            )
        table[text_digest(text)] = float(length)
    manifest = Manifest(kind="table", training={"prompts": len(table)})
    content = json.dumps(table, separators=(",", ":"), sort_keys=True)
    return write_predictor(folder, manifest, {TABLE: content})


def write_length_predictor(folder: str | Path) -> Manifest:
    """Write the predictor whose score is the prompt's length in characters.

    Its expected tokens are the prompt's length at four characters a token: an order by prompt
    length in a unit that the policy understands, not a forecast.
    """
    far = 1_000_000.0
    calibration = Calibration((0.0, far * _CHARACTERS_PER_TOKEN), (0.0, far))
    return write_predictor(folder, Manifest(kind="length", calibration=calibration), {})
