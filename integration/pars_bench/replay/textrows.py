"""Rows of a CSV or JSONL file, gzipped or not, one at a time and with the line they stand on."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pars_export.errors import InputError


@dataclass(frozen=True, slots=True)
class Fields:
    """One row's values by column, and where they stand."""

    path: Path
    line: int
    values: Mapping[str, object]

    @property
    def where(self) -> str:
        """File and line, as an error names them."""
        return f"{self.path}, line {self.line}"

    def tokens(self, name: str, least: int = 1) -> int:
        """A whole number of at least ``least``; text that is one counts."""
        number = _number(self.values.get(name))
        if number is None or not number.is_integer() or number < least:
            raise self.refuse(name, f"a whole number of tokens, {least} or more")
        return int(number)

    def seconds(self, name: str) -> float:
        """A finite number of at least 0; text that is one counts."""
        number = _number(self.values.get(name))
        if number is None or number < 0:
            raise self.refuse(name, "a number, 0 or more")
        return number

    def refuse(self, name: str, expected: str) -> InputError:
        """The error that says what was found in a column."""
        found = repr(self.values.get(name))
        shown = found if len(found) <= 60 else f"{found[:57]}..."
        return InputError(
            f"{self.where}: {name} is {shown}; expected {expected}: mend or drop the row."
        )


def _number(value: object) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, gzipped or not by its content.

    Raises:
        InputError: there is no such file; or, while reading, it is damaged or not UTF-8.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file: give the path of a trace.")
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        binary = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            # utf-8-sig: spreadsheets put a byte order mark in front.
            with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
                yield text
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8, or give a trace."
            ) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is a damaged gzip file ({error}): fetch it again.") from error


def json_rows(path: Path) -> Iterator[Fields]:
    """One JSON object a line; empty lines are skipped."""
    with open_text(path) as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{path}, line {number}: not valid JSON ({error}); expected one object a line."
                ) from error
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}, line {number}: found a {type(row).__name__}; expected one JSON "
                    "object a line."
                )
            yield Fields(path, number, row)


def csv_rows(path: Path) -> Iterator[Fields]:
    """Rows below a header; blank lines are skipped."""
    records = _records(path)
    names = _names(records)
    for line, cells in records:
        if len(cells) != len(names):
            raise InputError(
                f"{path}, line {line}: {len(cells)} values under a header of {len(names)} columns: "
                "mend the line, and quote texts that hold commas."
            )
        yield Fields(path, line, dict(zip(names, cells, strict=True)))


def csv_names(path: Path) -> list[str]:
    """The header above :func:`csv_rows`; empty where there is none."""
    return _names(_records(path))


def _names(records: Iterator[tuple[int, list[str]]]) -> list[str]:
    _, cells = next(records, (0, []))
    return [name.strip() for name in cells]


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each record that is not blank."""
    csv.field_size_limit(sys.maxsize)  # prompts of 100,000 tokens exceed the default
    with open_text(path) as text:
        reader = csv.reader(text)
        try:
            for cells in reader:
                if len(cells) > 1 or "".join(cells).strip():
                    yield reader.line_num, cells
        except csv.Error as error:
            raise InputError(
                f"{path}, line {reader.line_num}: cannot be read as CSV ({error}): write it again."
            ) from error
