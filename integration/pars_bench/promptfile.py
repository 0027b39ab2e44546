"""The prompts that a benchmark sends, read from a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pars_bench.client import Prompt
from pars_export.errors import InputError
from pars_export.inputs import text_of

Row = Mapping[str, object]


def read_prompts(path: Path) -> list[Prompt]:
    """Read JSONL, Parquet or CSV: ``prompt`` or ``messages``, perhaps ``prompt_id`` and ``kind``.

    Raises:
        InputError: the file is missing, of another kind, empty, or a row has no usable prompt.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of prompts (JSONL, Parquet or CSV)")
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path} holds no prompts: give at least one row")
    return [_prompt(path, number, row) for number, row in enumerate(rows, start=1)]


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            yield from pq.read_table(path).to_pylist()
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} is not a Parquet file: {error}") from error
    elif path.suffix == ".csv":
        import csv

        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    else:
        raise InputError(
            f"{path} ends in {path.suffix or 'nothing'}: expected .jsonl, .parquet or .csv"
        )


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}, is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}, is not a JSON object")
            yield row


def _prompt(path: Path, number: int, row: Row) -> Prompt:
    prompt, messages = row.get("prompt"), row.get("messages")
    if isinstance(messages, str):  # tables without nested columns hold them as JSON
        try:
            messages = json.loads(messages) if messages else None
        except ValueError as error:
            raise InputError(f"{path}, row {number}: messages is not JSON: {error}") from error
    if messages:
        if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
            raise InputError(
                f"{path}, row {number}: messages must be a list of objects with role and content"
            )
        chat = [dict(turn) for turn in messages]
        text = text_of(messages=chat)
    elif isinstance(prompt, str) and prompt:
        chat = [{"role": "user", "content": prompt}]
        text = text_of(prompt)
    else:
        raise InputError(
            f"{path}, row {number}: expected a text in `prompt` or a list in `messages`, "
            f"found {prompt!r}"
        )
    name = row.get("prompt_id")
    return Prompt(
        prompt_id=str(number if name is None else name),
        kind=str(row.get("kind") or ""),
        messages=tuple(chat),
        text=text,
    )
