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
        InputError: a table is no such file.
    """
    if out.suffix not in _WRITERS:
        raise InputError(
            f"--out {out} ends in {out.suffix or 'nothing'}: expected {', '.join(_WRITERS)}"
        )
    return _WRITERS[out.suffix]


def _write_parquet(path: Path, rows: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def _write_jsonl(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


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
