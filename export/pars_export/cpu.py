"""What the instructions of this CPU are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Flags of /proc/cpuinfo for products of bfloat16."""


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
    return not cpu_flags().isdisjoint(BFLOAT16)
