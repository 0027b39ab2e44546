"""Rows of a length table, read from Parquet, JSONL or CSV and checked one by one."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pars_export.errors import InputError
from pars_export.facts import NAMES, Facts

SUFFIXES = (".parquet", ".jsonl", ".csv")
CUT_OFF = ("length", "max_tokens")
"""What servers call the end of a response that reached its cap, in lower case."""
_ENCODING = "utf-8-sig"
"""UTF-8; a byte-order mark, which spreadsheets write, is no part of the first name."""


@dataclass(frozen=True)
class Row:
    """One measured response.

    Attributes:
        text: what the ranker reads of the prompt or messages.
        length: tokens of the response.
        censored: the response was cut off at its cap: `finish_reason` says so, or there is none and
            it has `max_tokens` tokens or more.
        model: the LLM; ``""`` where the table does not say.
        dataset: where the prompt comes from.
        config: generation settings.
        split: train, val or test; ``""`` where the table has no such column.
        unit: what the length counts, such as the name of a tokenizer; ``""`` where the table does
            not say.
        facts: what was known of the request at its arrival beside the text.
        unread: names of facts whose value is there and was no such fact.
    """

    text: str
    length: int
    censored: bool
    model: str
    dataset: str
    config: str
    split: str
    unit: str
    facts: Facts
    unread: tuple[str, ...] = ()


def read_rows(path: Path) -> list[Row]:
    """All rows of a table; see :func:`pars_model.lengths.read_lengths` for what is refused."""
    return [row for row, _ in read_raw(path)]


def read_raw(path: Path) -> list[tuple[Row, Mapping[str, object]]]:
    """All rows of a table, as `read_rows`, and beside each its fields as they stand in the file."""
    names, raw = _read(path)
    if not names:
        return []
    if "response_tokens" not in names:
        raise InputError(_missing(path, "response_tokens", names))
    if "prompt" not in names and "messages" not in names:
        raise InputError(_missing(path, "prompt (or messages)", names))
    tools = "tools" in names  # then a row without any had none
    return [
        (_row(f"{path}, row {number}", fields, tools), fields)
        for number, fields in enumerate(raw, start=1)
    ]


def _missing(path: Path, column: str, names: Sequence[str]) -> str:
    found = ", ".join(names) or "none"
    return (
        f"{path} has no column {column}: found {found}; a length table needs prompt (or messages) "
        "and response_tokens."
    )


def _read(path: Path) -> tuple[list[str], Iterator[Mapping[str, object]]]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path} ends in {path.suffix or 'no suffix'!r}, but a length table is Parquet, "
            f"JSONL or CSV by its suffix ({', '.join(SUFFIXES)}): rename or convert it."
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file: give the path of a length table.")
    return reader(path)


def _read_parquet(path: Path) -> tuple[list[str], Iterator[Mapping[str, object]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({_first_line(error)}): write it again."
        ) from error
    rows = (row for batch in table.to_batches(max_chunksize=10_000) for row in batch.to_pylist())
    return list(table.column_names), rows


def _read_jsonl(path: Path) -> tuple[list[str], Iterator[Mapping[str, object]]]:
    rows: list[Mapping[str, object]] = []
    names: dict[str, None] = {}
    with path.open(encoding=_ENCODING) as file:
        for number, line in enumerate(_decoded(path, file), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}, line {number}: not valid JSON ({error.msg}); expected one object "
                    "per line."
                ) from error
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}, line {number}: found a {type(row).__name__}; expected one JSON "
                    "object per line."
                )
            names.update(dict.fromkeys(row))
            rows.append(row)
    return list(names), iter(rows)


def _read_csv(path: Path) -> tuple[list[str], Iterator[Mapping[str, object]]]:
    csv.field_size_limit(sys.maxsize)  # prompts of 100,000 tokens exceed the default
    with path.open(encoding=_ENCODING, newline="") as file:
        reader = csv.DictReader(_decoded(path, file))
        try:
            names = list(reader.fieldnames or [])
            rows = list(reader)
        except csv.Error as error:
            raise InputError(f"{path} cannot be read as CSV ({error}): write it again.") from error
    return names, iter(rows)


READERS: dict[str, Callable[[Path], tuple[list[str], Iterator[Mapping[str, object]]]]] = dict(
    zip(SUFFIXES, (_read_parquet, _read_jsonl, _read_csv), strict=True)
)


def _decoded(path: Path, lines: Iterator[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _row(where: str, fields: Mapping[str, object], tools: bool) -> Row:
    text = _text(where, fields)  # refuses a list that cannot be read
    offered = bool(_list("tools", fields.get("tools"))) if tools else None
    values = {**fields, "tools": offered}
    if not _empty(values.get("prompt_tokens")):
        _whole_number(where, "prompt_tokens", values["prompt_tokens"])
    facts = Facts.of(values)
    if facts.max_tokens == 0:  # logs have it for none, and nobody serves an answer of none
        values["max_tokens"] = None
        facts = replace(facts, max_tokens=None)
    length = _whole_number(where, "response_tokens", fields.get("response_tokens"))
    if not _empty(fields.get("reasoning_tokens")):
        _check_reasoning(where, fields["reasoning_tokens"], length)
    return Row(
        text=text,
        length=length,
        censored=_cut_off(fields.get("finish_reason"), length, facts.max_tokens),
        model=_name(fields.get("model")),
        dataset=_name(fields.get("dataset")),
        config=_name(fields.get("config")),
        split=_split(where, fields.get("split")),
        unit=_name(fields.get("unit")),
        facts=facts,
        unread=tuple(
            name for name in NAMES if getattr(facts, name) is None and not _empty(values.get(name))
        ),
    )


def _cut_off(finish_reason: object, length: int, cap: int | None) -> bool:
    """Whether a response ended at its cap: as the table says, else where it is that long."""
    if _empty(finish_reason):
        return cap is not None and cap <= length
    return str(finish_reason).lower() in CUT_OFF


def _check_reasoning(where: str, value: object, length: int) -> None:
    reasoning = _whole_number(where, "reasoning_tokens", value)
    if reasoning > length:
        raise InputError(
            f"{where}: reasoning_tokens is {reasoning} and response_tokens {length}; "
            "response_tokens is the whole response, reasoning included: add the two up."
        )


def _empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _name(value: object) -> str:
    return "" if value is None else str(value)


def _split(where: str, value: object) -> str:
    if value is None or value in ("", "train", "val", "test"):
        return str(value or "")
    raise InputError(f"{where}: split is {value!r}; expected train, val or test.")


def _whole_number(where: str, column: str, value: object) -> int:
    number: object = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, float) and math.isfinite(number) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InputError(
            f"{where}: {column} is {value!r}; expected a whole number of tokens, 0 or more: "
            "mend or drop the row."
        )
    return number


def _text(where: str, fields: Mapping[str, object]) -> str:
    from pars_export.inputs import clean, text_of

    prompt, messages, tools = (fields.get(key) for key in ("prompt", "messages", "tools"))
    if not isinstance(prompt, str) and (prompt is not None or not messages):
        raise InputError(
            f"{where}: prompt is {_shown(prompt)}; expected a text (or messages): mend or drop "
            "the row."
        )
    try:
        return clean(
            text_of(
                prompt=None if messages else prompt,
                messages=_list("messages", messages),
                tools=_list("tools", tools),
            )
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _list(column: str, value: object) -> list[dict[str, object]] | None:
    if not value:
        return None
    if isinstance(value, str):  # CSV has no lists, and Parquet none of mixed shape
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise InputError(
                f"{column} is {_shown(value)}; expected a JSON list of objects."
            ) from None
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise InputError(f"{column} is {_shown(value)}; expected a list of objects.")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
