"""What a collection has measured so far, in a file that one process at a time goes on with."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from pars_export.errors import InputError


class KeptRows:
    """Rows by their key, one flushed line each, under a header that names the run.

    Attributes:
        rows: key to row.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Begin the file, or go on with it.

        Raises:
            InputError: another process is at work on it, it was begun with other settings, or it
                is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, _locked(path)
        try:
            lines = self._whole_lines(path)
            self.rows = _rows(path, lines, fingerprint)
            if not lines:
                self._write({"fingerprint": fingerprint})
        except BaseException:
            self._file.close()
            raise

    def add(self, row: dict[str, object]) -> None:
        """Keep a row.

        Raises:
            OSError: naming the file.
        """
        self._write(row)
        self.rows[str(row["key"])] = row

    def remove(self) -> None:
        """The rows are needed no more."""
        if os.name == "nt":  # an open file cannot be removed there, and nothing guards it
            self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> KeptRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _whole_lines(self, path: Path) -> list[str]:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # cut by a crash or a full disk; that response is measured again
            self._file.truncate(len(whole))
        return whole.decode("utf-8", "replace").splitlines()

    def _write(self, row: dict[str, object]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:  # a full disk is told without the file
            with suppress(OSError):
                self._file.close()  # tries once more
            raise OSError(error.errno, error.strerror, self._file.name) from error


def _rows(path: Path, lines: list[str], fingerprint: str) -> dict[str, dict[str, object]]:
    if not lines:
        return {}
    try:
        header, *rows = [json.loads(line) for line in lines]
        found = header["fingerprint"]
        measured = {str(row["key"]): row for row in rows}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it to measure again") from error
    if found != fingerprint:
        raise InputError(
            f"{path} was begun with other prompts or settings: repeat that command to go on, or "
            "delete the file to start again"
        )
    return measured


def _locked(path: Path) -> IO[str]:
    """The file, opened to append; until it is closed, no other process gets it.

    Where the system or the file's disk has no locks, nothing is guarded.
    """
    try:
        import fcntl
    except ImportError:
        return path.open("a", encoding="utf-8")
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(
                f"{path} is in use by another `pars collect`: wait for it, or give another --out"
            ) from None
        except OSError:
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its last owner removed it in between
