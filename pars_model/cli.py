"""``pars fit|validate|test|predict``: Lightning's command line for the ranker."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from pars_export.errors import ConfigError, InputError
from pars_export.files import atomic_file
from pars_model.callbacks import BEST, RunLogger, SaveConfig
from pars_model.checkpoint import load_ranker
from pars_model.datamodule import PromptLengthDataModule
from pars_model.device import bfloat16_pays, on_cpu
from pars_model.module import ResponseLengthRanker

log = logging.getLogger("pars")

QUIET = (
    # Batches are made in microseconds here; worker processes would only cost memory.
    ".*does not have many workers.*",
    # A short table has few batches; the log is written at the end of each epoch anyway.
    ".*smaller than the logging interval.*",
    # Nor does a head in closed form need an optimizer, a loss, or gradients.
    ".*this fit will run with no optimizer.*",
    ".*`training_step` returned `None`.*",
    ".*no gradient clipping will occur.*",
    # Lightning's own calls of what torch renames.
    ".*LeafSpec.*is deprecated.*",
)


class RankerCLI(LightningCLI):  # type: ignore[misc]  # mypy does not follow lightning
    """LightningCLI with the ranker, its data, and our manners in errors and file names."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments; those of the process are not looked at."""
        self.config = parser.parse_args(args)
        given = self.config[self.config.subcommand].get("ckpt_path")
        if given:
            _check_checkpoint(given)
        elif self.config.subcommand != "fit":
            raise ConfigError(
                f"--ckpt_path is missing: give `pars {self.config.subcommand}` the best.ckpt that "
                "`pars fit` wrote."
            )

    def before_instantiate_classes(self) -> None:
        """Logs go where best.ckpt goes; bfloat16 is used where it is any faster."""
        trainer = self.config[self.subcommand].trainer
        trainer.use_distributed_sampler = False  # the data module gives each process its share
        wanted = trainer.precision == "bf16-mixed" and on_cpu(trainer.accelerator)
        if wanted and not bfloat16_pays():
            trainer.precision = "32-true"
            log.warning(
                "This CPU has no bfloat16 arithmetic: trainer.precision is 32-true "
                "instead of bf16-mixed."
            )
        root = trainer.default_root_dir or str(Path.cwd())
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            path = getattr(logger, "class_path", "")
            if path == f"{RunLogger.__module__}.{RunLogger.__name__}":
                logger.init_args.save_dir = logger.init_args.save_dir or root

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The trainer, or one sentence on what it cannot be.

        Raises:
            ConfigError: unknown accelerator, strategy, number of devices and the like.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error

    def after_predict(self) -> None:
        """Write scores in the order of the table's prompts."""
        if not self.trainer.is_global_zero:
            return  # every process has scored all prompts
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
        """Say what the best weights are worth and, in the last line of the output, where."""
        if self.trainer.fast_dev_run or not self.trainer.is_global_zero:
            return
        best = Path(self.trainer.default_root_dir, BEST)
        if not best.is_file():
            raise InputError(
                f"No epoch was left to train, and there is no {best}: raise trainer.max_epochs."
            )
        ranker = load_ranker(best)
        how = ranker.training_summary.get("validated", "")
        print(f"validation tau: {ranker.metrics['tau']:.3f}{f', {how}' if how else ''}")
        print(best, flush=True)


class _Parser(LightningArgumentParser):  # type: ignore[misc]  # mypy does not follow lightning
    """Raises instead of printing its usage: the dispatcher prints one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        raise ArgumentError(None, message) from ex


def main(args: list[str]) -> int:
    """Run one subcommand of Lightning's command line.

    Args:
        args: the subcommand and its options.

    Returns:
        Exit status: 0, 130 when interrupted, 143 when terminated.

    Raises:
        ParsError: an error that the user can mend.
    """
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for pattern in QUIET:
            warnings.filterwarnings("ignore", pattern)
        try:
            RankerCLI(
                ResponseLengthRanker,
                PromptLengthDataModule,
                parser_class=_Parser,
                save_config_callback=SaveConfig,
                auto_configure_optimizers=False,
                args=args,
            )
        except ArgumentError as error:
            raise ConfigError(_sentence(error.message)) from error
        except MisconfigurationException as error:
            raise ConfigError(" ".join(str(error).split())) from error
        except SIGTERMException:
            print(
                "pars: terminated; where there is a last.ckpt, its epoch is kept", file=sys.stderr
            )
            return 143
        except SystemExit as stop:
            # Lightning turns Ctrl-C into an exit; --help and --print_config exit with 0.
            if stop.code in (0, None):
                return 0
            print(
                "pars: interrupted; if an epoch had ended, --ckpt_path .../last.ckpt goes on",
                file=sys.stderr,
            )
            return 130
    return 0


def _check_checkpoint(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(f"--ckpt_path {path} does not exist: give the path of a checkpoint.")
    if not zipfile.is_zipfile(path):
        raise InputError(f"--ckpt_path {path} is no checkpoint, or is cut off: give another.")


def _sentence(message: str) -> str:
    """One sentence of what jsonargparse says in many lines."""
    hint = "`--print_config` prints every key with its value."
    unknown = re.match(r"Subcommand .* does not accept option '(.+?)'", message) or re.match(
        r"unrecognized arguments: (.+)", message
    )
    if unknown:
        return f"The configuration has an unknown key {unknown[1]}: {hint}"
    missing = re.search(r"arguments are required: (.+)", message)
    if missing:
        keys = re.sub(r"\b(fit|validate|test|predict)\.", "--", missing[1]).rstrip(".")
        return f"The configuration lacks {keys}: give it on the command line or in the YAML file."
    key = re.match(r'Parser key "([^"]+)": *', message)
    where = f"The configuration's key {key[1]} is wrong" if key else "The configuration is wrong"
    rest = message[key.end() :] if key else message
    reasons = re.findall(r"^ *- (.+(?:\n(?! *- | *Given).+)*)", rest, flags=re.MULTILINE)
    pointed = [each for each in reasons if each.startswith(("Option", "Problem"))]
    value = re.search(r"Given value: (.{1,60})", rest)
    if pointed:
        rest = pointed[0]
    elif reasons and value:
        rest = f"found {value[1]}; " + " or ".join(each[0].lower() + each[1:] for each in reasons)
    rest = re.sub(r"an? <class '(\w+)'>", r"\1", rest).replace("a typing.Literal", "one of ")
    return f"{where}: {' '.join(rest.split()).rstrip('.')}; {hint}"
