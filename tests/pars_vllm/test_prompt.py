"""Taking chat templates off: exactly what the client wrote, for fifteen public templates."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import cast

import pytest
import tiny
from chat_templates import TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st

from pars_export.inputs import text_of
from pars_vllm import protocol, scorer_worker
from pars_vllm.prompt import Render, TemplateError, learn, parse
from pars_vllm.scorer_worker import PromptReader
from pars_vllm.tokenizer import TokenizerSource, load_tokenizer

Messages = list[dict[str, object]]

CONVERSATIONS: dict[str, Messages] = {
    "one question": [{"role": "user", "content": "How tall is Everest?"}],
    "lines and marks": [
        {
            "role": "user",
            "content": "Sort:\n\n  1. b\n  2. a\n```py\nx = {'a': [1]}\n```\n<b>é 漢</b>",
        }
    ],
    "system prompt": [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
    "several turns": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ],
    "system and several turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "Five?"},
    ],
    "an answer last": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
    ],
}
# Templates that have no system turn of their own refuse one; these conversations do not exist.
WITHOUT_SYSTEM = {"Mistral", "Gemma"}


def reader_of(folder: Path, name: str) -> PromptReader:
    template, bos, eos = TEMPLATES[name]
    tiny.write_tokenizer(folder, template, special_tokens=tuple(filter(None, (bos, eos))))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"bos_token": bos, "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return PromptReader(load_tokenizer(TokenizerSource(str(folder))))


def through(reader: PromptReader, templated: str) -> str:
    """As in serving: templated text to ids, over the wire, and back."""
    tokenizer = reader._tokenizer._tokenizer  # type: ignore[attr-defined]  # _FastTokenizer's
    ids = tokenizer.encode(templated, add_special_tokens=False).ids
    return reader.text(protocol.decode_request(protocol.encode_request(ids)[1]))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_template_comes_off_exactly(tmp_path: Path, name: str, conversation: str) -> None:
    reader = reader_of(tmp_path, name)
    assert reader.knows_template
    messages = CONVERSATIONS[conversation]
    try:
        templated = reader._tokenizer.render(messages, True)
    except TemplateError:
        assert name in WITHOUT_SYSTEM
        assert messages[0]["role"] == "system"
        return
    assert through(reader, templated) == text_of(messages=messages)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", ["Llama 2", "Mistral", "Phi 3", "Zephyr", "Vicuna"])
def test_template_comes_off_ids_that_do_not_say_what_went_in(
    tmp_path: Path, name: str, conversation: str
) -> None:
    template, bos, eos = TEMPLATES[name]
    turns = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>") if name == "Phi 3" else ()
    tiny.write_spaced_tokenizer(tmp_path, template, (bos, eos, *turns), stripping=bool(turns))
    config = {"bos_token": bos, "eos_token": eos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reader = PromptReader(load_tokenizer(TokenizerSource(str(tmp_path))))
    messages = CONVERSATIONS[conversation]
    try:
        templated = reader._tokenizer.render(messages, True)
    except TemplateError:
        assert name in WITHOUT_SYSTEM
        return
    ids = reader._tokenizer.encode(templated)
    reading = reader.read(protocol.decode_request(protocol.encode_request(ids)[1]))
    assert reading.text == text_of(messages=messages)
    assert not reading.as_it_is


@pytest.mark.parametrize(
    ("answer", "variables"),
    [
        (
            "{% if thinking %}<think>{% else %}</think>{% endif %}",
            [{}, {"thinking": True}, {"thinking": False}],
        ),
        (
            "\n{% if enable_thinking is defined and not enable_thinking %}"
            "<think>\n\n</think>\n\n{% endif %}",
            [{}, {"enable_thinking": True}, {"enable_thinking": False}],
        ),
    ],
)
def test_what_clients_switch_in_a_template_comes_off_too(
    tmp_path: Path, answer: str, variables: list[dict[str, object]]
) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant" + answer + "{% endif %}"
    )
    folder = tiny.write_tokenizer(tmp_path, template)
    reader = PromptReader(load_tokenizer(TokenizerSource(str(folder))))
    messages: Messages = [{"role": "user", "content": "How tall is Everest?"}]
    for each in variables:
        templated = reader._tokenizer.render(messages, True, None, each)
        assert through(reader, templated) == "How tall is Everest?", each


SWITCHED = (
    "{% set off = enable_thinking is defined and not enable_thinking %}"
    "{% set mode = '/no_think' if off else '/think' %}"
    "<|im_start|>system\nMode: {{ mode }}\n{% if tools %}# Tools\n{% for tool in tools %}"
    "{{ tool | tojson }}\n{% endfor %}End of tools.\n{% endif %}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and mode == '/no_think' %}<think>\n\n</think>\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As SmolLM3's: a switch changes the system text and each turn of the assistant."""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"enable_thinking": True},
        {"enable_thinking": False},
        {"reasoning_effort": "none", "enable_thinking": False},
    ],
)
@pytest.mark.parametrize("offered", [False, True], ids=["alone", "tools"])
def test_switches_inside_a_conversation_come_off_too(
    tmp_path: Path, variables: dict[str, object], offered: bool
) -> None:
    folder = tiny.write_tokenizer(tmp_path, SWITCHED)
    reader = PromptReader(load_tokenizer(TokenizerSource(str(folder))))
    tools = [tool("weather"), tool("forecast")] if offered else None
    for name in ("one question", "several turns"):
        messages = CONVERSATIONS[name]
        templated = reader._tokenizer.render(messages, True, tools, variables)
        assert through(reader, templated) == text_of(messages=messages, tools=tools)


