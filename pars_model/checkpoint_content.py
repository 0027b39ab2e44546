"""What a ranker's checkpoint holds beside its weights, for whoever reads it back or exports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pars_export.facts import FactSpec

if TYPE_CHECKING:
    from pars_model.module import ResponseLengthRanker

LARGE_HPARAMS = ("encoder_config", "tokenizer_json")
"""Hyperparameters that are whole files: a checkpoint has them, and nothing that is printed."""
CONTENT = "pars"
"""The key under which the rest stands."""


def content_of(ranker: ResponseLengthRanker) -> dict[str, Any]:
    """All of a ranker but weights and hyperparameters, values that load without pickle."""
    return {
        "calibration": ranker.calibration,
        "metrics": ranker.metrics,
        "training": ranker.training_summary,
        "facts": (ranker.fact_spec or FactSpec()).to_json(),
        "ngrams": {k: torch.from_numpy(v) for k, v in (ranker.ngrams or {}).items()},
        "input": {
            "max_length": ranker.input_spec.max_length,
            "truncation": ranker.input_spec.truncation,
        },
    }


def take_content(ranker: ResponseLengthRanker, content: Mapping[str, Any]) -> None:
    """Give a ranker what `content_of` told of it; its input follows from its hyperparameters."""
    ranker.fact_spec = FactSpec.from_json(content.get("facts", []))
    found = {name: each.numpy() for name, each in content.get("ngrams", {}).items()}
    ranker.take_half(found or None)
    ranker.calibration = content.get("calibration")
    ranker.metrics = content.get("metrics", {})
    ranker.training_summary = content.get("training", {})
