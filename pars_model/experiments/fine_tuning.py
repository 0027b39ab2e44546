"""Fits by the default recipe: trained once for all experiments, exported and judged."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

from pars_export.errors import InputError
from pars_export.files import atomic_file, sha256_file
from pars_model.experiments.cells import Cell
from pars_model.experiments.code_digest import source_digest
from pars_model.experiments.held_out import judged_items, ridge_of, tau_of
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import read_lengths, split_prompts

CONFIG = Path("configs/default.yaml")
HALF_CODE = (
    *(f"pars_export.{name}" for name in ("inputs", "remembered", "words")),
    *(f"pars_export.runtimes.{name}" for name in ("arrays", "ngram_half", "ngrams")),
    *(f"pars_model.{name}" for name in ("folds", "linear", "metrics", "ngram_half", "prior")),
    "pars_model.ranks",
)
"""Modules that an n-gram half's scores depend on."""
CODE = (
    *HALF_CODE,
    *(f"pars_export.{name}" for name in ("calibration", "encoder_config", "network", "survival")),
    *(
        f"pars_model.{name}"
        for name in (
            *("batches", "calibration", "callbacks", "checkpoint_content", "datamodule"),
            *("evidence", "fit_split", "lengths", "losses", "module", "optim", "pairs"),
            *("reading", "rows", "targets", "validation"),
        )
    ),
)
"""Modules that a fine-tuning's scores depend on."""
NETWORK_ALONE = ("--model.ngram_half", "false")
"""Arguments of `pars fit` that leave out the n-gram half."""
WHOLE_ALPACA = Cell("alpaca_52k", "text-davinci-003", "Alpaca, text-davinci-003")
MINUTES, CORES = {CELLS[0]: 10.0, WHOLE_ALPACA: 30.0}, 2
"""Most that were wanted, with so many cores: fits on all prompts of these cells have as many
threads, whatever the rest has."""


def whole_fit(bench: Workbench, cell: Cell, more: Sequence[str] = ()) -> tuple[Path, Result]:
    """Predictor folder and result of the fit on all prompts of a cell, as `fit` has it."""
    with threads_of(bench, cell, 0):
        path = bench.table(cell)
        return predictor_folder(bench, path, more), fit(bench, cell, 0, path, more)


@contextmanager
def threads_of(bench: Workbench, cell: Cell, prompts: int) -> Iterator[None]:
    """Give the bench the threads of a fit."""
    import torch

    before = bench.threads
    bench.threads = CORES if cell in MINUTES and not prompts else before
    torch.set_num_threads(bench.threads)
    try:
        yield
    finally:
        bench.threads = before
        torch.set_num_threads(before)


def fit_folder(
    folder: Path, path: Path, more: Sequence[str] = (), recipe: Path | None = None
) -> Path:
    """Where a fit on the table ``path`` has its files, one by the default recipe unless told.

    Another recipe, table or training code has another folder, and never goes on from this one's
    checkpoint.
    """
    asked = json.dumps([config(recipe), *more, source_digest(CODE)], sort_keys=True).encode()
    digest = hashlib.sha256(asked + path.read_bytes()).hexdigest()
    return folder / f"{path.stem}-{digest[:12]}"


def config(recipe: Path | None = None) -> object:
    """A recipe, parsed, the default one unless told: comments do not count."""
    return yaml.safe_load((recipe or CONFIG).read_text(encoding="utf-8"))


def predictor_folder(bench: Workbench, path: Path, more: Sequence[str] = ()) -> Path:
    """Where :func:`fit` leaves the predictor that learned from the table ``path``."""
    return fit_folder(bench.out / "recipe" / f"threads{bench.threads}", path, more) / "predictor"


def fit(bench: Workbench, cell: Cell, prompts: int, path: Path, more: Sequence[str] = ()) -> Result:
    """Train by the default recipe, export and judge.

    Args:
        bench: where results are kept.
        cell: of the lengths.
        prompts: number of prompts to learn from, 0 for all.
        path: their table, of `held_out.part_of`.
        more: further arguments of `pars fit`.

    Returns:
        ``minutes`` and ``export_minutes``; ``train``, the number of prompts; ``val``, validation
        tau; and on the test split ``tau``, that of the ``ridge`` and that of prompt ``length``.
    """
    from pars_export.export import export_checkpoint
    from pars_model.callbacks import BEST

    folder = predictor_folder(bench, path, more)

    def compute() -> Result:
        minutes = train(folder.parent, path, more)
        start = time.monotonic()
        export_checkpoint(folder.parent / BEST, folder)
        exported = {"minutes": minutes, "export_minutes": (time.monotonic() - start) / 60}
        return {**exported, **_judged(folder.parent, path)}

    settings = {"config": config(), "prompts": prompts, "folder": folder.parent.name}
    settings["threads"] = bench.threads
    if more:
        settings["more"] = list(more)
    label = f"fine-tune on {cell.title}, {' '.join((str(prompts or 'all'), 'prompts', *more))}"
    found = bench.kept(label, settings, compute, CODE, sha256_file(path), shelf="recipe")
    there(folder)
    return found


def there(folder: Path) -> Path:
    """The folder, which kept results speak of.

    Raises:
        InputError: it is gone.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is gone, though its results are kept: remove the results folder beside it, "
            "and all is trained again."
        )
    return folder


def train(root: Path, path: Path, more: Sequence[str] = (), recipe: Path | None = None) -> float:
    """Run `pars fit`, or go on with it; return its minutes, those before interruptions included.

    Args:
        root: folder of the fit.
        path: length table.
        more: further arguments of `pars fit`.
        recipe: its configuration, the default one unless told.
    """
    from pars_model.callbacks import LAST
    from pars_model.cli import main

    clock = root / "minutes.json"
    before = json.loads(clock.read_text()) if clock.is_file() else 0.0
    arguments = ["fit", "--config", str(recipe or CONFIG), "--data.path", str(path)]
    arguments += ["--trainer.default_root_dir", str(root), *more]
    if (root / LAST).is_file():
        arguments += ["--ckpt_path", str(root / LAST)]
    start = time.monotonic()
    try:
        status = main(arguments)
    finally:
        minutes = before + (time.monotonic() - start) / 60
        with atomic_file(clock) as temporary:
            temporary.write_text(json.dumps(minutes), encoding="utf-8")
    if status:
        raise KeyboardInterrupt
    return minutes


def _judged(root: Path, path: Path) -> Result:
    """Taus on the test split of the ranker, the ridge on the same rows, and prompt length."""
    from pars_model.callbacks import BEST
    from pars_model.checkpoint import load_ranker

    ranker = load_ranker(root / BEST)
    lengths = read_lengths(path)
    test, texts = judged_items(lengths)
    return {
        "train": int((split_prompts(lengths) == "train").sum()),
        "val": ranker.metrics["tau"],
        "tau": tau_of(ranker.score(texts), lengths, test),
        "ridge": tau_of(ridge_of(lengths).score(texts), lengths, test),
        "length": tau_of(np.array([len(text) for text in texts]), lengths, test),
    }
