"""A thread that computes for others, on the CPUs that they may run on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

_TASKS = Path("/proc/self/task")
_TOLD = hasattr(os, "sched_getaffinity") and _TASKS.is_dir()
"""Whether the system tells where threads may run, and what they are called."""
_P = ParamSpec("_P")
_R = TypeVar("_R")


class FollowingThread:
    """One thread, and those that a native library starts from it: they run where the caller does.

    Linux alone tells where that is; elsewhere nobody is bound.

    Args:
        name: of at most 15 bytes. What the thread starts has it too, and so its helpers are
            known; where a library shares them, all that share them need the same name.
        helped: whether helpers compute.
    """

    def __init__(self, name: str, helped: bool) -> None:
        self._pool = ThreadPoolExecutor(1, name, initializer=_call_me, initargs=(name,))
        self._helpers = _Helpers(name) if helped else None

    def run(self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call a function in the thread, on the CPUs of the calling one; what it returns."""
        return self._pool.submit(_there, _cpus(), self._helpers, function, *args, **kwargs).result()


class _Helpers:
    """Threads of a name that are none of Python's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: frozenset[str] = frozenset()
        self._found: list[int] = []

    def bind(self, cpus: Collection[int]) -> None:
        """Those that there are now."""
        for task in self._now():
            _bind(task, cpus)

    def _now(self) -> list[int]:
        tasks = frozenset(each.name for each in _TASKS.iterdir())
        if tasks != self._tasks:  # names are read only where a thread began or ended
            ours = {thread.native_id for thread in threading.enumerate()}
            self._found = [
                int(each) for each in tasks if int(each) not in ours and _name(each) == self._name
            ]
            self._tasks = tasks
        return self._found


def _there(
    cpus: Collection[int],
    helpers: _Helpers | None,
    function: Callable[_P, _R],
    /,
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _R:
    if cpus:
        _bind(0, cpus)
        if helpers is not None:
            helpers.bind(cpus)
    return function(*args, **kwargs)


def _cpus() -> Collection[int]:
    """Where the calling thread may run; empty where the system does not tell."""
    return os.sched_getaffinity(0) if _TOLD else ()


def _bind(task: int, cpus: Collection[int]) -> None:
    # One that ended meanwhile has no CPUs.
    with contextlib.suppress(OSError):
        if os.sched_getaffinity(task) != cpus:
            os.sched_setaffinity(task, cpus)


def _name(task: str) -> str:
    try:
        return (_TASKS / task / "comm").read_text().rstrip("\n")
    except OSError:
        return ""


def _call_me(name: str) -> None:
    with contextlib.suppress(OSError):
        (_TASKS / str(threading.get_native_id()) / "comm").write_text(name)
