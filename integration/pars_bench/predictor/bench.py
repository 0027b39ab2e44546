"""Measure what scoring costs: every runtime of predictor folders beside the baselines.

All take turns in one run: time per prompt over batches, lengths and threads, with the machine's
own rate of matrix products and of memory in the same rounds, from which the floor is worked out;
then load time and memory in fresh processes, a burst of prompts, and how well each ranks.
Interrupted, it goes on where it was: what is done is kept in OUT.cells until OUT is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pars_bench.outputs import add_output_arguments
from pars_bench.predictor.grid import DEFAULT, QUICK, SMALL_ROUNDS, Grid
from pars_export.errors import ConfigError, InputError
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from pars_bench.experiment import Facts
    from pars_bench.predictor.contestants import Contestant
    from pars_bench.predictor.report import PredictorReport

PROMPTS = Path(__file__).parents[1] / "demo" / "prompts.jsonl"
MODULES = (
    "pars_bench.environment",
    "pars_bench.promptfile",
    *(
        f"pars_bench.predictor.{name}"
        for name in (
            "baselines",
            "cells",
            "contestants",
            "grid",
            "loading",
            "openvino_parts",
            "parts",
            "processes",
            "products",
            "rates",
            "report",
            "ridge",
            "speed",
            "texts",
            "work",
        )
    ),
    *(
        f"pars_export.{name}"
        for name in (
            "artifact",
            "batches",
            "cpu",
            "encoder_config",
            "inputs",
            "network",
            "onnx_file",
            "ort",
            "parity",
            "predictor",
            "prompts",
            "remembered",
            "table",
            "words",
        )
    ),
    "pars_export.runtimes",
    *(
        f"pars_export.runtimes.{name}"
        for name in (
            "arrays",
            "blas",
            "encoded",
            "following",
            "length",
            "ngram_half",
            "ngrams",
            "onnxruntime_engines",
            "openvino_engine",
            "student",
            "table",
            "torch_eager",
        )
    ),
)
"""Whose code decides what is measured: of this bench, and of what it measures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of ``pars bench predictor``."""
    parser.add_argument(
        "folders", type=Path, nargs="*", metavar="DIR", help="predictor folders, or `default`"
    )
    add_output_arguments(parser)
    parser.add_argument(
        "--baselines", metavar="NAMES", help="with commas, or none (all that are installed)"
    )
    parser.add_argument(
        "--prompts", type=Path, default=PROMPTS, help="for words and the burst (the demo's)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        metavar="N",
        help=f"cores for each call ({' '.join(map(str, DEFAULT.threads))})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"samples of each cell, {SMALL_ROUNDS} times as many of small ones ({DEFAULT.rounds})",
    )
    parser.add_argument("--quick", action="store_true", help="few cells, to see that all runs")
    parser.add_argument(
        "--page-only", action="store_true", help="measure nothing: the page of an OUT that is there"
    )


def run(args: argparse.Namespace) -> int:
    """Measure what is not there yet, write OUT, and the page where one is wanted."""
    from pars_export.signals import exit_on_sigterm

    if args.page_only:
        report = read_report(args.json)
    else:
        with exit_on_sigterm():
            report = measure(args)
    if args.markdown is not None:
        from pars_bench.predictor.page import write_page

        write_page(args.markdown, report)
    return 0


def read_report(path: Path) -> PredictorReport:
    """What a run wrote.

    Raises:
        InputError: no such file, or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: there are no results ({error.strerror}); run without --page-only first."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); run without --page-only.") from error
    kinds = {"contestants": dict, "speed": list, "starts": dict, "bursts": list}
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), kind) for name, kind in kinds.items()
    ):
        raise InputError(
            f"{path}: these are not the results of `pars bench predictor`; name its OUT."
        )
    return cast("PredictorReport", value)


def measure(args: argparse.Namespace) -> PredictorReport:
    """Everything; minutes."""
    from pars_bench.environment import describe_machine
    from pars_bench.experiment import compute
    from pars_bench.predictor.cells import Cells
    from pars_bench.predictor.contestants import choose
    from pars_bench.predictor.rates import vector_instructions
    from pars_bench.progress import TerminalProgress
    from pars_export.artifact import folder_sha256
    from pars_export.files import sha256_file

    if not args.folders:
        raise ConfigError("Which predictor folders? Give at least one DIR.")
    folders = [_folder(folder) for folder in args.folders]
    contestants = choose(folders, _names(args.baselines))
    grid = _fitting(_asked(args), contestants)
    environment = {
        **describe_machine(),
        "vector_instructions": ", ".join(vector_instructions()),
    }
    progress = TerminalProgress()
    with ExitStack() as stack:
        cells = Cells(stack, contestants, grid, args.prompts)
        # A cell counts only for this machine, these predictors and these prompts.
        of: Facts = {
            "environment": environment,
            "contestants": [asdict(each) for each in contestants],
            "predictors": [folder_sha256(folder) for folder in folders],
            "prompts": sha256_file(args.prompts),
        }
        folder = args.json.with_name(f"{args.json.name}.cells")
        named = {name: cell | {"of": of} for name, cell in cells.named().items()}
        report = cells.report(compute(folder, named, cells.measure, MODULES, progress))
    report["environment"] = environment | {"load_average": round(os.getloadavg()[0], 1)}
    report["settings"] = {**asdict(grid), "command": _command(args)}
    with atomic_file(args.json) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder)
    return report


def _asked(args: argparse.Namespace) -> Grid:
    grid = QUICK if args.quick else DEFAULT
    if args.rounds is not None:
        if args.rounds < 1:
            raise ConfigError(f"--rounds is {args.rounds}; at least 1 is needed.")
        grid = replace(grid, rounds=args.rounds)
    if args.threads is not None:
        cores = len(os.sched_getaffinity(0))
        wrong = [threads for threads in args.threads if not 1 <= threads <= cores]
        if wrong:
            raise ConfigError(f"--threads {wrong[0]}: give 1 to {cores}, the cores there are.")
        grid = replace(grid, threads=tuple(sorted(set(args.threads))))
    return grid


def _fitting(grid: Grid, contestants: Sequence[Contestant]) -> Grid:
    """What this machine and these encoders can do of a grid."""
    from pars_export.artifact import read_manifest
    from pars_export.runtimes.encoded import positions_of

    folders = {Path(each.folder) for each in contestants}
    longest = min(
        positions_of(folder) or max(grid.lengths)
        for folder in folders
        if read_manifest(folder, check_hashes=False).kind == "encoder"
    )
    cores = len(os.sched_getaffinity(0))
    return replace(
        grid,
        lengths=tuple(length for length in grid.lengths if length <= longest),
        threads=tuple(threads for threads in grid.threads if threads <= cores),
    )


def _folder(named: Path) -> Path:
    """`default` is the predictor inside the package, unless a folder here is called so."""
    from pars_export.artifact import DEFAULT_PREDICTOR

    return DEFAULT_PREDICTOR if str(named) == "default" and not named.exists() else named


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def _command(args: argparse.Namespace) -> str:
    given = ["pars", "bench", "predictor", *map(str, args.folders), "--json", str(args.json)]
    if args.markdown is not None:
        given += ["--markdown", str(args.markdown)]
    if args.baselines is not None:
        given += ["--baselines", args.baselines]
    if args.threads is not None:
        given += ["--threads", *map(str, args.threads)]
    if args.rounds is not None:
        given += ["--rounds", str(args.rounds)]
    if args.prompts != PROMPTS:
        given += ["--prompts", str(args.prompts)]
    return shlex.join([*given, "--quick"] if args.quick else given)
