from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_bench.promptfile import read_prompts
from pars_export.errors import InputError

CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_prompt_becomes_one_user_turn(tmp_path: Path) -> None:
    (found,) = read_prompts(
        lines(tmp_path / "a.jsonl", {"prompt": "Hi \u00e9", "kind": "x", "prompt_id": 7})
    )
    assert found.messages == ({"role": "user", "content": "Hi \u00e9"},)
    assert (found.text, found.kind, found.prompt_id) == ("Hi \u00e9", "x", "7")


def test_messages_are_sent_as_they_are_and_read_as_the_predictor_reads_them(tmp_path: Path) -> None:
    from pars_export.inputs import text_of

    (found,) = read_prompts(lines(tmp_path / "a.jsonl", {"messages": CHAT}))
    assert list(found.messages) == CHAT
    assert found.text == text_of(messages=CHAT)
    assert found.prompt_id == "1"  # the row's number where there is no name


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "a", "prompt": "One\ntwo, three", "kind": "k", "messages": None},
        {"prompt_id": "b", "prompt": None, "kind": None, "messages": json.dumps(CHAT)},
    ]
    jsonl = read_prompts(lines(tmp_path / "p.jsonl", *rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    assert read_prompts(tmp_path / "p.parquet") == jsonl == read_prompts(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", "", "holds no prompts"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt"', "line 2, is not JSON"),
        ("a.jsonl", "[1]\n", "line 1, is not a JSON object"),
        ("a.jsonl", '{"prompt": 5}\n', "row 1: expected a text in `prompt`.*found 5"),
        ("a.jsonl", '{"prompt": ""}\n', "row 1: expected a text"),
        ("a.jsonl", '{"messages": "[oops"}\n', "row 1: messages is not JSON"),
        ("a.jsonl", '{"messages": ["x"]}\n', "row 1: messages must be a list of objects"),
        ("a.csv", "question\nwhy\n", "row 1: expected a text in `prompt`"),
        ("a.parquet", "not parquet", "is not a Parquet file"),
        ("a.txt", "x", "expected .jsonl, .parquet or .csv"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl does not exist"):
        read_prompts(tmp_path / "none.jsonl")