def test_switches_take_nothing_from_prompts_without_them(tmp_path: Path) -> None:
    folder = tiny.write_tokenizer(tmp_path, SWITCHED)
    render = load_tokenizer(TokenizerSource(str(folder))).render

    def unswitched(messages: Messages, generation: bool, *_: object) -> str:
        return render(messages, generation)

    found, plain = learn(render), learn(cast(Render, unswitched))
    assert found is not None
    assert plain is not None
    assert (found.opens, found.closes) == (plain.opens, plain.closes)
    assert "assistant" in found.opens
    assert all(set(texts) <= set(found.frames[pair]) for pair, texts in plain.frames.items())
    assert any(len(texts) < len(found.frames[pair]) for pair, texts in plain.frames.items())


@pytest.mark.parametrize("name", TEMPLATES)
def test_raw_prompt_comes_back_as_it_is(tmp_path: Path, name: str) -> None:
    reader = reader_of(tmp_path, name)
    for text in ("Once upon a time", " leading and trailing \n", "User question: 3 + 4 = ?", "{"):
        assert through(reader, text) == text


def test_own_renderer_agrees_with_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for index, name in enumerate(TEMPLATES):
        folder = tmp_path / str(index)
        reader = reader_of(folder, name)
        theirs = AutoTokenizer.from_pretrained(str(folder))
        for messages in CONVERSATIONS.values():
            try:
                ours = reader._tokenizer.render(messages, True)
            except TemplateError:
                continue
            assert ours == theirs.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )


