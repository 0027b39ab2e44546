"""What a slow model says of many texts: in steps, shown as they go, and kept between runs."""

from __future__ import annotations

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
        kept: file of answers by digest of the text, read first and written after each step; it
            belongs to one model.

    Raises:
        InputError: ``kept`` is no such file.
    """
    known = {} if kept is None else _read(kept)
    digests = [text_digest(text) for text in texts]
    missing = dict(zip(digests, texts, strict=True))
    # By length: little padding, whatever the model.
    order = sorted((each for each in missing if each not in known), key=lambda d: len(missing[d]))
    with tqdm(total=len(order), desc=name, unit="prompt", disable=not order) as bar:
        for start in range(0, len(order), _STEP):
            step = order[start : start + _STEP]
            known |= dict(zip(step, model([missing[digest] for digest in step]), strict=True))
            if kept is not None:
                _write(kept, known)
            bar.update(len(step))
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
