"""What nvidia-modelopt's int8 and fp16 graphs keep of a ranker's order, beside this project's own.

Everything runs on a CPU; it takes minutes. modelopt is no part of this project's environment:
`make modelopt PREDICTOR=DIR` makes one that has it, and runs this there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pars_export.files import atomic_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of ``pars bench modelopt``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="predictor folder of an encoder")
    parser.add_argument(
        "--markdown", type=Path, required=True, metavar="FILE", help="the page to write"
    )


def run(args: argparse.Namespace) -> int:
    """Make and judge every graph; write the page."""
    from pars_bench.predictor.modelopt_compare import compare
    from pars_bench.predictor.modelopt_page import render
    from pars_bench.progress import TerminalProgress
    from pars_export.signals import exit_on_sigterm

    with exit_on_sigterm():
        comparison = compare(args.folder, TerminalProgress())
    with atomic_file(args.markdown) as temporary:
        temporary.write_text(render(comparison), encoding="utf-8")
    return 0
