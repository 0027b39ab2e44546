# ruff: noqa: ARG002  (hooks have the arguments that Lightning gives)
"""What a run leaves behind: one best.ckpt, one last.ckpt to resume from, and its log."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from pars_export.errors import ConfigError, InputError
from pars_export.files import atomic_file
from pars_model.datamodule import PromptLengthDataModule
from pars_model.few_validation import warn_of_few
from pars_model.fitted_table import note_table, require_same_table
from pars_model.ngram_half import add_half
from pars_model.prior import NONE, find_prior

BEST, LAST, UNFINISHED = "best.ckpt", "last.ckpt", "unfinished.ckpt"


class KeepBest(pl.Callback):  # type: ignore[misc]  # mypy does not follow lightning
    """Keeps the weights of the best validation, under ``trainer.default_root_dir``.

    While a fit runs, its best weights are in ``unfinished.ckpt``, a ranker like any other; with an
    n-gram half, where there is to be one, they become ``best.ckpt`` when it ends well, so an
    interrupted fit leaves the best.ckpt of an earlier one alone. Of equal validations the later one
    counts, whose weights have learned at lower rates. A fit that ends says where few prompts chose.
    ``last.ckpt`` has the state after each epoch: ``--ckpt_path .../last.ckpt`` goes on from it, on
    the same table alone. That of an earlier fit stays until the first epoch of a new one has ended.
    Every file appears whole or not at all.

    Args:
        monitor: logged metric that says which weights are best.
        mode: max or min.
        save_last: whether to write last.ckpt (three times the size of best.ckpt).
    """

    def __init__(self, monitor: str = "val/tau", mode: str = "max", save_last: bool = True) -> None:
        if mode not in ("max", "min"):
            raise ConfigError(f"KeepBest's mode is {mode!r}; expected max or min.")
        self.monitor, self.mode, self.save_last = monitor, mode, save_last
        self.best: float | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a fit that would never validate, or lacks what an n-gram half is made from.

        Any other notes where its length table is, so that its checkpoints hold the path.
        """
        if stage == "fit" and trainer.limit_val_batches == 0:
            raise ConfigError(
                "trainer.limit_val_batches is 0, but the best weights are chosen, and calibrated, "
                "by validation: leave it at 1.0."
            )
        if stage == "fit":
            if pl_module.hparams.get("ngram_half") and trainer.datamodule is None:
                raise ConfigError(
                    "model.ngram_half is true, but the fit has no data module to learn n-grams "
                    "from: give trainer.fit a PromptLengthDataModule, or set it to false."
                )
            find_prior(pl_module.hparams.get("prior", NONE))
            note_table(trainer.datamodule)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep these weights if none so far were better."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:
            return
        metric = trainer.callback_metrics.get(self.monitor)
        if metric is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ConfigError(f"KeepBest's monitor is {self.monitor!r}; expected one of {known}.")
        value = float(metric)
        better = self.best is None or (
            value >= self.best if self.mode == "max" else value <= self.best
        )
        if better:
            self.best = value
            self._save(trainer, UNFINISHED, weights_only=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state to resume from."""
        if self.save_last and not trainer.fast_dev_run:
            self._save(trainer, LAST, weights_only=False)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The fit ended well: its best weights become best.ckpt, and get their n-gram half."""
        if trainer.fast_dev_run:
            return
        if self.best is None:
            raise InputError(
                "The fit ended before any validation, so no weights were chosen: raise "
                "trainer.max_epochs or trainer.max_steps, or validate more often."
            )
        unfinished = Path(trainer.default_root_dir, UNFINISHED)
        if trainer.is_global_zero and unfinished.is_file():
            if pl_module.hparams.get("ngram_half"):
                add_half(
                    unfinished,
                    trainer.datamodule,
                    trainer.strategy.root_device,
                    pl_module.out_of_fold,
                )
            best = unfinished.replace(unfinished.with_name(BEST))
            if isinstance(trainer.datamodule, PromptLengthDataModule):
                warn_of_few(best, trainer.datamodule, trainer.strategy.root_device)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, for a fit that is resumed."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best = state_dict["best"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on with a fit on another table."""
        if trainer.state.fn == "fit":
            require_same_table(trainer.ckpt_path, checkpoint, trainer.datamodule)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A new fit forgets what an interrupted one left; a resumed one, a best that is gone."""
        root = Path(trainer.default_root_dir)
        if trainer.ckpt_path is None and trainer.is_global_zero and not trainer.fast_dev_run:
            (root / UNFINISHED).unlink(missing_ok=True)
        if not any((root / name).is_file() for name in (UNFINISHED, BEST)):
            self.best = None

    def _save(self, trainer: pl.Trainer, name: str, weights_only: bool) -> None:
        path = Path(trainer.default_root_dir, name)
        try:
            if trainer.is_global_zero:
                with atomic_file(path) as temporary:
                    trainer.save_checkpoint(temporary, weights_only=weights_only)
            else:
                trainer.save_checkpoint(path, weights_only=weights_only)  # joins the barrier
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror or error}): make room or give another "
                "--trainer.default_root_dir; files that were there are intact."
            ) from error


class RunLogger(CSVLogger):  # type: ignore[misc]  # mypy does not follow lightning
    """CSV log and configuration of each run, in a numbered folder beside best.ckpt.

    Args:
        save_dir: folder of the logs; empty for ``trainer.default_root_dir``.
        name: folder inside it.
        flush_logs_every_n_steps: steps between writes.
    """

    def __init__(
        self, save_dir: str = "", name: str = "log", flush_logs_every_n_steps: int = 100
    ) -> None:
        super().__init__(
            save_dir or ".", name=name, flush_logs_every_n_steps=flush_logs_every_n_steps
        )

    def finalize(self, status: str) -> None:
        """Write what is left; a run that was refused before it logged anything leaves no folder."""
        super().finalize(status)
        if status != "failed":
            return
        own = [Path(self.log_dir), *([Path(self.root_dir)] if self.name else [])]
        for folder in own:
            with contextlib.suppress(OSError):  # not empty, or another process was first
                folder.rmdir()


class SaveConfig(SaveConfigCallback):  # type: ignore[misc]  # mypy does not follow lightning
    """Saves the configuration in the log's folder; where nothing is logged, nowhere."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save, once per run."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)
