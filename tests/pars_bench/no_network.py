"""A fresh interpreter without a network, and not told so: who asks for one is seen."""

from __future__ import annotations

import os
import subprocess
import sys

_DENIED = """
import socket, sys
asked = []
def refuse(*arguments, **_):
    asked.append(repr(arguments[-1]))
    raise OSError("no network here")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""


def without_network(code: str, *arguments: str) -> list[str]:
    """Lines that ``code`` prints; it finds what was asked of the network in ``asked``."""
    free = {
        k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    done = subprocess.run(
        [sys.executable, "-c", _DENIED + code, *arguments],
        env=free,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
