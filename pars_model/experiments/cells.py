"""Cells of the real response lengths: one LLM on one data set, as a length table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pars_export.errors import InputError
from pars_model.experiments.made import made

FILES = ("prompts.parquet", "lengths.parquet")
CODE = ("pars_model.experiments.cells", "pars_model.lengths")
"""Modules that a cell's table depends on."""


@dataclass(frozen=True)
class Cell:
    """One LLM on one data set.

    Attributes:
        dataset: name of the data set, as in ``lengths.parquet``.
        llm: name of the LLM, as there.
        title: how a table calls the cell.
        reasoning: whether the LLM thinks before it answers.
        prompts: most prompts, the first by a hash of the text; 0 for all.
        hosts: further names of the same LLM there, those of other hosts; what they answer are
            further samples.
        more: further data sets of the same LLM.
    """

    dataset: str
    llm: str
    title: str
    reasoning: bool = False
    prompts: int = 0
    hosts: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """A name for files."""
        name = "-".join([self.dataset, *self.more, self.llm, *self.hosts])
        name += f"-{self.prompts}" if self.prompts else ""
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def write_table(cell: Cell, root: Path, folder: Path) -> Path:
    """Write a cell's length table into ``folder`` unless it is there, of ``root``; return its path.

    All lengths of a prompt are samples of one item, whatever the decoding; a text that the source
    has under several ids, or in several of the data sets, counts under the first alone. A response
    is cut off where the source says so, or where it reached the cap that the source names.

    Raises:
        InputError: a file is missing, or has no such data set or LLM.
    """
    _require_files(root)
    return made(
        folder / f"{cell.slug}.parquet",
        [root / name for name in FILES],
        CODE,
        lambda path: _write(cell, root, path),
    )


def _write(cell: Cell, root: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pars_model.lengths import text_fraction

    rows = [row for dataset in (cell.dataset, *cell.more) for row in _rows(cell, dataset, root)]
    first: dict[str, tuple[str, str]] = {}
    rows = [row for row in rows if first.setdefault(row["prompt"], _id(row)) == _id(row)]
    if cell.prompts:
        few = set(sorted(first, key=text_fraction)[: cell.prompts])
        rows = [row for row in rows if row["prompt"] in few]
    columns: dict[str, list[Any]] = {
        "prompt": [row["prompt"] for row in rows],
        "response_tokens": [row["length"] for row in rows],
        "model": [cell.llm] * len(rows),
        "dataset": [row["dataset"] for row in rows],
        "sample": [row["sample"] for row in rows],
        "finish_reason": ["length" if cut_off(row) else None for row in rows],
    }
    pq.write_table(pa.table(columns), path)


def _rows(cell: Cell, dataset: str, root: Path) -> list[dict[str, Any]]:
    """Lengths of the cell's LLM on one data set, each with its ``prompt``."""
    texts, lengths = read_dataset(root, dataset)
    names = (cell.llm, *cell.hosts)
    rows = [row for row in lengths if row["model"] in names and row["prompt_id"] in texts]
    if not rows:
        known = sorted({str(row["model"]) for row in lengths})[:5]
        found = f"has LLMs {', '.join(known)}, ..." if known else "is not there"
        raise InputError(
            f"{root / FILES[1]} has no lengths of {cell.llm} on {dataset}, which {found}."
        )
    return [{**row, "prompt": texts[row["prompt_id"]]} for row in rows]


def _id(row: dict[str, Any]) -> tuple[str, str]:
    return row["dataset"], row["prompt_id"]


def read_dataset(root: Path, dataset: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Texts of one data set by the id of the prompt, and the rows of all its lengths.

    Raises:
        InputError: a file is missing.
    """
    import pyarrow.parquet as pq

    _require_files(root)
    wanted = [("dataset", "==", dataset)]
    prompts = pq.read_table(root / FILES[0], filters=wanted).to_pylist()
    texts = {row["prompt_id"]: row["prompt"] for row in prompts}
    return texts, pq.read_table(root / FILES[1], filters=wanted).to_pylist()


def _require_files(root: Path) -> None:
    for name in FILES:
        if not (root / name).is_file():
            raise InputError(
                f"{root / name} does not exist: give the folder of {' and '.join(FILES)} by "
                "--data-root."
            )


def cut_off(row: dict[str, Any]) -> bool:
    """Whether a row of the real lengths ended at its cap, as far as the source says."""
    cap = row["max_new_tokens"]
    return row["finish"] == "length" or (cap is not None and 0 < cap <= row["length"])
