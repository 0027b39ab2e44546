"""Files that are written once, and anew where what they are made of has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pars_export.files import atomic_file
from pars_model.experiments.code_digest import source_digest


def made(
    path: Path, sources: Sequence[Path], code: Sequence[str], write: Callable[[Path], None]
) -> Path:
    """Write ``path`` unless it is there and was made of the same; return it.

    What it was made of stands in a file beside it. Sources, which may be large, are known by their
    place, size and time of change.

    Args:
        path: the file.
        sources: files that it is made of.
        code: names of the modules that it is made by.
        write: writes it to a path.
    """
    note = path.with_name(f"{path.name}.made_of.json")
    made_of = json.dumps({"sources": _stamps(sources), "code": source_digest(code)}, indent=1)
    if path.is_file() and note.is_file() and note.read_text(encoding="utf-8") == made_of:
        return path
    note.unlink(missing_ok=True)  # first: an interrupt leaves no new file beside an old note
    with atomic_file(path) as temporary:
        write(temporary)
    with atomic_file(note) as temporary:
        temporary.write_text(made_of, encoding="utf-8")
    return path


def _stamps(files: Sequence[Path]) -> dict[str, list[int]]:
    stats = {str(file.resolve()): file.stat() for file in files}
    return {name: [found.st_size, found.st_mtime_ns] for name, found in stats.items()}
