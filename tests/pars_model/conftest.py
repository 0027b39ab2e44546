"""A tiny real encoder folder, and length tables to train it on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_predictor import tiny_config, tiny_tokenizer_json
from transformers import BertConfig, BertModel

MakeRows = Callable[..., list[dict[str, Any]]]
"""Number of prompts (and seed, more columns) to rows of a length table."""
MakeDataRoot = Callable[[Path, Sequence[Mapping[str, object]]], Path]
MakeTable = Callable[..., Path]
"""Rows (and file name) to a length table on disk."""

KINDS = {"word": 3, "list": 40, "story": 400}
WORDS = [*KINDS, "write", "a", "about", "one", "two", "the", "moon", "sea", "of"]


def write_encoder(folder: Path) -> Path:
    tokenizer_json = tiny_tokenizer_json(WORDS)
    torch.manual_seed(0)
    config = BertConfig(**tiny_config(tokenizer_json))
    BertModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def rows_of(prompts: int, seed: int = 0, **columns: object) -> list[dict[str, Any]]:
    """Prompts that name the kind of answer; its length follows, with noise."""
    rng = random.Random(seed)
    rows = []
    for number in range(prompts):
        kind = rng.choice(list(KINDS))
        rows.append(
            {
                "prompt": f"write a {kind} about the {rng.choice(['moon', 'sea'])} {number}",
                "response_tokens": max(1, round(KINDS[kind] * rng.lognormvariate(0, 0.2))),
                "model": "tiny",
                **columns,
            }
        )
    return rows


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    def make(rows: Sequence[Mapping[str, object]], name: str = "lengths.jsonl") -> Path:
        return write_jsonl(tmp_path / name, rows)

    return make


@pytest.fixture
def make_rows() -> MakeRows:
    return rows_of


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 prompts of one LLM; the encoder learns them in a few epochs."""
    return write_jsonl(tmp_path_factory.mktemp("table") / "lengths.jsonl", rows_of(120))


@pytest.fixture
def make_data_root() -> MakeDataRoot:
    return write_data_root


def write_data_root(folder: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Rows as prompts.parquet and lengths.parquet; rows of one prompt are its samples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {str(row["prompt"]): str(number) for number, row in enumerate(rows)}
    lengths = [
        {
            "dataset": "kinds",
            "prompt_id": names[str(row["prompt"])],
            "model": row["model"],
            "sample": number,
            "length": row["response_tokens"],
            "max_new_tokens": -1,
            "finish": None,
        }
        for number, row in enumerate(rows)
    ]
    prompts = [
        {"dataset": "kinds", "prompt_id": name, "prompt": text} for text, name in names.items()
    ]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(prompts), folder / "prompts.parquet")
    pq.write_table(pa.Table.from_pylist(lengths), folder / "lengths.parquet")
    return folder
