"""Where the commands of ``pars bench`` write what they measured."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """``--json OUT``, which has everything, and ``--markdown FILE``, which is made of it."""
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="results")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also a page for the docs, plots beside it"
    )
