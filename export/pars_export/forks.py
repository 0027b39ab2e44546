"""What a forked child must get anew: threads of its parent that held a lock do not exist there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def in_forked_children(renew: Callable[[], None]) -> None:
    """Have ``renew`` called in every child that is forked from here on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


class ProcessLock:
    """A lock for what belongs to the whole process; made once, for it is never forgotten.

    Attributes:
        lock: to be taken by `with`; a forked child has another one, which is free.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        in_forked_children(self._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()
