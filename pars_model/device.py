"""What this machine computes well in."""

from __future__ import annotations

import torch


def on_cpu(accelerator: str) -> bool:
    """Whether Lightning will train on the CPU."""
    others = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not others)


def bfloat16_pays() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; in software it is many times slower.

    Told by the CPU's own flags, never by a stopwatch: the same seed must give the same ranker.
    """
    flags = torch.cpu.get_capabilities()
    return any(flags.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def engine_dtype(cpu: bool) -> str:
    """The ``--dtype`` for vLLM: "auto", but float32 on a CPU that has no bfloat16 arithmetic.

    ``cpu``: whether vLLM computes on the CPU. It would take the checkpoint's bfloat16 there too and
    make a few tokens per second.
    """
    return "float32" if cpu and not bfloat16_pays() else "auto"