@pytest.fixture(scope="module", params=["SmolLM2", "Qwen 2.5", "Phi 4", "DeepSeek R1"])
def some_reader(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PromptReader:
    return reader_of(tmp_path_factory.mktemp("some"), request.param)


@settings(deadline=None, max_examples=100)
@given(content=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_content(some_reader: PromptReader, content: str) -> None:
    messages = [{"role": "user", "content": content}]
    assert through(some_reader, some_reader._tokenizer.render(messages, True)) == content


def tool(name: str) -> dict[str, object]:
    properties = {"city": {"type": "string", "description": "Größe in {km}"}}
    function = {
        "name": name,
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": properties, "required": ["city"]},
    }
    return {"type": "function", "function": function}


@pytest.mark.parametrize("name", ["Qwen 2.5", "Llama 3.2"])
@pytest.mark.parametrize("system", [False, True])
def test_tools_become_schemas(tmp_path: Path, name: str, system: bool) -> None:
    reader = reader_of(tmp_path, name)
    tools = [tool("weather"), tool("forecast")]
    messages: Messages = [{"role": "user", "content": "Rain in Rome?"}]
    if system:
        messages.insert(0, {"role": "system", "content": "Be brief."})
    templated = reader._tokenizer.render(messages, True, tools)
    assert through(reader, templated) == text_of(messages=messages, tools=tools)


def test_tool_results_are_turns_of_their_own(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, "Qwen 2.5")
    delimiters = learn(reader._tokenizer.render)
    assert delimiters is not None
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    messages: Messages = [
        {"role": "user", "content": "Rain in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
        {"role": "tool", "content": "no rain"},
    ]
    parsed = parse(reader._tokenizer.render(messages, True, [tool("weather")]), delimiters)
    assert parsed is not None
    found, tools = parsed
    assert [message["role"] for message in found] == ["user", "assistant", "tool"]
    assert found[2]["content"] == "no rain"
    assert "weather" in found[1]["content"]
    assert tools == [tool("weather")]


def test_template_that_loses_content_is_not_believed(tmp_path: Path) -> None:
    for template in (
        None,
        "{{ messages[0]['content'] | upper }}",
        "{{ messages[0]['content'] }}",
        "{% broken",
        "{{ raise_exception('never') }}",
    ):
        folder = tiny.write_tokenizer(tmp_path / str(hash(template)), template)
        reader = PromptReader(load_tokenizer(TokenizerSource(str(folder))))
        assert not reader.knows_template
        assert through(reader, "<|im_start|>user\nas it is") == "<|im_start|>user\nas it is"


def test_template_given_by_the_operator_goes_first(tmp_path: Path) -> None:
    folder = tiny.write_tokenizer(tmp_path / "model")
    other = tmp_path / "other.jinja"
    other.write_text("{% for m in messages %}<<{{ m.role }}>>{{ m.content }}<<end>>{% endfor %}")
    source = TokenizerSource(str(folder), chat_template=str(other))
    reader = PromptReader(load_tokenizer(source))
    assert through(reader, "<<user>>hello<<end>>") == "hello"


def test_begin_of_text_is_not_part_of_a_raw_prompt(tmp_path: Path) -> None:
    folder = tiny.write_tokenizer(tmp_path, None, special_tokens=("<s>",), bos="<s>")
    reader = PromptReader(load_tokenizer(TokenizerSource(str(folder))))
    ids = reader._tokenizer._tokenizer.encode("plain").ids  # type: ignore[attr-defined]  # _FastTokenizer's
    assert len(ids) == 6
    assert reader.text(protocol.Prompt(b"", tuple(ids))) == "plain"


def test_date_in_a_template_is_learned_anew_each_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(tmp_path, "Llama 3.2")
    templated = reader._tokenizer.render([{"role": "user", "content": "Hi"}], True)
    tomorrow = templated.replace(date.today().strftime("%d %b %Y"), "01 Jan 2099")
    assert through(reader, tomorrow) != "Hi"

    class Later(date):
        @classmethod
        def today(cls) -> Later:
            return cls(2099, 1, 1)

    import datetime as datetime_module

    from pars_vllm import tokenizer as tokenizer_module

    class LaterTime(datetime_module.datetime):
        @classmethod
        def now(cls, tz: object = None) -> LaterTime:
            return cls(2099, 1, 1)

    monkeypatch.setattr(scorer_worker, "date", Later)
    monkeypatch.setattr(tokenizer_module, "datetime", LaterTime)
    assert through(reader, tomorrow) == "Hi"


def test_long_prompt_keeps_its_ends_without_template(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, "SmolLM2")
    content = "begin " + "x" * 10_000 + " end"
    found = through(reader, reader._tokenizer.render([{"role": "user", "content": content}], True))
    assert found.startswith("begin xxx")
    assert found.endswith("xxx end")
    assert scorer_worker.GAP in found
    assert "<|im_" not in found


def test_template_in_the_tokenizer_config(tmp_path: Path) -> None:
    folder = tiny.write_tokenizer(tmp_path, None)
    path = folder / "tokenizer_config.json"
    template, _, _ = TEMPLATES["ChatML"]
    for value in (
        template,
        [{"name": "default", "template": template}, {"name": "rag", "template": "x"}],
    ):
        path.write_text(json.dumps({"chat_template": value, "bos_token": {"content": "<s>"}}))
        reader = PromptReader(load_tokenizer(TokenizerSource(str(folder))))
        assert through(reader, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n") == "hi"
