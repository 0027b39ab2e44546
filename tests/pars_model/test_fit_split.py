"""What a fit noted of its table says which prompts are unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pars_export.errors import InputError
from pars_model.fit_split import FitSplit, origin_notes
from pars_model.lengths import read_lengths, split_prompts, text_fraction

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows, MakeTable


@pytest.mark.parametrize(
    ("summary", "fit"),
    [
        ({}, FitSplit()),
        ({"table": "t"}, FitSplit("hash")),
        ({"split_column": True, "val_fraction": 0.2}, FitSplit("column", val=0.2)),
        (
            {"split_column": False, "test_fraction": 0, "trained_on_all": True,
             "table_sha256": "a"},
            FitSplit("hash", 0.1, 0.0, True, "a"),
        ),
    ],
)  # fmt: skip
def test_it_is_read_from_a_training_summary(summary: dict[str, Any], fit: FitSplit) -> None:
    assert FitSplit.of(summary) == fit


def test_only_a_fit_by_the_hash_tells_of_texts_alone() -> None:
    texts = [f"text {number}" for number in range(200)]
    learned = FitSplit("hash", 0.2, 0.3).learned(texts)
    assert learned.tolist() == [text_fraction(text) >= 0.5 for text in texts]
    assert FitSplit("hash", trained_on_all=True).learned(texts).all()
    assert not FitSplit("column").learned(texts).any()
    assert not FitSplit().learned(texts).any()


def test_a_student_keeps_out_what_hash_or_column_keeps_out(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    names = ("train", "train", "val", "test")
    rows = [{**row, "split": names[n % 4]} for n, row in enumerate(make_rows(400))]
    table, fit = read_lengths(make_table(rows)), FitSplit("hash")
    column, hashed, found = table.split, fit.hashed(table.prompts), fit.taught(table)
    expected = {
        ("train", "train"): "train", ("train", "val"): "val", ("val", "val"): "val",
    }  # fmt: skip
    assert found.tolist() == [
        expected.get(pair, "test") for pair in zip(column.tolist(), hashed.tolist(), strict=True)
    ]
    for other in (FitSplit("column"), FitSplit()):
        assert np.array_equal(other.taught(table), column)
        assert other.may_teach(["a", "b"], table).all()
    texts = [f"text {number}" for number in range(50)]
    assert fit.may_teach(texts, table).tolist() == [text_fraction(text) >= 0.2 for text in texts]
    assert fit.may_teach([], table).tolist() == []


def test_without_a_column_the_shares_of_the_fit_say(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    path = make_table(make_rows(200))
    table = read_lengths(path)
    fit = FitSplit("hash", 0.05, 0.3)
    for part in ("train", "val", "test"):
        chosen, notes = fit.judged(table, path, part)
        assert np.array_equal(chosen, split_prompts(table, 0.05, 0.3) == part)
        assert not notes
    with pytest.raises(InputError, match=r"lengths\.jsonl has no column split, and the teacher"):
        FitSplit("column").require_column(table, path, "teacher")


@pytest.mark.parametrize(
    ("dataset", "told"),
    [("GSM8K", True), ("r1distill_gsm8k", True), ("gsm", False), ("8k", False), ("mine", False)],
)
def test_data_sets_are_known_by_their_names(
    make_table: MakeTable, make_rows: MakeRows, dataset: str, told: bool
) -> None:
    table = read_lengths(make_table(make_rows(5, dataset=dataset)))
    notes = origin_notes({"sources": {"r1distill_gsm8k": {}}}, table)
    assert [dataset in note for note in notes] == ([True] if told else [])
    assert origin_notes({"data": {"table": "t"}}, table) == ()
    unused = {"prior": {"sources": ["r1distill_gsm8k"], "carried": 0.0}}
    assert origin_notes({"data": {"table": "t"}, "ngram_half": unused}, table) == ()
    started = {"data": {"table": "t"}, "ngram_half": {"prior": {"sources": ["r1distill_gsm8k"]}}}
    assert [
        f"its prior was trained on ({dataset})" in note for note in origin_notes(started, table)
    ] == ([True] if told else [])
