"""The console script ``pars``: one name, each subcommand imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pars_export.errors import ParsError

# name -> (module with add_arguments and run, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "collect": ("pars_model.collect", "measure response lengths of an LLM"),
    "borrow": ("pars_model.borrow", "label an LLM's prompts with other LLMs' lengths"),
    "distil": ("pars_model.distil", "teach a ranker's order to a small student"),
    "evaluate": ("pars_model.evaluate", "tau and pair accuracy of a predictor, with intervals"),
    "experiment": ("pars_model.experiments.cli", "rerun a table of docs/results/ranking.md"),
    "export": ("pars_export.export", "turn a checkpoint into a predictor folder"),
    "score": ("pars_export.score", "score prompts with a predictor folder"),
    "replay": (
        "pars_bench.replay.cli",
        "what an order would gain on a trace: vLLM's real scheduler in virtual time",
    ),
    "bench": ("pars_bench.cli", "measure serving (and more) side by side"),
    "doctor": ("pars_vllm.doctor", "check a predictor and the installed vLLM"),
    "demo": ("pars_bench.demo.cli", "the whole way on a small LLM: collect, fit, export, serve"),
}

# LightningCLI's own subcommands; their help is written out because building it imports torch.
TRAINING: dict[str, str] = {
    "fit": "train a ranker",
    "validate": "validation loss and tau of a checkpoint",
    "test": "test tau of a checkpoint",
    "predict": "scores of a checkpoint on a table",
}

TRAINING_HELP = """\
usage: pars {command} --config FILE [--KEY VALUE ...] [--ckpt_path CKPT]

{summary}, with Lightning's command line. Every key of the YAML file can be overridden:

  --config FILE                     settings; configs/default.yaml is the default recipe
  --data.path TABLE                 length table (Parquet, JSONL or CSV)
  --model.encoder NAME              model folder, hub name, or embedded:minilm
  --model.objective NAME            what the ranker minimises, margin by default (the paper's)
  --trainer.default_root_dir DIR    where best.ckpt and logs go
  --trainer.max_epochs N            how long to train
  --ckpt_path CKPT                  resume from, or use, this checkpoint
  --seed_everything N               seed of weights and dropout (--data.seed N: of the batches)
  --print_config                    print every key with its value, and exit
"""


def build_parser() -> argparse.ArgumentParser:
    """The top-level parser: names and one-line help only."""
    parser = argparse.ArgumentParser(
        prog="pars",
        description="Shortest answers first: rank prompts by response length for vLLM.",
        epilog="`pars COMMAND --help` explains each command.",
    )
    parser.add_argument("--version", action="version", version=f"pars {version('pars-vllm')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in TRAINING.items():
        commands.add_parser(name, help=summary, add_help=False)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (2 for an error the user can mend)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    try:
        if name in TRAINING:
            return _train(name, rest)
        if name in COMMANDS:
            return _run(name, rest)
        build_parser().parse_args(arguments)
    except ParsError as error:
        print(f"pars: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # A full disk, a folder that may not be written: the file and the system's own words.
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"pars: error: {place}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pars: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _train(name: str, rest: list[str]) -> int:
    if not rest or {"-h", "--help"} & set(rest):
        print(TRAINING_HELP.format(command=name, summary=TRAINING[name].capitalize()))
        return 0 if rest else 2
    from pars_model.cli import main as lightning_main

    return lightning_main([name, *rest])


def _run(name: str, rest: list[str]) -> int:
    module_name, summary = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(
        prog=f"pars {name}",
        description=(module.__doc__ or summary).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(rest)))


if __name__ == "__main__":
    sys.exit(main())
