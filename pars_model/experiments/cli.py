"""Rerun one table of docs/results/ranking.md on real response lengths.

`pars experiment list` names them. Whatever was computed is kept under --out by code, settings and
data, so a run that was interrupted goes on where it stopped. --markdown writes the experiment's
section of that page and its pictures beside it; other sections stay as they are.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

from pars_export.errors import InputError
from pars_model.experiments.registry import EXPERIMENTS

SEEDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars experiment``."""
    parser.add_argument("name", choices=["list", *EXPERIMENTS], help="experiment, or list")
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of prompts.parquet and lengths.parquet; needed but for list",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/experiments"),
        metavar="DIR",
        help="what was computed is kept here (default runs/experiments)",
    )
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write the section here")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"repetitions (default {SEEDS})")
    parser.add_argument(
        "--leave-out",
        default="",
        metavar="PATTERN",
        help="compute no part whose label, shown as it begins, matches; the frontier names them",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="cores to use (default 1); recipe and frontier: two for fits on all prompts",
    )


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise InputError(f"--leave-out {text!r} is no regular expression ({error}).") from error
    return text


def _options(args: argparse.Namespace) -> str:
    """The options that the section's command has beside those that all have."""
    given = (("seeds", args.seeds, SEEDS), ("threads", args.threads, 1))
    found = "".join(f" --{name} {value}" for name, value, default in given if value != default)
    return found + (f" --leave-out {shlex.quote(args.leave_out)}" if args.leave_out else "")


def run(args: argparse.Namespace) -> int:
    """Entry of ``pars experiment``."""
    if args.name == "list":
        width = max(map(len, EXPERIMENTS))
        for name, (_, summary) in EXPERIMENTS.items():
            print(f"{name:{width}}  {summary}")
        return 0
    for name in ("seeds", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: expected 1 or more.")
    if args.data_root is None:
        raise InputError(
            f"pars experiment {args.name} needs --data-root: the folder of prompts.parquet and "
            "lengths.parquet."
        )
    import torch

    from pars_model.experiments.page import write_section
    from pars_model.experiments.workbench import Workbench

    torch.set_num_threads(args.threads)
    bench = Workbench(
        args.name, args.data_root, args.out, args.seeds, args.threads, _pattern(args.leave_out)
    )
    section = importlib.import_module(EXPERIMENTS[args.name][0]).run(bench)
    text = section.markdown(bench.minutes, machines=bench.machines)
    print(text)
    if args.markdown is not None:
        write_section(
            args.markdown, args.name, section, bench.minutes, _options(args), bench.machines
        )
        print(args.markdown)
    return 0
