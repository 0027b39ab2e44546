"""What the instructions of this CPU are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

MATRIX_UNITS = "amx_bf16"
"""Flag of /proc/cpuinfo for matrix units that multiply bfloat16."""
BFLOAT16_FLAGS = ("avx512_bf16", MATRIX_UNITS)
"""Those for products of bfloat16 of any kind, the faster one last."""


@cache
def cpu_flags() -> frozenset[str]:
    """The flags of /proc/cpuinfo; none where the system has no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    return frozenset(word for line in text.splitlines() for word in line.partition(":")[2].split())


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16 that are known to us."""
    return not cpu_flags().isdisjoint(BFLOAT16_FLAGS)


def bfloat16_by() -> str:
    """The best of `BFLOAT16_FLAGS` that this CPU has; empty where it has none."""
    found = [flag for flag in BFLOAT16_FLAGS if flag in cpu_flags()]
    return found[-1] if found else ""


def has_matrix_units() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in units of their own."""
    return MATRIX_UNITS in cpu_flags()
