"""What a slow model says of many texts: in steps, shown as they go, and kept between runs."""

from __future__ import annotations

import contextlib
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_export.inputs import text_digest

Rows = NDArray[np.float32]

_STEP = 1024
"""Texts at a time: a minute or less with a small encoder on one core."""
_WRITE_S = 60.0
"""Between two times that all answers are written down: rows of many take a second or more."""


def in_steps(
    model: Callable[[Sequence[str]], Rows],
    texts: Sequence[str],
    name: str,
    kept: Path | None = None,
) -> Rows:
    """What ``model`` says of texts, in their order; each different text is asked for once.

    Args:
        model: texts to one number, or one row, each.
        texts: what to ask for.
        name: stands before the progress bar.
        kept: file of answers by digest of the text, read first, and written every minute and at
            the end, an interrupt or error included; it belongs to one model.

    Raises:
        InputError: ``kept`` is no such file, or of a model that says something else.
    """
    known = {} if kept is None else _read(kept)
    digests = [text_digest(text) for text in texts]
    missing = dict(zip(digests, texts, strict=True))
    # By length: little padding, whatever the model.
    order = sorted((each for each in missing if each not in known), key=lambda d: len(missing[d]))
    written = time.monotonic()
    with tqdm(total=len(order), desc=name, unit="prompt", disable=not order) as bar:
        try:
            for start in range(0, len(order), _STEP):
                step = order[start : start + _STEP]
                found = dict(zip(step, model([missing[digest] for digest in step]), strict=True))
                if known and np.shape(found[step[0]]) != np.shape(next(iter(known.values()))):
                    raise InputError(
                        f"{kept}: its answers are not of the kind that this {name} gives; name "
                        "another file."
                    )
                known |= found
                if kept is not None and time.monotonic() - written > _WRITE_S:
                    _write(kept, known)
                    written = time.monotonic()
                bar.update(len(step))
        except BaseException:
            if kept is not None and known:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    _write(kept, known)
            raise
    if kept is not None and order:
        _write(kept, known)
    return np.array([known[digest] for digest in digests], dtype=np.float32)


def _read(path: Path) -> dict[str, Rows]:
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(zip(arrays["digest"].tolist(), arrays["answer"], strict=True))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: no answers that can be read ({error}); remove it, or name another file."
        ) from error


def _write(path: Path, known: dict[str, Rows]) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, digest=np.array(list(known)), answer=np.array(list(known.values())))
