from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pars_export import Predictor
from pars_export.artifact import DEFAULT_PREDICTOR
from pars_export.parity import builtin_texts

LONGER = [
    ("Answer yes or no: is water wet?", "Write an essay about water."),
    ("What is the capital of Peru? One word.", "Explain the history of Peru in detail."),
    ("Translate 'cat' to French.", "Write a story about a cat that learns French."),
    ("Name one colour.", "Describe how to paint a house, step by step."),
]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.default()


def test_it_knows_short_answers_from_long_ones(predictor: Predictor) -> None:
    short, long = (predictor.expected_tokens(texts) for texts in zip(*LONGER, strict=True))
    assert (short < long).all()


def test_it_scores_whatever_comes(predictor: Predictor) -> None:
    texts = ["", "\ud800", "x" * 1_000_000, "日本語で答えてください。", "\0" * 50]
    assert np.isfinite(predictor.score(texts)).all()
    assert (predictor.expected_tokens(texts) >= 1).all()


ODD = [
    "", " ", "?", "a", "a b", "a a", "the the the", "1 2 3", "a\n\n\nb", "\0\1", "\ud800",
    "\U0001f600" * 50, "Ünïcödé ß İ", "x" * 100_000, "the " * 3000, "日本語で" * 1000,
]  # fmt: skip


def test_one_text_by_itself_and_among_many_has_the_same_score(predictor: Predictor) -> None:
    texts = [*ODD, *builtin_texts()]
    together = predictor.score(texts)
    assert len(set(together.tolist())) > 60
    for size in (1, 2, 7, 30):
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        found = np.concatenate([predictor.score(part) for part in parts])
        assert_allclose(found, together, atol=1e-5 * together.std())


def test_it_is_small_and_its_card_is_of_these_weights() -> None:
    sizes = {path.name: path.stat().st_size for path in DEFAULT_PREDICTOR.iterdir()}
    assert set(sizes) == {
        "predictor.json", "student.safetensors", "tokenizer.json", "CARD.md", "card.json"
    }  # fmt: skip
    assert sum(sizes.values()) <= 3_000_000
    manifest = json.loads((DEFAULT_PREDICTOR / "predictor.json").read_text(encoding="utf-8"))
    card = json.loads((DEFAULT_PREDICTOR / "card.json").read_text(encoding="utf-8"))
    assert card["sources"] == manifest["training"]["sources"]
    for cell in card["left_out"]:
        value, low, high = cell["tau"]["default"]
        assert low <= value <= high


def test_it_needs_neither_network_nor_more_than_the_base_dependencies() -> None:
    code = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
from pars_export import Predictor
assert Predictor.default().expected_tokens(["write a story"]).shape == (1,)
heavy = {"torch", "onnxruntime", "transformers", "scipy", "lightning"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
