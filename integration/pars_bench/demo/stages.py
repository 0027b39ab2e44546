"""Stages that run once: what is unchanged since the last run is kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pars_export.files import atomic_file, sha256_file


def digest(inputs: Sequence[object]) -> str:
    """sha256 over values and over the content of files and folders among them."""
    return hashlib.sha256(json.dumps([_content(value) for value in inputs]).encode()).hexdigest()


def _content(value: object) -> object:
    if not isinstance(value, Path):
        return value
    if value.is_dir():
        files = sorted(path for path in value.rglob("*") if path.is_file())
        return [(str(path.relative_to(value)), sha256_file(path)) for path in files]
    return sha256_file(value)


@dataclass(frozen=True)
class Done:
    """What the ledger remembers of a finished stage."""

    title: str
    digest: str
    seconds: float
    kept: bool
    """True when this run found it finished and unchanged."""


class Ledger:
    """Runs stages and remembers, in one JSON file, from which inputs each was made."""

    def __init__(self, path: Path, say: Callable[[str], None] = print) -> None:
        self._path = path
        self._say = say
        self._old: dict[str, dict[str, object]] = {}
        if path.is_file():
            # A ledger that cannot be read remembers nothing: every stage runs again.
            with contextlib.suppress(json.JSONDecodeError):
                self._old = json.loads(path.read_text())
        self.done: list[Done] = []

    def run(
        self,
        title: str,
        inputs: Sequence[object],
        outputs: Sequence[Path],
        action: Callable[[], object],
    ) -> None:
        """Run ``action`` unless ``outputs`` exist and were made from the same ``inputs``.

        ``inputs`` are values and paths (a path counts by its content).
        """
        key = digest([title, *inputs])
        old = self._old.get(title)
        if old and old["digest"] == key and all(path.exists() for path in outputs):
            seconds = float(str(old["seconds"]))
            self._say(f"== {title}: unchanged, kept")
            self.done.append(Done(title, key, seconds, kept=True))
            return
        self._say(f"== {title}")
        start = time.monotonic()
        action()
        seconds = time.monotonic() - start
        self._say(f"== {title}: {seconds:.0f} s")
        self.done.append(Done(title, key, seconds, kept=False))
        self._old[title] = {"digest": key, "seconds": round(seconds, 1)}
        with atomic_file(self._path) as temporary:
            temporary.write_text(json.dumps(self._old, indent=1) + "\n")

    def summary(self) -> str:
        """A table of the stages and the time each took."""
        width = max(len(stage.title) for stage in self.done)
        lines = [
            f"  {stage.title:<{width}}  {stage.seconds:6.0f} s{'  (kept)' if stage.kept else ''}"
            for stage in self.done
        ]
        spent = sum(stage.seconds for stage in self.done if not stage.kept)
        return "\n".join([*lines, f"  {'this run':<{width}}  {spent:6.0f} s"])
