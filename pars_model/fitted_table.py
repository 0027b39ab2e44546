"""The length table that a checkpoint was fitted on, found again when it is resumed or exported.

A checkpoint holds the table's path and digest; the path goes no further, into no predictor folder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pars_export.errors import InputError
from pars_export.export_prompts import ExportPrompts, table_prompts
from pars_export.files import sha256_file
from pars_model.checkpoint_content import CONTENT
from pars_model.fit_split import FitSplit
from pars_model.lengths import LengthTable, read_lengths, text_fraction

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from pars_model.module import ResponseLengthRanker

log = logging.getLogger("pars")

_PATH, _SHA256 = "table_path", "table_sha256"
_SHARES = ("val_fraction", "test_fraction")


def note_table(data: pl.LightningDataModule | None) -> None:
    """Have every checkpoint of a fit tell its data module's table, its digest and its shares."""
    path = getattr(data, "path", None)
    if data is not None and path is not None:
        data.hparams[_PATH] = str(Path(path).resolve())
        data.hparams[_SHA256] = sha256_file(Path(path))
        for name in _SHARES:
            data.hparams[name] = getattr(data, name, None)  # of another's data module none


def require_same_table(
    ckpt: object, checkpoint: Mapping[str, Any], data: pl.LightningDataModule | None
) -> None:
    """Refuse to go on with a fit on another table, or another split of it.

    What the data module has counts, already noted.

    Args:
        ckpt: path of the checkpoint.
        checkpoint: its content.
        data: of the fit that is to go on.

    Raises:
        InputError: the tables or shares differ; what is not known may be the same.
    """
    noted = checkpoint.get("datamodule_hyper_parameters", {})
    shares = {} if data is None else data.hparams
    for name in _SHARES:
        before, share = noted.get(name), shares.get(name)
        if before is not None and share is not None and before != share:
            raise InputError(
                f"--ckpt_path {ckpt} is of a fit with data.{name} {before}, and it is {share} now: "
                "other prompts would teach. Give that of the fit, or begin a new one without "
                "--ckpt_path."
            )
    # From before the digest was noted beside the path: what the latest validation told.
    summary = checkpoint.get(CONTENT, {}).get("training", {}).get("data", {})
    then = noted.get(_SHA256, summary.get("table_sha256"))
    now = None if data is None else data.hparams.get(_SHA256)
    if data is None or then is None or now is None or then == now:
        return
    raise InputError(
        f"--ckpt_path {ckpt} is of a fit on {noted.get(_PATH, 'a table')} with sha256 {then[:12]}, "
        f"but data.path is {data.hparams[_PATH]} with sha256 {now[:12]}: give the table of that "
        "fit as it was, or begin a new one without --ckpt_path."
    )


def prompts_of_fit(ckpt: Path, ranker: ResponseLengthRanker) -> ExportPrompts | None:
    """Prompts to export a ranker by, from the table that it was fitted on.

    They are chosen by their hash, so they are the same each time.

    Args:
        ckpt: the checkpoint, one that can be read.
        ranker: what was read from it.

    Returns:
        None where the table is not known, gone or another one by now; a warning says so.
    """
    found = ranker.training_summary.get("data", {})
    try:
        table = _read(ckpt, found)
    except InputError as error:
        log.warning(
            "%s: engines are compared on prompts that ship with this package; name others by "
            "--texts.",
            error,
        )
        return None
    fit = FitSplit.of(found)
    split = fit.split(table)
    if fit.trained_on_all:
        split = np.full_like(split, "train")
    by_hash = sorted(
        zip(table.prompts, split, strict=True), key=lambda each: text_fraction(each[0])
    )
    held_out = [text for text, part in by_hash if part != "train"]
    learned = [text for text, part in by_hash if part == "train"]
    return table_prompts(held_out, learned)


def _read(ckpt: Path, found: Mapping[str, Any]) -> LengthTable:
    try:
        held = torch.load(ckpt, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # written in torch's format of before 1.6, which cannot be mapped
        held = torch.load(ckpt, map_location="cpu", weights_only=True)
    path = held.get("datamodule_hyper_parameters", {}).get(_PATH)
    if not isinstance(path, str) or "table_sha256" not in found:
        raise InputError(f"{ckpt} does not say where the length table of its fit is")
    try:
        there = Path(path).is_file()
        if there and sha256_file(Path(path)) == found["table_sha256"]:
            return read_lengths(path)
    except (OSError, InputError) as error:
        raise InputError(
            f"{path}, the length table of the fit, cannot be read ({error})"
        ) from error
    if not there:
        raise InputError(f"{path}, the length table of the fit, is gone")
    raise InputError(f"{path} has changed since the fit, whose length table it was")
