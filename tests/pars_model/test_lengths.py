"""Length tables: formats, samples, censoring, splits, and every refusal."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pars_export.errors import InputError
from pars_model.lengths import (
    censored_median,
    read_lengths,
    require_pairs,
    silent_groups,
    split_prompts,
    text_fraction,
)

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows, MakeTable

ROWS = [
    {"prompt": "one", "response_tokens": 3, "model": "a", "dataset": "x", "finish_reason": "stop"},
    {"prompt": "one", "response_tokens": 9, "model": "a", "dataset": "x", "finish_reason": "stop"},
    {"prompt": "one", "response_tokens": 5, "model": "a", "dataset": "x", "finish_reason": "stop"},
    {"prompt": "two\nlines", "response_tokens": 64, "model": "a", "finish_reason": "length"},
    {"prompt": "one", "response_tokens": 7, "model": "b", "dataset": "x", "finish_reason": None},
]


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({n: [row.get(n) for row in rows] for n in names}), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_the_three_formats_read_alike(tmp_path: Path, suffix: str) -> None:
    table = read_lengths(write(tmp_path / f"t.{suffix}", ROWS))
    assert table.prompts == ("one", "two\nlines")
    assert [str(group) for group in table.groups] == ["a", "b"]
    assert table.datasets == ("x", "")
    assert table.length.tolist() == [5, 64, 7]
    assert table.censored.tolist() == [False, True, False]
    assert table.samples_of(0)[0].tolist() == [3, 9, 5]
    assert not table.has_split


def test_a_response_is_cut_off_where_the_table_says_so_or_where_it_reached_its_cap(
    make_table: MakeTable,
) -> None:
    rows = [
        {"prompt": f"p{number}", "response_tokens": tokens, "max_tokens": 64, "finish_reason": said}
        for number, (tokens, said) in enumerate(
            [(64, None), (63, None), (64, "stop"), (20, "MAX_TOKENS"), (65, ""), (64, "length")]
        )
    ]
    rows.append({"prompt": "no cap", "response_tokens": 5, "max_tokens": 0})
    table = read_lengths(make_table(rows))
    assert table.censored.tolist() == [True, False, False, True, True, True, False]


def test_samples_of_another_config_are_another_item_of_another_group(
    make_table: MakeTable,
) -> None:
    rows = [
        {"prompt": "p", "response_tokens": n, "model": "m", "config": c}
        for n, c in ((1, "greedy"), (8, "warm"), (9, "warm"))
    ]
    table = read_lengths(make_table(rows))
    assert [str(group) for group in table.groups] == ["m (greedy)", "m (warm)"]
    assert table.length.tolist() == [1, 8.5]


@pytest.mark.parametrize("encode", [json.dumps, lambda messages: messages])
def test_messages_are_read_as_in_serving(
    make_table: MakeTable, encode: Callable[[object], object]
) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    single = [{"role": "user", "content": "Hi"}]
    rows = [
        {"messages": encode(chat), "response_tokens": 1},
        {"messages": encode(single), "response_tokens": 2},
    ]
    assert read_lengths(make_table(rows)).prompts == ("system: Be brief.\nuser: Hi", "Hi")


def test_select_keeps_samples_with_their_items(make_table: MakeTable) -> None:
    table = read_lengths(make_table(ROWS))
    part = table.select(np.array([True, False, True]))
    assert part.length.tolist() == [5, 7]
    assert part.samples_of(0)[0].tolist() == [3, 9, 5]
    assert part.samples_of(1)[0].tolist() == [7]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=9),
)
def test_a_median_that_is_not_censored_is_the_true_one(responses: list[tuple[int, int]]) -> None:
    # What would have been said, and the cap of each response.
    truth = np.array([length for length, _ in responses], dtype=float)
    caps = np.array([cap for _, cap in responses], dtype=float)
    cut = truth > caps
    seen = np.minimum(truth, caps)
    median, is_bound = censored_median(seen, cut)
    if is_bound:
        assert median <= np.median(truth)
    else:
        assert median == np.median(truth)


def test_a_cut_off_sample_beyond_the_middle_changes_nothing() -> None:
    cut = np.array([False, False, True])
    assert censored_median(np.array([3.0, 5.0, 64.0]), cut) == (5.0, False)
    assert censored_median(np.array([3.0, 70.0, 64.0]), cut) == (64.0, True)


@pytest.mark.parametrize("value", [-4, 2.5, float("nan"), float("inf"), None, "many", True, [3]])
def test_lengths_that_are_no_token_counts_are_refused(make_table: MakeTable, value: object) -> None:
    rows = [{"prompt": "a", "response_tokens": 3}, {"prompt": "b", "response_tokens": value}]
    with pytest.raises(InputError, match=r"row 2: response_tokens is .* whole number"):
        read_lengths(make_table(rows))


def test_more_reasoning_than_response_is_refused(make_table: MakeTable) -> None:
    rows = [
        {"prompt": "a", "response_tokens": 9, "reasoning_tokens": 9},
        {"prompt": "b", "response_tokens": 3, "reasoning_tokens": None},
    ]
    assert read_lengths(make_table(rows)).length.tolist() == [9, 3]
    rows[1]["reasoning_tokens"] = 4
    with pytest.raises(InputError, match=r"row 2: reasoning_tokens is 4 and response_tokens 3"):
        read_lengths(make_table(rows))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t.{suffix}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_lengths(path).prompts == ("one", "two\nlines")


def test_whole_numbers_stored_as_floats_are_fine(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"prompt": ["a", "b"], "response_tokens": [3.0, 4.0]}), tmp_path / "t.parquet"
    )
    assert read_lengths(tmp_path / "t.parquet").length.tolist() == [3, 4]


@pytest.mark.parametrize("prompt", [None, 7, b"bytes", ["a"]])
def test_prompts_that_are_not_text_are_refused(tmp_path: Path, prompt: object) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"prompt": [prompt, prompt], "response_tokens": [1, 2]}), path)
    with pytest.raises(InputError, match=r"row 1: prompt is .*expected a text"):
        read_lengths(path)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "no rows"),
        (ROWS[:1], "one row"),
        ([{"prompt": "a"}, {"prompt": "b"}], "no column response_tokens: found prompt"),
        ([{"response_tokens": 1}] * 2, r"no column prompt \(or messages\)"),
        ([{**ROWS[0], "split": "dev"}] * 2, "split is 'dev'; expected train, val or test"),
        ([{**ROWS[0], "split": "train"}, ROWS[1]], "split is empty in some rows"),
        ([{"messages": "[{", "response_tokens": 1}] * 2, "row 1: messages is .* JSON list"),
        ([{"prompt": "a", "response_tokens": 1, "tools": "f"}] * 2, "row 1: tools is 'f'; .* JSON"),
        ([{"messages": [{"content": "a"}], "response_tokens": 1}] * 2, r"row 1: messages\[0\]"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(
    make_table: MakeTable, rows: list[dict[str, object]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_lengths(make_table(rows))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_lengths(tmp_path / "none.csv")
    for name, content, sentence in (
        ("t.xlsx", b"", "Parquet, JSONL or CSV"),
        ("t", b"", "no suffix"),
        ("t.parquet", b"PAR1 and nothing", "cannot be read as Parquet"),
        ("t.jsonl", b'{"prompt": "a"\n', "line 1: not valid JSON"),
        ("t.jsonl", b"[1]\n", "line 1: found a list"),
        ("t.csv", b"prompt,response_tokens\n\xff,3\n", "not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            read_lengths(tmp_path / name)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"prompt": p, "response_tokens": 3, "model": p} for p in "ab"], "a single prompt"),
        ([{"prompt": p, "response_tokens": 3} for p in "ab"], "are equal"),
        (
            [{"prompt": p, "response_tokens": n, "finish_reason": "length"}
             for p, n in (("a", 3), ("b", 4))],
            "all responses were cut off",
        ),
    ],
)  # fmt: skip
def test_tables_without_a_comparable_pair_are_refused(
    make_table: MakeTable, rows: list[dict[str, object]], reason: str
) -> None:
    table = read_lengths(make_table(rows))
    with pytest.raises(InputError, match=reason):
        require_pairs(table, "t.jsonl")


def test_one_llm_in_several_units_is_refused_and_several_llms_are_noted(
    make_table: MakeTable,
) -> None:
    def row(prompt: str, unit: str, **columns: str) -> dict[str, object]:
        return {"prompt": prompt, "response_tokens": 3, "unit": unit, **columns}

    with pytest.raises(InputError, match="unit of its one LLM holds 'cl100k' and 'words'"):
        read_lengths(make_table([row("a", "words"), row("b", "cl100k")]))
    mixed = [row("a", "", model="m", config="c"), row("b", "words", model="m", config="c")]
    with pytest.raises(InputError, match=r"unit of m \(c\) holds '' and 'words'"):
        read_lengths(make_table(mixed))
    apart = [row("a", "words", model="m"), row("b", "cl100k", model="n")]
    (note,) = read_lengths(make_table(apart)).notes
    assert "different units (cl100k, words)" in note
    assert read_lengths(make_table([row("a", "words"), row("b", "words")])).notes == ()


def test_llms_that_say_nothing_about_the_order_are_named(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    assert silent_groups(read_lengths(make_table(make_rows(9)))) is None
    rows = [
        *make_rows(9),
        {"prompt": "alone", "response_tokens": 3, "model": "single"},
        *({"prompt": p, "response_tokens": 3, "model": "equal"} for p in "ab"),
        *(
            {"prompt": p, "response_tokens": n, "model": "cut", "finish_reason": "length"}
            for p, n in (("a", 3), ("b", 4))
        ),
        *({"prompt": p, "response_tokens": 3, "config": "c"} for p in "ab"),
    ]
    found = silent_groups(read_lengths(make_table(rows)))
    assert found is not None
    assert found.startswith("4 of 5 LLMs and configs (single, equal, cut and 1 more)")


def test_the_split_depends_on_the_text_alone(make_table: MakeTable, make_rows: MakeRows) -> None:
    rows = make_rows(300)
    one = read_lengths(make_table(rows))
    other = read_lengths(make_table([{**row, "dataset": "d"} for row in reversed(rows)][:200]))
    first = dict(zip(one.prompts, split_prompts(one), strict=True))
    second = dict(zip(other.prompts, split_prompts(other), strict=True))
    assert second == {text: first[text] for text in other.prompts}
    counts = {split: list(first.values()).count(split) for split in ("train", "val", "test")}
    assert counts["train"] > 200
    assert counts["val"] > 10
    assert counts["test"] > 10


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_has_a_place_in_the_split(text: str) -> None:
    assert 0 <= text_fraction(text) < 1


def test_the_tables_own_split_is_honoured_and_lends_validation_prompts(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    rows = [
        {**row, "split": "test" if number % 3 == 0 else "train"}
        for number, row in enumerate(make_rows(300))
    ]
    table = read_lengths(make_table(rows))
    split = split_prompts(table)
    assert (split == "test").sum() == 100
    assert 5 < (split == "val").sum() < 40
    assert not ((split == "val") & (table.split == "test")).any()


def test_a_text_in_train_and_test_counts_for_the_test_only(make_table: MakeTable) -> None:
    rows = [
        {"prompt": "a", "response_tokens": 1, "split": "train"},
        {"prompt": "a", "response_tokens": 2, "split": "test", "dataset": "other"},
        {"prompt": "b", "response_tokens": 3, "split": "val"},
    ]
    table = read_lengths(make_table(rows))
    assert table.split.tolist() == ["test", "val"]
    assert "1 prompts appear in several splits" in table.notes[0]
