"""Score prompts with a predictor folder.

Prompts come from FILE or standard input: one a line, or JSONL with `prompt` or `messages`. Each
gives one line of JSON with its `score` (higher: longer response) and `expected_tokens`; null where
the predictor does not know. Blank lines are skipped, and counted at the end. A predictor that reads
facts beside the text takes them from the keys `prompt_tokens`, `max_tokens`, `structured`, `tools`
and `reasoning` of JSONL.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pars_export.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pars_export.predictor import Predictor
    from pars_export.prompts import Prompt

_TOGETHER = 1024
"""Prompts that are read before any is scored: enough to sort by length, little enough to stream."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pars score`."""
    parser.add_argument("predictor", type=Path, metavar="DIR", help="predictor folder")
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="default: stdin")
    parser.add_argument(
        "--format", choices=("auto", "lines", "jsonl"), default="auto", help="form of the prompts"
    )
    parser.add_argument("--runtime", default="auto", help="auto, or an engine of DIR (auto)")
    parser.add_argument("--threads", type=int, default=1, help="cores to use (default: 1)")
    parser.add_argument("--sha256", metavar="HEX", help="what the predictor must be, as pinned")


def run(args: argparse.Namespace) -> int:
    """Write one line of JSON per prompt to standard output."""
    from pars_export.predictor import Predictor
    from pars_export.prompts import format_of

    predictor = Predictor.load(args.predictor, args.runtime, args.threads, args.sha256)
    try:
        if args.file is None:
            # As for a file: whatever bytes come are a prompt.
            if hasattr(sys.stdin, "reconfigure"):
                sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
            _score_lines(predictor, sys.stdin, "stdin", args.format)
            return 0
        if not args.file.is_file():
            raise InputError(f"{args.file}: there is no such prompt file.")
        form = format_of(args.file) if args.format == "auto" else args.format
        with args.file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            _score_lines(predictor, file, str(args.file), form)
    except BrokenPipeError:
        # Who reads has seen enough; without this the interpreter complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _score_lines(predictor: Predictor, lines: Iterable[str], name: str, form: str) -> None:
    from pars_export.prompts import read_prompts

    blank = 0

    def counted() -> Iterator[str]:
        nonlocal blank
        for line in lines:
            blank += not line.strip()
            yield line

    score_stream(predictor, read_prompts(counted(), name, form), sys.stdout)
    if blank:
        print(f"pars: {name}: {blank} blank lines were skipped.", file=sys.stderr)


def score_stream(predictor: Predictor, prompts: Iterable[Prompt], out: TextIO) -> None:
    """Score prompts in their order, a block of them at a time."""
    block: list[Prompt] = []
    for prompt in prompts:
        block.append(prompt)
        if len(block) == _TOGETHER:
            _score_block(predictor, block, out)
            block = []
    if block:
        _score_block(predictor, block, out)


def _score_block(predictor: Predictor, block: list[Prompt], out: TextIO) -> None:
    scores = predictor.score([prompt.text for prompt in block], [prompt.facts for prompt in block])
    tokens = predictor.expected_tokens(scores)
    for prompt, score, length in zip(block, scores.tolist(), tokens.tolist(), strict=True):
        known = score == score  # NaN is not itself
        line: dict[str, object] = (
            {} if prompt.prompt_id is None else {"prompt_id": prompt.prompt_id}
        )
        line["score"] = score if known else None
        line["expected_tokens"] = round(length, 2) if known else None
        out.write(f"{json.dumps(line)}\n")
    out.flush()
