"""What every order gains: chat, code, maths and reasoning, Azure and Mooncake, by load and engine.

`pars replay` over all of them: vLLM's real scheduler in virtual time. DATA_ROOT holds length tables
(lengths.parquet, prompts.parquet) and, under traces, the traces. Every finished cell is kept in
OUT/cells: interrupted, the same command goes on where it was. Results: OUT/study.json, the page and
its pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pars_export.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars bench replay``."""
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--page", type=Path, help="write the results as a Markdown page, too")
    parser.add_argument("--data-root", required=True, type=Path, help="length tables and traces")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell (3)")
    parser.add_argument(
        "--predictor",
        type=Path,
        metavar="DIR",
        help="predictor that reads chat and code prompts (the default predictor)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (1)")


def run(args: argparse.Namespace) -> int:
    """Replay what is not there yet; write the results and the page."""
    from pars_bench.study.design import WINDOWS, comparisons
    from pars_bench.study.page import write_page
    from pars_bench.study.run import run_study
    from pars_export.signals import exit_on_sigterm

    for name in ("seeds", "jobs"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} is {getattr(args, name)}: expected at least 1.")
    with exit_on_sigterm():
        seeds = tuple(range(args.seeds))
        study = run_study(
            args.out,
            args.data_root,
            seeds,
            args.jobs,
            list(comparisons()),
            WINDOWS,
            predictor=args.predictor,
        )
    print(args.out / "study.json")
    if args.page is not None:
        command = f"pars bench replay --out DIR --data-root DATA --seeds {args.seeds}"
        if args.predictor is not None:
            command += f" --predictor {args.predictor.name}"
        write_page(args.page, study, command)
        print(args.page)
    return 0
