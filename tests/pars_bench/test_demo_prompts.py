"""The shipped prompts: what their generator gives, split by template, varied."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pars_bench.demo import prompts
from pars_bench.demo.prompts import COUNTS, FOLDER, PROMPTS, SPLITS, TEMPLATES
from pars_model.templates import fill


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]


def test_the_generator_rewrites_the_shipped_file_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "PROMPTS", tmp_path / "prompts.jsonl")
    assert prompts.main() == 0
    written = (tmp_path / "prompts.jsonl").read_bytes()
    assert written == (FOLDER / "prompts.jsonl").read_bytes()


def test_rows_have_exactly_the_fields_that_collect_reads(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert set(row) == {
            "prompt_id", "prompt", "kind", "template", "split", "samples", "dataset"
        }  # fmt: skip
        assert row["dataset"] == "pars-demo"
        assert row["samples"] in (0, 4)
        assert row["prompt"] == row["prompt"].strip() != ""


def test_2000_distinct_prompts_under_distinct_ids(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 2000
    assert len({row["prompt"] for row in rows}) == 2000
    assert len({row["prompt_id"] for row in rows}) == 2000


def test_every_kind_is_in_every_split_in_the_stated_number(rows: list[dict[str, Any]]) -> None:
    found = Counter((row["kind"], row["split"]) for row in rows)
    stated = {
        (kind, split): count
        for kind, counts in COUNTS.items()
        for split, count in zip(SPLITS, counts, strict=True)
    }
    assert found == stated
    assert min(stated.values()) > 0
    assert Counter(row["split"] for row in rows) == {"train": 1350, "val": 250, "test": 400}


def test_no_template_is_in_two_splits(rows: list[dict[str, Any]]) -> None:
    splits = defaultdict(set)
    for row in rows:
        splits[row["template"]].add(row["split"])
    assert [template for template, where in splits.items() if len(where) > 1] == []


def test_no_two_templates_of_different_splits_read_the_same() -> None:
    # Names alone would not show a template that was copied into another split.
    seen: dict[str, str] = {}
    for path in TEMPLATES.glob("*.toml"):
        tables = tomllib.loads(path.read_text("utf-8"))
        for split in SPLITS:
            for text in tables.get(split, {}).values():
                words = re.sub(r"[^a-z ]", "", re.sub(r"\{[^}]*\}", "", text.lower()))
                bare = " ".join(words.split())
                assert seen.setdefault(bare, split) == split, text


def test_openings_and_passages_belong_to_one_split() -> None:
    topics = tomllib.loads((TEMPLATES / "topics.toml").read_text("utf-8"))
    for stem in ("opening", "passage"):
        values = [value for split in SPLITS for value in topics[f"{stem}_{split}"]]
        assert len(values) == len(set(values))
    for path in TEMPLATES.glob("*.toml"):
        tables = tomllib.loads(path.read_text("utf-8"))
        for split in SPLITS:
            used = set(re.findall(r"\{passage_([a-z]+)", json.dumps(tables.get(split, {}))))
            assert used <= {split}, path.name


def test_no_slot_is_left_unfilled(rows: list[dict[str, Any]]) -> None:
    left = re.compile(r"\{[a-z_0-9]+(\.\d)?\}|\{\d+\.\.\d+\}")
    # a{2,3} is a regular expression that one prompt asks about, not a slot.
    assert [row["prompt"] for row in rows if left.search(row["prompt"])] == []


def test_sampled_prompts_are_spread_over_kinds_and_splits(rows: list[dict[str, Any]]) -> None:
    sampled = Counter(row["split"] for row in rows if row["samples"])
    assert sum(sampled.values()) >= 400
    assert sampled["train"] >= 230
    assert sampled["val"] >= 50
    assert sampled["test"] >= 100
    assert {(row["kind"], row["split"]) for row in rows if row["samples"]} == {
        (kind, split) for kind in COUNTS for split in SPLITS
    }


def test_prompt_lengths_spread_and_long_prompts_ask_for_short_answers_too(
    rows: list[dict[str, Any]],
) -> None:
    words = sorted(len(row["prompt"].split()) for row in rows)
    assert words[0] <= 5
    assert words[-1] >= 150
    assert sum(count > 60 for count in words) > 300
    brief = {"one_word", "number", "yes_no", "choice", "classify"}
    extended = {"story", "essay", "dialogue", "proof", "code", "explanation"}
    long_brief = [r for r in rows if r["kind"] in brief and len(r["prompt"].split()) > 80]
    short_extended = [r for r in rows if r["kind"] in extended and len(r["prompt"].split()) < 15]
    assert len(long_brief) > 40
    assert len(short_extended) > 150


@given(st.text(max_size=20))
def test_filling_is_a_function_of_the_key_and_keeps_bound_values_apart(key: str) -> None:
    fields = {"a": ["x", "y", "z"], "b": ["{a} and {a.2}"]}
    text = fill("{a} {a} {a.2} {b} {3..5}", fields, key)
    assert text == fill("{a} {a} {a.2} {b} {3..5}", fields, key)
    first, again, second, *rest, number = text.split()
    assert first == again != second
    assert rest == [first, "and", second]
    assert 3 <= int(number) <= 5


def test_a_value_with_a_number_reads_the_same_wherever_it_recurs() -> None:
    fields = {"note": ["room {1..100000}"]}
    first, second = fill("{note}; {note}", fields, "k").split("; ")
    assert first == second


def test_json_braces_are_no_slots() -> None:
    assert fill('{"a": {1..1}, "b": ""}', {}, "k") == '{"a": 1, "b": ""}'


def test_a_word_list_too_short_for_its_prompt_is_named() -> None:
    with pytest.raises(ValueError, match="word list a is too short"):
        fill("{a} {a.2}", {"a": ["only"]}, "k")
    with pytest.raises(KeyError, match="unknown"):
        fill("{unknown}", {}, "k")
