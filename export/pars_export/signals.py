"""An orderly end on SIGTERM and on Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

HUNG_UP, TERMINATED = 129, 143
"""Exit status of a command that SIGHUP or SIGTERM ended, as shells count it."""


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM, and a terminal's end, into SystemExit, so that what runs is tidied up.

    Python's default is to die at once, which leaves child processes and temporary files behind. A
    terminal's end (SIGHUP) that is ignored, as by nohup, stays so.
    """
    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))}
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:
        previous[hangup] = signal.signal(hangup, lambda *_: sys.exit(HUNG_UP))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_at_checks() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM take effect where the given function is called, or at the block's end.

    A second one does at once.

    For a block that runs compiled code: an exception that a signal raises in the middle of it may
    come out as another one, or not at all. A signal that is ignored, or left to the system, stays
    so; beside the main thread, where Python hears no signals, nothing changes.
    """
    waiting: list[int] = []
    heard = 0
    previous: dict[int, Callable[[int, FrameType | None], object]] = {}

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            previous[number](number, frame)
        else:
            waiting.append(number)

    def check() -> None:
        if waiting:
            number = waiting.pop()
            previous[number](number, None)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                previous[number] = handler
                signal.signal(number, hear)
    try:
        yield check
    finally:
        for changed, handler in previous.items():
            signal.signal(changed, handler)
    check()  # heard after the last one
