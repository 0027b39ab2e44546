"""Progress on a terminal, or in a log file when there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO


class Progress(Protocol):
    """Where a benchmark says what it is doing."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def count(self, label: str, done: int, total: int) -> None:
        """``done`` of ``total`` requests of ``label`` are answered."""


class TerminalProgress:
    """A line that is rewritten on a terminal; elsewhere a new line every ``interval`` seconds."""

    def __init__(self, stream: TextIO | None = None, interval: float = 15.0) -> None:
        self._stream = stream or sys.stderr
        self._rewrite = self._stream.isatty()
        self._interval = 0.2 if self._rewrite else interval
        self._label = ""
        self._start = self._shown = 0.0

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._stream, flush=True)

    def count(self, label: str, done: int, total: int) -> None:
        """Print ``label: done/total`` and the seconds since its first call."""
        now = time.monotonic()
        if label != self._label:
            self._label, self._start, self._shown = label, now, 0.0
        if done < total and now - self._shown < self._interval:
            return
        self._shown = now
        line = f"{label}: {done}/{total} requests, {now - self._start:.0f} s"
        end = "\r" if self._rewrite and done < total else "\n"
        clear = "\x1b[K" if self._rewrite else ""
        print(f"{line}{clear}", end=end, file=self._stream, flush=True)
