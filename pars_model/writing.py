"""Length tables as files, of the kinds that :mod:`pars_model.rows` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pars_export.errors import InputError

Rows = Sequence[Mapping[str, object]]


def writer_of(out: Path) -> Callable[[Path, Rows], None]:
    """What writes rows, each with the same keys, to a file of this kind.

    Raises:
        InputError: no table is of that kind.
    """
    if out.suffix.lower() not in _WRITERS:
        raise InputError(
            f"--out {out} ends in {out.suffix or 'nothing'}: expected {', '.join(_WRITERS)}"
        )
    return _WRITERS[out.suffix.lower()]


def _write_parquet(path: Path, rows: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, OverflowError) as error:
        raise InputError(
            f"A column cannot be written as Parquet ({error}): leave it out of the table."
        ) from error
    pq.write_table(table, path, compression="zstd")


def _write_jsonl(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_line(row) + "\n" for row in rows)


def _line(row: Mapping[str, object]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    # A lone surrogate has no UTF-8, and is written by its number.
    return text if text.isascii() or _encodes(text) else json.dumps(row)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


_WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
}
