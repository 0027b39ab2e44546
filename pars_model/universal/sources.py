"""The listed lengths that the default predictor may learn from, and nothing else.

Each is permissively licensed, prompts and answers alike: of public evaluations by LLMs under
Apache-2.0 or MIT, and of prompts that were written and measured for this project.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_model.experiments.cells import cut_off, read_dataset

LISTING = Path(__file__).parent / "sources.json"
"""Name of each source to its number of rows and their digest."""

_MATHS = r"Sky-T1|Qwen2.5-(?:14B|32B)"
_ZERO = r"^(?:Mixtral|Mistral-Nemo|Phi-3|Qwen2-7B|Yi-1.5)"


@dataclass(frozen=True)
class Source:
    """Lengths of one data set."""

    dataset: str
    llms: str
    """Regular expression that the names of its LLMs match."""
    family: str
    """Data sets of one family are of one kind of prompt, or share prompts: left out together."""
    licence: str
    """Of prompts and answers."""
    table: str = ""
    """Of lengths measured for this project, where they are: package and path in it."""


SOURCES = (
    Source(
        "oasst_eval",
        r"(?i)pythia|open-llama-chat|oasst-1_12b|oasst-sft-[01]|deepseek-v3",
        "chat",
        "Apache-2.0 (OpenAssistant); DeepSeek-V3's answers MIT",
    ),
    Source("mmlu_pro", r"^(?:Mistral|Mixtral|Phi-3|Yi-|mathstral)", "exam", "MIT, Apache-2.0"),
    Source("zeroeval_gsm", _ZERO, "grade school", "MIT, Apache-2.0"),
    Source("r1distill_gsm8k", r"Qwen", "grade school", "MIT"),
    Source("zeroeval_math_l5", _ZERO, "mathematics", "MIT, Apache-2.0"),
    Source("skythought_math500", _MATHS, "mathematics", "Apache-2.0, MIT"),
    Source("skythought_minerva_math", _MATHS, "mathematics", "Apache-2.0"),
    Source("skythought_amc23", _MATHS, "mathematics", "Apache-2.0"),
    Source("skythought_aime24", _MATHS, "mathematics", "Apache-2.0"),
    Source("r1distill_math500", r"Qwen", "mathematics", "MIT"),
    Source("zeroeval_crux", _ZERO, "code reading", "MIT, Apache-2.0"),
)
_OURS = "Apache-2.0 (this project, SmolLM2-135M-Instruct)"
OWN = (
    Source("pars-demo", "", "own prompts", _OURS, "pars_bench:demo/lengths.parquet"),
    Source(
        "pars-instructions",
        "",
        "own instructions",
        _OURS,
        "pars_model.universal:instructions/lengths.parquet",
    ),
)
LISTED = (*SOURCES, *OWN)
_PARTS = ("alpaca_52k", "instructionwild_llama", "mmlu_pro")
"""Data sets whose `gen_config` names a part of them (a subject, a file) and not how was decoded: an
LLM's lengths are ranked over all of them together."""
FAMILIES = tuple(dict.fromkeys(source.family for source in LISTED))


def family_of(dataset: str) -> str:
    """Family of a listed data set."""
    return next(source.family for source in LISTED if source.dataset == dataset)


def write_dataset(root: Path, dataset: str, path: Path) -> None:
    """Write the lengths of all LLMs on one data set as a length table, to judge on, not to learn.

    Raises:
        InputError: a file is missing.
    """
    _write(list(_public(Source(dataset, "", "", ""), root)), path)


def write_listed(root: Path, path: Path, check: bool = True) -> dict[str, dict[str, object]]:
    """Write all listed lengths as one length table.

    Args:
        root: folder of ``prompts.parquet`` and ``lengths.parquet``.
        path: the table, Parquet.
        check: refuse lengths that are not those of `LISTING`.

    Returns:
        Of each source, how many rows it has and their digest.

    Raises:
        InputError: a file is missing, or holds other lengths than listed.
    """
    rows: list[dict[str, Any]] = []
    found: dict[str, dict[str, object]] = {}
    for source in LISTED:
        mine = list(_own(source) if source.table else _public(source, root))
        found[source.dataset] = {"rows": len(mine), "sha256": _digest(mine)}
        rows += mine
    listed = json.loads(LISTING.read_text(encoding="utf-8")) if check else found
    for name, entry in found.items():
        if entry != listed.get(name):
            raise InputError(
                f"{root}: the lengths of {name} are {entry}, and {listed.get(name)} are listed in "
                f"{LISTING.name}; give the data that the default predictor was built from."
            )
    _write(rows, path)
    return found


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def _public(source: Source, root: Path) -> Iterable[dict[str, Any]]:
    text, lengths = read_dataset(root, source.dataset)
    pattern = re.compile(source.llms)
    for row in lengths:
        if pattern.search(row["model"]):
            yield {
                "dataset": source.dataset,
                "prompt": text[row["prompt_id"]],
                "model": row["model"],
                "config": "" if source.dataset in _PARTS else row["gen_config"] or "",
                "response_tokens": int(row["length"]),
                "finish_reason": "length" if cut_off(row) else None,
            }


def _own(source: Source) -> Iterable[dict[str, Any]]:
    import pyarrow.parquet as pq

    # A resource, not an import: a package may measure with more than training needs.
    package, _, path = source.table.partition(":")
    table = pq.read_table(str(files(package).joinpath(path)))
    for row in table.to_pylist():
        yield {
            "dataset": source.dataset,
            "prompt": row["prompt"],
            "model": row["model"],
            # Cut off at different lengths, they are not to be ranked together.
            "config": f"{row['config']}, at most {row['max_tokens']}",
            "response_tokens": int(row["response_tokens"]),
            "finish_reason": row["finish_reason"],
        }


def _digest(rows: Iterable[Mapping[str, object]]) -> str:
    """Of the rows as a set: their order in a file means nothing."""
    lines = sorted(json.dumps(row, sort_keys=True, ensure_ascii=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
