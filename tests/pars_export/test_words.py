from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from pars_export import InputError, PredictorError
from pars_export.inputs import InputSpec
from pars_export.parity import builtin_texts
from pars_export.words import (
    FEATURES,
    WordTokenizer,
    split_words,
    surface,
    train_tokenizer,
)

TEXTS = ["Write a list of ten words.", "What is the moon? Write 10 words.", "write a story"] * 2


CONTENT = train_tokenizer(TEXTS, 200)


@pytest.fixture
def tokenizer_json() -> str:
    return CONTENT


def tokenizer(content: str, length: int = 8, truncation: str = "head_tail") -> WordTokenizer:
    return WordTokenizer(content, InputSpec(length, truncation))


MANY_LETTERS = [" ".join(chr(0x4E00 + n) * 2 for n in range(1500))] * 2


@pytest.mark.parametrize("texts", [builtin_texts(), MANY_LETTERS, ["caf\udce9 # ##a"] * 2])
def test_a_vocabulary_is_the_same_for_the_same_texts(texts: list[str]) -> None:
    first = train_tokenizer(texts, 200)
    assert {train_tokenizer(iter(texts), 200) for _ in range(3)} == {first}
    assert json.loads(first)["added_tokens"] == []  # letters are no words of their own


def test_words_numbers_and_signs_stand_alone() -> None:
    assert split_words("Don't_stop: 12345 items!") == [
        *("don", "'", "t", "_", "stop", ":"),
        *("1234", "5", "items", "!"),
    ]


def test_known_words_are_one_token_and_case_does_not_matter(tokenizer_json: str) -> None:
    reader = tokenizer(tokenizer_json)
    ids, _ = reader.read("WRITE a list")
    assert len(ids) == 3
    assert ids == reader.read("write A\n list")[0]
    assert max(ids) < reader.vocab_size


def test_both_ends_of_a_long_text_are_kept(tokenizer_json: str) -> None:
    both, head = (tokenizer(tokenizer_json, 8, name) for name in ("head_tail", "head"))
    text = "write " * 20 + "story " * 20
    write, story = (both.read(word)[0] for word in ("write", "story"))
    assert both.read(text)[0] == write * 4 + story * 4
    assert head.read(text)[0] == write * 8


def test_the_middle_of_a_huge_text_costs_nothing(tokenizer_json: str) -> None:
    reader = tokenizer(tokenizer_json)
    ids, features = reader.read("write " + "x" * 5_000_000 + " story")
    assert ids[:1] + ids[-1:] == reader.read("write story")[0]
    assert features[0] == pytest.approx(math.log1p(5_000_012))
    assert features[-1] == 1.0


def test_features_say_what_they_are_named(tokenizer_json: str) -> None:
    features = dict(
        zip(FEATURES, tokenizer(tokenizer_json, 64).read("Is it 10?\nOr\n11?  ")[1], strict=True)
    )
    assert features["log characters"] == pytest.approx(math.log1p(18))
    assert features["log words read"] == pytest.approx(math.log1p(5))
    assert features["log line breaks"] == pytest.approx(math.log1p(2))
    assert features["share of capitals"] == pytest.approx(2 / 18, rel=0.1)
    assert features["share of digits"] == pytest.approx(4 / 18, rel=0.1)
    assert features["question mark at the end"] == 1.0
    assert features["cut"] == 0.0


@given(st.text())
def test_any_text_is_read_the_same_each_time(text: str) -> None:
    reader = tokenizer(CONTENT)
    ids, features = reader.read(text)
    assert 1 <= len(ids) <= 8
    assert all(math.isfinite(each) for each in features)
    assert reader.read(text) == (ids, features)


@pytest.mark.parametrize("truncation", ["head", "head_tail"])
@given(st.text(st.characters(exclude_categories=()), max_size=90))
@example("Ab 1?\n" * 10)
@example("\u0130 \x1c\u2028\x85 \ud800?")
def test_the_surface_is_what_a_student_reads_of_it(truncation: str, text: str) -> None:
    reader = tokenizer(CONTENT, 8, truncation)
    features = reader.read(text)[1]
    assert surface(text, reader.spec, tokens_cut=bool(features[-1])) == features
    assert surface(text, reader.spec)[-1] == (len(text) > 64)


def test_what_is_remembered_is_bounded(
    tokenizer_json: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pars_export.remembered.MOST", 10)
    reader = tokenizer(tokenizer_json)
    first = reader.read("write 0")
    for number in range(100):
        reader.read(f"write {number}")
        assert len(reader._ids) <= 10
        assert len(reader._words) <= 10
    assert reader.read("write 0") == first


def test_lone_surrogates_and_no_text(tokenizer_json: str) -> None:
    reader = tokenizer(tokenizer_json)
    ids, features = reader.read_all(["", "\ud800 write"])
    assert ids[0] == [0]
    assert features.shape == (2, len(FEATURES))
    assert_allclose(features[0], 0)
    with pytest.raises(InputError, match="Text 1 must be a string, found int"):
        reader.read_all(["a", 3])  # type: ignore[list-item]


@pytest.mark.parametrize("content", ["", "{}", "\0"])
def test_no_tokenizer(content: str) -> None:
    with pytest.raises(PredictorError, match="not a tokenizer"):
        tokenizer(content)


def test_a_tokenizer_of_another_kind(tokenizer_json: str) -> None:
    with pytest.raises(PredictorError, match=r"first token is not \[PAD\]"):
        tokenizer(tokenizer_json.replace("[PAD]", "[NIL]"))
