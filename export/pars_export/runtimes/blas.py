"""How many cores numpy's matrix products may use: its OpenBLAS takes all that there are.

For products as small as a student's, waking a thread costs more than it gives, and beside an
engine the other cores are the engine's. Only OpenBLAS, which numpy's wheels bring, is told here;
what another library (MKL, Accelerate) uses is ruled by its own environment variable.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable
from functools import cache

from pars_export.forks import in_forked_children

_MODULES = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")
"""The module that is linked with the library, of numpy 2 and 1."""
_NAMES = tuple(
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("scipy_", "")
    for suffix in ("64_", "")
)


class _Limit:
    """A number that holds for the whole process: who comes last puts it back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before: int | None = None  # None: it is as it was


_limit = _Limit()


def _after_fork_in_child() -> None:
    # Threads of the parent that held the lock, or were inside, do not exist here.
    global _limit
    _limit = _Limit()


in_forked_children(_after_fork_in_child)


@cache
def openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """(threads in use, set them) of numpy's OpenBLAS; None where numpy has another library."""
    for module in _MODULES:
        try:
            library = ctypes.CDLL(importlib.import_module(module).__file__)
        except (ImportError, OSError):
            continue
        for read, write in _NAMES:
            if hasattr(library, read) and hasattr(library, write):
                get, set_ = getattr(library, read), getattr(library, write)
                get.argtypes, get.restype = [], ctypes.c_int
                set_.argtypes, set_.restype = [ctypes.c_int], None
                return get, set_
    return None


class BlasThreads:
    """A block in which numpy's matrix products use a number of cores; to be entered many times.

    It holds for the whole process; of several blocks at a time the first one's number does.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        found = openblas()
        if found is None:
            return
        get, set_ = found
        limit = _limit
        with limit.lock:
            if not limit.inside:
                now = get()
                if now != self._count:
                    limit.before = now
                    set_(self._count)
            limit.inside += 1

    def __exit__(self, *_: object) -> None:
        found = openblas()
        if found is None:
            return
        limit = _limit
        with limit.lock:
            limit.inside -= 1
            if not limit.inside and limit.before is not None:
                found[1](limit.before)
                limit.before = None
