"""A window of a trace as a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pars_bench.replay.textrows import open_text
from pars_bench.replay.traces import MOONCAKE, recognise
from pars_export.errors import InputError
from pars_export.files import atomic_file


def write_window(trace: Path, requests: int, seed: int, path: Path) -> tuple[int, int]:
    """Copy a contiguous window of a trace, at a drawn place, line by line.

    Neighbours stay neighbours: bursts and shared prefixes inside the window are the trace's own.

    Args:
        trace: Trace of the Azure or Mooncake format.
        requests: Length of the window.
        seed: Of its place.
        path: Where to write it.

    Returns:
        Number of its first request, from 0, and requests of the whole trace.

    Raises:
        InputError: the trace cannot be read or is shorter.
    """
    headed = recognise(trace)[0] is not MOONCAKE
    with open_text(trace) as text:
        lines = [line.rstrip("\r\n") for line in text if line.strip()]
    header, rows = (lines[:1], lines[1:]) if headed else ([], lines)
    if len(rows) < requests:
        raise InputError(f"{trace} holds {len(rows)} requests; expected at least {requests}.")
    start = int(np.random.default_rng([seed, 2]).integers(len(rows) - requests + 1))
    with atomic_file(path) as temporary:
        chosen = [*header, *rows[start : start + requests], ""]
        temporary.write_text("\n".join(chosen), encoding="utf-8")
    return start, len(rows)
