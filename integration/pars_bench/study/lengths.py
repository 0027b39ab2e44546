"""Requests drawn from measured response lengths, for traffic that has lengths but no times."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pars_bench.replay.traces import estimated_tokens
from pars_export.errors import InputError
from pars_export.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

LENGTHS, PROMPTS = "lengths.parquet", "prompts.parquet"


@dataclass(frozen=True)
class Samples:
    """One response of one LLM to every prompt of some data sets."""

    model: str
    config: str = ""
    """Generation settings; empty: the only ones there are."""


@dataclass(frozen=True)
class LengthSource:
    """Where a traffic's lengths come from."""

    datasets: tuple[str, ...]
    samples: Samples
    unit: str
    """Of the lengths: what was counted."""
    rerun: Samples | None = None
    """Another response of the same LLM to the same prompts."""

    @property
    def words(self) -> str:
        """For the page."""
        config = f" ({self.samples.config})" if self.samples.config else ""
        rerun = "" if self.rerun is None else f"; rerun: {self.rerun.model}"
        if self.rerun is not None and self.rerun.config:
            rerun += f" ({self.rerun.config})"
        return f"{' + '.join(self.datasets)}, {self.samples.model}{config}, {self.unit}{rerun}"


def write_requests(
    data: Path, source: LengthSource, requests: int, seed: int, path: Path
) -> tuple[int, int]:
    """Draw requests and write them as traffic that ``pars replay --trace`` reads, without times.

    While there are prompts enough none is drawn twice. Every request comes with its prompt's text,
    for predictors that read it.

    Args:
        data: Folder with ``lengths.parquet`` and ``prompts.parquet``.
        source: Which lengths.
        requests: How many.
        seed: Of the drawing.
        path: Where to write, as CSV.

    Returns:
        Requests drawn, and prompts they were drawn from.

    Raises:
        InputError: the tables cannot be read or hold no such lengths.
    """
    items = _items(data, source)
    random = np.random.default_rng([seed, 5])
    count = len(items)
    places = (
        random.permutation(count)[:requests]
        if requests <= count
        else random.integers(count, size=requests)
    )
    columns = ("prompt", "prompt_tokens", "output_tokens", "rerun_tokens")
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns[: len(items[0])])
        writer.writerows(items[place] for place in places.tolist())
    return len(places), count


def _items(data: Path, source: LengthSource) -> list[tuple[str | int, ...]]:
    """(prompt, its tokens, response and perhaps rerun tokens) of every prompt, in their order."""
    import pyarrow.compute as pc

    prompts = _read(data / PROMPTS, source, "prompt")
    lengths = _read(data / LENGTHS, source, "model", "gen_config", "length")
    columns = []
    for samples in (source.samples, source.rerun):
        if samples is None:
            continue
        chosen = lengths.filter(pc.equal(lengths["model"].cast("string"), samples.model))
        if samples.config:
            chosen = chosen.filter(pc.equal(chosen["gen_config"].cast("string"), samples.config))
        columns.append(
            {(row["dataset"], row["prompt_id"]): row["length"] for row in chosen.to_pylist()}
        )
    items = [
        (
            row["prompt"],
            estimated_tokens(row["prompt"]),
            *(max(1, column[key]) for column in columns),
        )
        for row in prompts.to_pylist()
        if all((key := (row["dataset"], row["prompt_id"])) in column for column in columns)
    ]
    if not items:
        raise InputError(f"{data / LENGTHS} holds no lengths of {source.words}.")
    return items


def _read(path: Path, source: LengthSource, *more: str) -> pa.Table:
    """The rows of the source's data sets: ``dataset``, ``prompt_id`` and ``more`` columns."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = ["dataset", "prompt_id", *more]
    try:
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        problem = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as Parquet with {', '.join(columns)} ({problem}): give "
            f"--data-root a folder with {LENGTHS} and {PROMPTS}."
        ) from error
    return table.filter(
        pc.is_in(table["dataset"].cast("string"), value_set=pa.array(source.datasets))
    )
