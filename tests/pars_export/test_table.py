from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pars_export import InputError, Predictor, PredictorError
from pars_export.artifact import Manifest, write_predictor
from pars_export.table import write_length_predictor, write_table_predictor


def test_table_knows_exact_texts_and_only_those(tmp_path: Path) -> None:
    write_table_predictor(tmp_path / "t", {"a": 3, "b": 0, "\ud800": 400.5})
    predictor = Predictor.load(tmp_path / "t")
    assert predictor.runtime == "table"
    scores = predictor.score(["b", "a", "a ", "\ud800", ""])
    assert scores.dtype == np.float32
    assert_allclose(scores, [0, 3, np.nan, 400.5, np.nan])
    assert_allclose(predictor.expected_tokens(["b", "a", "x"]), [1, 3, np.nan])


def test_length_orders_by_characters(tmp_path: Path) -> None:
    write_length_predictor(tmp_path / "l")
    predictor = Predictor.load(tmp_path / "l")
    assert_allclose(predictor.score(["", "abcd", "é" * 400]), [0, 4, 400])
    assert_allclose(predictor.expected_tokens(["", "abcd" * 2, "é" * 400]), [1, 2, 100])


@pytest.mark.parametrize("length", [-1, float("nan"), float("inf")])
def test_lengths_must_be_lengths(tmp_path: Path, length: float) -> None:
    with pytest.raises(InputError, match="0 or more"):
        write_table_predictor(tmp_path / "t", {"a": length})
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "must map digests"),
        ('{"a": "x"}', "must map"),
        ('{"a": -1}', "negative"),
        ("", "map"),
    ],
)
def test_a_table_of_another_form(tmp_path: Path, content: str, sentence: str) -> None:
    write_predictor(tmp_path / "t", Manifest(kind="table"), {"table.json": content})
    with pytest.raises(PredictorError, match=sentence):
        Predictor.load(tmp_path / "t")


def test_a_table_predictor_without_a_table(tmp_path: Path) -> None:
    write_predictor(tmp_path / "t", Manifest(kind="table"), {"other.json": json.dumps({})})
    with pytest.raises(PredictorError, match=r"table\.json"):
        Predictor.load(tmp_path / "t")
