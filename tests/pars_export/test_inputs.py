from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pars_export import inputs
from pars_export.errors import ConfigError, InputError, PredictorError
from pars_export.inputs import InputSpec, TextTokenizer, clean, text_digest, text_of

Make = Callable[..., TextTokenizer]
"""Maximal length and truncation to a tokenizer."""


@pytest.fixture
def make(tmp_path: Path, tokenizer_json: str) -> Make:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer_json, encoding="utf-8")

    def make(max_length: int = 16, truncation: str = "head") -> TextTokenizer:
        return TextTokenizer(path, InputSpec(max_length, truncation))

    return make


def test_a_prompt_is_its_own_text_and_a_single_user_message_reads_like_it() -> None:
    assert text_of("what?") == "what?"
    assert text_of(messages=[{"role": "user", "content": "what?"}]) == "what?"


def test_conversations_parts_tools_and_tool_calls() -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "be short"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:..."}},
                {"type": "input_audio", "input_audio": {}},
                "so",
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
    ]
    text = text_of(messages=messages, tools=[{"name": "f", "x": [1, 2]}])
    assert text == (
        'system: be short\nuser: see\n[image]\n[audio]\nso\nassistant: [{"name":"f"}]\n'
        'tools: [{"name":"f","x":[1,2]}]'
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "either a prompt or messages"),
        ({"prompt": "a", "messages": []}, "not both"),
        ({"prompt": 3}, "found int"),
        ({"messages": []}, "empty list"),
        ({"messages": "hello"}, "found str"),
        ({"messages": ["hello"]}, r"messages\[0\] must be an object"),
        ({"messages": [{"content": "x"}]}, "with a role"),
        ({"messages": [{"role": "user", "content": 3}]}, "content must be text"),
        ({"messages": [{"role": "user", "content": [3]}]}, "holds 3"),
        ({"prompt": "a", "tools": [{"x": object()}]}, "plain JSON"),
    ],
)
def test_text_of_refuses(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        text_of(**arguments)


@given(st.text(st.characters(exclude_categories=())))
def test_any_string_can_be_hashed_and_cleaning_twice_changes_nothing(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned
    assert text_digest(text) == text_digest(cleaned)
    assert len(text_digest(text)) == 32


def test_surrogates() -> None:
    assert clean("a\ud800b") == "a\N{REPLACEMENT CHARACTER}b"
    assert clean("\ud83d\ude80") == "\N{ROCKET}"
    assert clean("\ufeffplain") == "\ufeffplain"
    assert clean("\ufeff\ud800") == "\ufeff\N{REPLACEMENT CHARACTER}"


def test_ids_hold_special_tokens_and_head_keeps_the_first(make: Make) -> None:
    tokenizer = make(6)
    short, long = tokenizer.encode(["what is", "a b c d e f g h"])
    assert (short[0], short[-1]) == (2, 3)
    assert long[:1] + long[-1:] == [2, 3]
    assert long[1:-1] == tokenizer.encode(["a b c d"])[0][1:-1]


def test_head_tail_keeps_both_ends(make: Make) -> None:
    ids = make(7, "head_tail").encode(["a b c d e f g h"])[0]
    assert ids[1:-1] == make(16).encode(["a b c g h"])[0][1:-1]


@settings(deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=()), max_size=400),
    max_length=st.integers(4, 40),
    truncation=st.sampled_from(["head", "head_tail"]),
)
def test_length_never_passes_the_limit(
    tokenizer_json: str,
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    max_length: int,
    truncation: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "shared-tokenizer.json"
    path.write_text(tokenizer_json, encoding="utf-8")
    ids = TextTokenizer(path, InputSpec(max_length, truncation)).encode([text])[0]
    assert 1 <= len(ids) <= max_length
    whole = TextTokenizer(path, InputSpec(4000)).encode([text])[0]
    if len(whole) <= max_length:
        assert ids == whole


# White space and controls that Python and BERT's rules take for different things, letters that
# change with their neighbours, signs that stand alone, special tokens.
PARTS = [
    "a",
    "The",
    " ",
    "\n",
    "\x1c",
    "\x85",
    "\u00a0",
    "\u2028",
    "\u3000",
    "\x00",
    "\u0301",
    "\u03a3",
]
PARTS += ["\u0130", "\u6708", "?", "x" * 120, "[SEP]", " [MASK] ", "\U0001f600", "\ud800"]


@pytest.mark.parametrize("truncation", ["head", "head_tail"])
@given(text=st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=40).map("".join))
def test_remembered_pieces_give_the_ids_of_the_whole(
    tokenizer_json: str, tmp_path_factory: pytest.TempPathFactory, truncation: str, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "shared-tokenizer.json"
    path.write_text(tokenizer_json, encoding="utf-8")
    tokenizer = TextTokenizer(path, InputSpec(16, truncation))
    assert tokenizer._by_piece
    content = Tokenizer.from_str(tokenizer_json).encode(clean(text), add_special_tokens=False).ids
    tail = 7 if truncation == "head_tail" else 0
    if len(content) > 14:
        content = content[: 14 - tail] + content[len(content) - tail :]
    for _ in ("found", "remembered"):
        assert tokenizer.content(tokenizer.encode([text])[0]) == (content or [tokenizer.pad_id])


def test_no_more_of_a_long_text_is_read_than_fits(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    tokenizer = make(16, "head_tail")

    ids_of = tokenizer._ids_of

    def find(piece: str) -> list[int]:
        read.append(piece)
        return ids_of(piece)

    monkeypatch.setattr(tokenizer._known, "_find", find)
    words = [chr(97 + index % 26) + str(index) for index in range(200)]
    tokenizer.encode([" ".join(words)])
    assert len(read) == len(set(read)) > 0
    assert set(read) < {*words[:15], *words[-7:]}
    read.clear()
    tokenizer.encode(["a," * 100])
    assert read == ["a," * 100], "what is too long to be remembered is read once all the same"
    read.clear()
    monkeypatch.setattr(tokenizer, "_by_piece", False)
    monkeypatch.setattr(tokenizer, "_ids_of", find)
    text = "a b " * 20
    tokenizer.encode([text])
    assert read == [text], "so is a text that is not read by pieces"


@pytest.mark.parametrize(
    "broken", ["pre_tokenizer", "normalizer", "the end", "a\u00a0b", "\u3000x"]
)
def test_pieces_are_only_read_by_rules_that_part_at_white_space(
    tmp_path: Path, tokenizer_json: str, broken: str
) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if broken == "pre_tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    elif broken == "normalizer":
        tokenizer.normalizer = normalizers.Replace("a b", "c")
    else:
        tokenizer.add_tokens([broken])
    path = tmp_path / "other.json"
    tokenizer.save(str(path))
    text = "a b is the end of the moon"
    reader = TextTokenizer(path, InputSpec(64))
    assert not reader._by_piece
    assert reader.encode([text])[0] == tokenizer.encode(text).ids


def test_an_added_token_that_the_rules_make_nothing_of_is_refused(
    tmp_path: Path, tokenizer_json: str
) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.add_tokens(["\u0301"])
    assert not inputs._parts_at_space(tokenizer)
    tokenizer.save(str(tmp_path / "other.json"))
    with pytest.raises(PredictorError, match=r"other\.json: the tokenizer fails on a text"):
        TextTokenizer(tmp_path / "other.json", InputSpec(64))


def test_a_huge_text_is_cut_before_it_is_tokenised(make: Make) -> None:
    spec = InputSpec(16, "head_tail")
    huge = "a " * 500_000 + "the end" + " b" * 500_000
    assert len(spec.cut(huge)) == 2 * spec.characters + 1
    assert make(16, "head_tail").encode([huge]) == make(16, "head_tail").encode(
        ["a " * 100 + "b " * 100]
    )
    assert make().encode([" " * 2_000_000]) == make().encode([""])


def test_text_beyond_the_cut_does_not_matter_and_text_before_it_does(make: Make) -> None:
    tokenizer = make(16, "head_tail")
    middle = "x " * 10_000
    assert tokenizer.encode(["what " + middle + "yes"]) != tokenizer.encode(
        ["what " + middle + "no"]
    )


def test_padding_and_truncation_stored_in_the_file_are_not_used(
    tmp_path: Path, tokenizer_json: str, make: Make
) -> None:
    value = json.loads(tokenizer_json)
    value["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    value["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    path = tmp_path / "stored.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert TextTokenizer(path, InputSpec(16)).encode(["a b c d"]) == make().encode(["a b c d"])


def test_a_tokenizer_without_special_tokens_gives_at_least_one_id(
    tmp_path: Path, tokenizer_json: str
) -> None:
    value = json.loads(tokenizer_json)
    value["post_processor"] = None
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert TextTokenizer(path, InputSpec(16)).encode(["", "a"])[0] == [0]


def test_refusals(tmp_path: Path, make: Make) -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        InputSpec(3)
    with pytest.raises(ConfigError, match="head_tail"):
        InputSpec(16, "tail")
    with pytest.raises(InputError, match="Text 1 must be a string, found int"):
        make().encode(["a", 3])  # type: ignore[list-item]  # what is refused
    with pytest.raises(PredictorError, match="no such tokenizer"):
        TextTokenizer(tmp_path / "none.json", InputSpec(16))
    (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PredictorError, match=r"broken\.json: not a tokenizer"):
        TextTokenizer(tmp_path / "broken.json", InputSpec(16))


@pytest.mark.parametrize("truncation", ["head", "head_tail"])
@pytest.mark.parametrize("text", ["what is the moon", "a " * 100, "?", "", " \n"])
def test_content_is_what_stands_between_special_tokens(
    make: Make, truncation: str, text: str
) -> None:
    tokenizer = make(16, truncation)
    (ids,) = tokenizer.encode([text])
    first, *content, last = ids
    assert [first, last] == tokenizer.encode([""])[0]
    assert tokenizer.content(ids) == (content or [tokenizer.pad_id])


def test_without_special_tokens_all_is_content(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    words = Tokenizer(models.WordLevel({"a": 0, "b": 7, "[UNK]": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(path))
    tokenizer = TextTokenizer(path, InputSpec(8))
    assert [tokenizer.content(ids) for ids in tokenizer.encode(["a b b", ""])] == [[0, 7, 7], [0]]
    assert (tokenizer.vocab_size, tokenizer.id_bound) == (3, 8), "ids may have gaps"
