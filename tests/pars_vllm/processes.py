"""Which scorer processes are alive."""

from __future__ import annotations

import os
from pathlib import Path


def scorer_processes() -> list[int]:
    """Process ids of this process's scorer processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            status = (entry / "stat").read_text()
        except OSError:
            continue
        parent = int(status.rsplit(")", 1)[1].split()[1])
        zombie = status.rsplit(")", 1)[1].split()[0] == "Z"
        if b"pars_vllm.scorer_worker" in command and parent == os.getpid() and not zombie:
            found.append(int(entry.name))
    return found
