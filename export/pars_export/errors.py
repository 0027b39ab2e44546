"""Errors that a user can act on: one sentence each, shown without a traceback."""

from __future__ import annotations


class ParsError(Exception):
    """Base of every error that names a file or key, what was found and what to do."""


class InputError(ParsError):
    """A table, prompt list or text that cannot be used."""


class ConfigError(ParsError):
    """A setting that is unknown, out of range or contradicts another."""


class PredictorError(ParsError):
    """A predictor folder that is missing, damaged, too new or does not fit."""


class RuntimeUnusableError(PredictorError):
    """A runtime that does not start here; another may, and `auto` goes on to it."""
