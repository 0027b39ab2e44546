"""Which engines were built on this machine.

A TensorRT engine is code for a GPU: it runs only when this user built it here, or when its
predictor is pinned by sha256. The engines built here are remembered by the sha256 of their files,
as empty files in the user's cache folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from pars_export.errors import PredictorError


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pars" / "engines"


def remember(sha256: str) -> None:
    """Note that the engine of this sha256 was built here."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / sha256).touch(mode=0o600)


def check_built_here(path: Path, sha256: str) -> None:
    """Refuse an engine that was not.

    Args:
        path: how an error calls it.
        sha256: of its bytes.

    Raises:
        PredictorError: naming the engine and what to do.
    """
    if not (_folder() / sha256).is_file():
        raise PredictorError(
            f"{path}: this engine was not built on this machine by this user, and the predictor is "
            "not pinned; export the engine here, or give the sha256 that the predictor must have."
        )
