"""Where the commands of ``pars bench`` write what they measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from pars_export.errors import InputError


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """``--json OUT``, which has everything, and ``--markdown FILE``, which is made of it."""
    parser.add_argument("--json", type=_file, required=True, metavar="OUT", help="results")
    parser.add_argument(
        "--markdown", type=_file, metavar="FILE", help="also a page for the docs, plots beside it"
    )


def _file(text: str) -> Path:
    """Refuse a folder before minutes go into what cannot be written."""
    if Path(text).is_dir():
        raise InputError(f"{text} is a folder: name the file to write.")
    return Path(text)
