"""Predictor folders: write them, check them, score prompts with them."""

from __future__ import annotations

from pars_export.errors import ConfigError, InputError, ParsError, PredictorError
from pars_export.predictor import Predictor

__all__ = ["ConfigError", "InputError", "ParsError", "Predictor", "PredictorError"]
