"""How fast an engine answers a traffic while it is full: the rate that a load is told in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Burst:
    """Requests that arrived at second 0, shape (n,) each."""

    admitted_s: Array
    first_s: Array
    last_s: Array
    tokens: Array
    """Response tokens."""


def read_burst(path: Path) -> Burst:
    """Of a finished cell."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    admitted, first, last, tokens = (
        np.asarray(table[name].to_numpy(), dtype=np.float64)
        for name in ("queued_s", "ttft_s", "ttlt_s", "output_tokens")
    )
    return Burst(admitted, first, last, tokens)


def capacity(burst: Burst) -> float:
    """Requests per second of mean length that the engine finishes while anybody waits.

    Counted in tokens and not in finished requests: of those that a burst starts with, the short
    ones finish first. Tokens between a request's first and last are taken as evenly spaced. Where
    nobody had to wait, it is the mean over the whole burst.
    """
    until = float(burst.admitted_s.max())
    if until <= 0:
        return burst.tokens.size / float(burst.last_s.max())
    span = np.maximum(burst.last_s - burst.first_s, 1e-12)
    share = np.clip((until - burst.first_s) / span, 0.0, 1.0)
    delivered = np.where(until >= burst.first_s, 1 + share * (burst.tokens - 1), 0.0)
    return float(delivered.sum() / until / burst.tokens.mean())
