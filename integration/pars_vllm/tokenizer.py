"""The LLM's tokenizer as far as taking off its chat template needs it: decode, and render.

Reads ``tokenizer.json`` and the template file directly, as transformers would, because importing
transformers takes the scorer process seconds and hundreds of megabytes. Only a tokenizer without
``tokenizer.json`` is loaded by transformers, and then from local files alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from pars_export.errors import ConfigError
from pars_vllm.prompt import Render, TemplateError, Tool

# What a template raises on messages that it was not written for.
_RENDER_ERRORS = (TypeError, ValueError, KeyError, AttributeError)


@dataclass(frozen=True)
class TokenizerSource:
    """Where the LLM's tokenizer is."""

    name: str
    """Folder, or hub name of a tokenizer that vLLM has already fetched."""
    revision: str | None = None
    chat_template: str | None = None
    """A template file that goes before the tokenizer's own."""
    trust_remote_code: bool = False
    """As in vLLM; matters only where transformers has to load the tokenizer."""


class PromptTokenizer(Protocol):
    """What the scorer needs of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens written out."""

    def raw(self, ids: Sequence[int]) -> str:
        """Text of a prompt that went in without a template: special tokens added to it left out."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that the template has been through: nothing is added to it."""

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        generation: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        """Messages through the chat template; TemplateError where it has none or refuses."""


def decoded(tokenizer: PromptTokenizer) -> Render:
    """Renders messages as their token ids read, which is all that the scorer process gets.

    Tokenizers of SentencePiece's kind put a space after special tokens or take one away, so what a
    template wrote is not what its ids say.
    """
    known: dict[str, str] = {}  # a template ignores most of what it is told

    def render(
        messages: Sequence[Mapping[str, object]],
        generation: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        text = tokenizer.render(messages, generation, tools, variables)
        if text not in known:
            try:
                known[text] = tokenizer.decode(tokenizer.encode(text))
            except Exception as error:  # a tokenizer may bring code of its own
                raise TemplateError(type(error).__name__) from error
        return known[text]

    return render


def load_tokenizer(source: TokenizerSource) -> PromptTokenizer:
    """The tokenizer of a source; ConfigError where its files are not on this machine."""
    tokenizer_json = _local_file(source, "tokenizer.json")
    if tokenizer_json is None:
        return _TransformersTokenizer(source)
    return _FastTokenizer(tokenizer_json, source)


def read_chat_template(path: str) -> str:
    """Text of a template file; ConfigError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"additional_config['pars']['chat_template'] is {path!r}, which cannot be read "
            f"({type(error).__name__}): give the file that vLLM's --chat-template has."
        ) from error


def _local_file(source: TokenizerSource, name: str) -> Path | None:
    folder = Path(source.name)
    if folder.is_dir():
        path = folder / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source.name, name, revision=source.revision)
    except HFValidationError as error:
        raise ConfigError(
            f"The LLM's tokenizer {source.name!r} is neither a folder nor a hub name."
        ) from error
    return Path(found) if isinstance(found, str) else None


class _FastTokenizer:
    def __init__(self, path: Path, source: TokenizerSource) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a", add_special_tokens=True).ids
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        self._prefix, self._suffix = whole[:start], whole[start + len(bare) :]
        config = _json_of(_local_file(source, "tokenizer_config.json"))
        template = (
            read_chat_template(source.chat_template)
            if source.chat_template
            else _own_template(source, config)
        )
        self._template = (
            _JinjaTemplate(template, _special_tokens(config)) if template is not None else None
        )

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def raw(self, ids: Sequence[int]) -> str:
        kept = list(ids)
        if self._prefix and kept[: len(self._prefix)] == self._prefix:
            kept = kept[len(self._prefix) :]
        if self._suffix and kept[-len(self._suffix) :] == self._suffix:
            kept = kept[: -len(self._suffix)]
        return self.decode(kept)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        generation: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        if self._template is None:
            raise TemplateError("the tokenizer has no chat template")
        return self._template.render(messages, generation, tools, variables)


def _json_of(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def _special_tokens(config: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in config.items():
        if not key.endswith("_token"):
            continue
        if isinstance(value, str):
            found[key] = value
        elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
            found[key] = value["content"]
    return found


def _own_template(source: TokenizerSource, config: Mapping[str, object]) -> str | None:
    path = _local_file(source, "chat_template.jinja")
    if path is not None:
        return path.read_text(encoding="utf-8")
    value = config.get("chat_template")
    if value is None:
        value = _json_of(_local_file(source, "chat_template.json")).get("chat_template")
    if isinstance(value, list):  # named templates; "default" is the one without tools
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Unlike Jinja's own filter, it does not escape for HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _JinjaTemplate:
    """A chat template as transformers compiles it: sandboxed Jinja with its helpers."""

    def __init__(self, source: str, variables: Mapping[str, object]) -> None:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        # {% generation %} only marks a span for training masks.
        source = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", source)
        source = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", source)
        self._variables = variables
        self._refusals = (jinja2.TemplateError, *_RENDER_ERRORS)
        try:
            self._template: jinja2.Template | None = environment.from_string(source)
        except jinja2.TemplateError:
            self._template = None

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        generation: bool,
        tools: Sequence[Tool] | None,
        variables: Mapping[str, object],
    ) -> str:
        if self._template is None:
            raise TemplateError("the chat template is not valid Jinja")
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=generation,
                **self._variables,
                **variables,
            )
        except self._refusals as error:
            raise TemplateError(type(error).__name__) from error


class _TransformersTokenizer:
    def __init__(self, source: TokenizerSource) -> None:
        from transformers import AutoTokenizer

        self._template = read_chat_template(source.chat_template) if source.chat_template else None
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                source.name,
                revision=source.revision,
                local_files_only=True,
                trust_remote_code=source.trust_remote_code,
            )
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(
                f"The LLM's tokenizer {source.name!r} cannot be loaded from local files "
                f"({type(error).__name__})."
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def raw(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        generation: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        import jinja2

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages),
                    chat_template=self._template,
                    tools=list(tools) if tools else None,
                    add_generation_prompt=generation,
                    tokenize=False,
                    **variables,
                )
            )
        except (jinja2.TemplateError, *_RENDER_ERRORS) as error:
            raise TemplateError(type(error).__name__) from error
