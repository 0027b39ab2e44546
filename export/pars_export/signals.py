"""An orderly end on SIGTERM, as on Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TERMINATED = 143
"""Exit status of a command that SIGTERM ended, as shells count it."""


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit inside the block, so that what runs is tidied up.

    Python's default is to die at once, which leaves child processes and temporary files behind.
    """
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
