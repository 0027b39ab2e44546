"""A step-time model fitted to steps that a live engine took."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pars_bench.replay.costmodel import Array, Number
from pars_export.errors import InputError

COLUMNS = ("tokens", "context", "seconds")


@dataclass(frozen=True)
class FittedStepTime:
    """``base + per_token * tokens + per_context * context``, no coefficient below zero."""

    base_s: float
    """Seconds of a step whatever it holds."""
    per_token_s: float
    """Seconds of a computed token."""
    per_context_s: float
    """Seconds of a token of context."""
    steps: int
    """Steps it was fitted to."""
    relative_error: float
    """Median of ``abs(fitted - measured) / measured`` over these steps."""
    total_error: float
    """``fitted / measured - 1`` of the sum over these steps."""
    r_squared: float
    """Share of the variance of the measured times that the fit explains."""
    source: str = ""
    """Name of the file."""
    host_s: float = 0.0
    """Part of ``base_s`` already, so nothing of it is hidden by asynchronous scheduling."""

    def device_s(self, tokens: Number, context: Number, pairs: Number) -> Number:
        """See :class:`pars_bench.replay.costmodel.StepTime`; ``pairs`` is not used."""
        del pairs
        return self.base_s + self.per_token_s * tokens + self.per_context_s * context

    def facts(self) -> dict[str, object]:
        """See :class:`pars_bench.replay.costmodel.StepTime`."""
        return {
            "kind": "fitted",
            "source": self.source,
            "base_s": self.base_s,
            "per_token_s": self.per_token_s,
            "per_context_s": self.per_context_s,
            "steps": self.steps,
            "relative_error": self.relative_error,
            "total_error": self.total_error,
            "r_squared": self.r_squared,
        }


def fit_step_time(tokens: Array, context: Array, seconds: Array, source: str) -> FittedStepTime:
    """Least squares with no negative coefficient; the arrays have shape (n,).

    Raises:
        InputError: fewer than 10 steps, or values that no step can have.
    """
    from scipy.optimize import nnls

    if seconds.size < 10:
        raise InputError(f"{source} holds {seconds.size} steps: expected at least 10 to fit to.")
    for name, values, least in (("tokens", tokens, 1), ("context", context, 0)):
        if not (np.isfinite(values).all() and (values >= least).all()):
            raise InputError(f"{source}: {name} must be numbers of at least {least}.")
    if not (np.isfinite(seconds).all() and (seconds > 0).all()):
        raise InputError(f"{source}: seconds must be above 0.")
    design = np.column_stack((np.ones_like(seconds), tokens, context))
    scale = design.max(axis=0).clip(min=1.0)  # as they are, their magnitudes are too far apart
    coefficients = nnls(design / scale, seconds)[0] / scale
    fitted = design @ coefficients
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    base, per_token, per_context = (float(value) for value in coefficients)
    return FittedStepTime(
        base,
        per_token,
        per_context,
        steps=int(seconds.size),
        relative_error=float(np.median(np.abs(fitted - seconds) / seconds)),
        total_error=float(fitted.sum() / seconds.sum() - 1),
        r_squared=1 - float(((seconds - fitted) ** 2).sum()) / spread if spread > 0 else 1.0,
        source=source,
    )


def read_step_times(path: Path) -> FittedStepTime:
    """Fit to a CSV or a JSON list of steps with ``tokens``, ``context`` and ``seconds``.

    Raises:
        InputError: no such file, not such a table, or it cannot be fitted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--fit {path} cannot be read: {error}.") from error
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}.") from error
    else:
        rows = list(csv.DictReader(text.splitlines()))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected a list of steps, each with {', '.join(COLUMNS)}.")
    tokens, context, seconds = (_column(path, rows, name) for name in COLUMNS)
    return fit_step_time(tokens, context, seconds, path.name)


def _column(path: Path, rows: Sequence[dict[str, object]], name: str) -> Array:
    values = []
    for number, row in enumerate(rows, 1):
        try:
            values.append(float(row[name]))  # type: ignore[arg-type]  # whatever it is, it is tried
        except KeyError:
            raise InputError(
                f"{path}, step {number}: there is no {name!r}; expected {', '.join(COLUMNS)}."
            ) from None
        except (TypeError, ValueError):
            raise InputError(
                f"{path}, step {number}: {name} is {row[name]!r}; expected a number."
            ) from None
    return np.asarray(values, dtype=np.float64)
