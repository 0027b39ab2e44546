"""A ranker read back from its checkpoint."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_model.checkpoint_content import CONTENT, LARGE_HPARAMS
from pars_model.module import ResponseLengthRanker


def load_ranker(path: str | Path) -> ResponseLengthRanker:
    """A ranker from its checkpoint alone, in evaluation mode on the CPU; nothing is unpickled.

    Raises:
        InputError: no such file, or no checkpoint of a ranker.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"Checkpoint {path} does not exist: give the path that `pars fit` printed."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        hparams = {k: v for k, v in checkpoint["hyper_parameters"].items() if k[0] != "_"}
        _require(checkpoint, ("state_dict", CONTENT))
        _require(hparams, LARGE_HPARAMS)
    except (
        RuntimeError,
        KeyError,
        EOFError,
        TypeError,
        ValueError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(
            f"{path} is no checkpoint of a ranker, or is damaged: give the best.ckpt that "
            "`pars fit` wrote."
        ) from error
    ranker = ResponseLengthRanker(**hparams)
    ranker.load_state_dict(checkpoint["state_dict"])
    ranker.on_load_checkpoint(checkpoint)
    ranker.eval()
    return ranker


def rewrite(path: Path, ranker: ResponseLengthRanker) -> None:
    """Write what a ranker has beside its weights into the checkpoint that it was read from.

    Raises:
        InputError: it cannot be written; the old one stands.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    ranker.on_save_checkpoint(checkpoint)
    content = io.BytesIO()
    torch.save(checkpoint, content)  # to a file it would tell of a full disk in words of its own
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written again ({error.strerror or error}): make room, and go on "
            "from the last.ckpt beside it; what was there is intact."
        ) from error


def _require(found: Mapping[str, object], keys: Iterable[str]) -> None:
    for key in keys:
        if key not in found:
            raise KeyError(key)
