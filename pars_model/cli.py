"""``pars fit|validate|test|predict``: Lightning's command line for the ranker."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from pars_export.errors import ConfigError
from pars_export.files import atomic_file
from pars_model.callbacks import BEST, RunLogger, SaveConfig
from pars_model.datamodule import PromptLengthDataModule
from pars_model.module import ResponseLengthRanker


class RankerCLI(LightningCLI):  # type: ignore[misc]  # mypy does not follow lightning
    """LightningCLI with the ranker, its data, and our manners in errors and file names."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments; those of the process are not looked at."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Logs go where best.ckpt goes, unless the configuration says where."""
        trainer = self.config[self.subcommand].trainer
        root = trainer.default_root_dir or str(Path.cwd())
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            path = getattr(logger, "class_path", "")
            if path == f"{RunLogger.__module__}.{RunLogger.__name__}":
                logger.init_args.save_dir = logger.init_args.save_dir or root

    def after_predict(self) -> None:
        """Write scores in the order of the table's prompts."""
        batches = self.trainer.predict_loop.predictions or []
        prompts = self.datamodule.table.prompts
        scores = {
            int(prompt): float(score)
            for numbers, values in batches
            for prompt, score in zip(numbers, values, strict=True)
        }
        out = Path(self.trainer.default_root_dir, "predictions.jsonl")
        with atomic_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            for number, prompt in enumerate(prompts):
                file.write(json.dumps({"prompt": prompt, "score": scores[number]}) + "\n")
        print(out)

    def after_fit(self) -> None:
        """Say where the best weights are: the last line of the output."""
        if self.trainer.fast_dev_run or not self.trainer.is_global_zero:
            return
        sys.stdout.flush()
        print(Path(self.trainer.default_root_dir, BEST), flush=True)


def _sentence(message: str) -> str:
    text = " ".join(message.split())
    return text if text.endswith(".") else f"{text}."


class _Parser(LightningArgumentParser):  # type: ignore[misc]  # mypy does not follow lightning
    """Raises instead of printing its usage: the dispatcher prints one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        raise ConfigError(_sentence(message)) from ex


def main(args: list[str]) -> int:
    """Run one subcommand of Lightning's command line.

    Args:
        args: the subcommand and its options.

    Returns:
        Exit status: 0, or 130 when interrupted.

    Raises:
        ParsError: an error that the user can mend.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Batches are made in microseconds here; worker processes would only cost memory.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        try:
            RankerCLI(
                ResponseLengthRanker,
                PromptLengthDataModule,
                parser_class=_Parser,
                save_config_callback=SaveConfig,
                auto_configure_optimizers=False,
                args=args,
            )
        except SystemExit as stop:
            # Lightning turns Ctrl-C into an exit; --help and --print_config exit with 0.
            if stop.code in (0, None):
                return 0
            print("pars: interrupted; the last epoch is in last.ckpt", file=sys.stderr)
            return 130
    return 0
