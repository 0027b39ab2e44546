"""What a predictor reads: messages or prompt to text, text to token ids.

Collecting, training, scoring and serving all come through here, so that a ranker meets in serving
exactly what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from pars_export.errors import ConfigError, InputError, PredictorError
from pars_export.remembered import Remembered

TEXT_VERSION = "v1"
"""Name of the rules in this file; a predictor folder records which ones it was trained with."""

_CHARACTERS_PER_TOKEN = 12
_MIN_CHARACTERS = 2048
_TRUNCATIONS = ("head", "head_tail")
PROBE = "A tést of 3.14 words, 日本 ☃ \U00012000\n"
"""What a tokenizer must be able to read before it is used: known and unknown, plain and odd."""
_BETWEEN_SPACE = re.compile(r"[^ \t\n\r]+")
"""Runs without the white space that every tokenizer takes for such."""


@dataclass(frozen=True)
class InputSpec:
    """How a text is cut to what the encoder takes."""

    max_length: int = 256
    """Most token ids per text, special tokens included."""
    truncation: str = "head"
    """`head` keeps the first tokens; `head_tail` the first and the last half of them."""

    def __post_init__(self) -> None:
        whole = isinstance(self.max_length, int) and not isinstance(self.max_length, bool)
        if not whole or self.max_length < 4:
            raise ConfigError(
                f"input.max_length is {self.max_length!r}; it must be a whole number of at least 4."
            )
        if self.truncation not in _TRUNCATIONS:
            raise ConfigError(
                f"input.truncation is {self.truncation!r}; it must be one of "
                f"{', '.join(_TRUNCATIONS)}."
            )

    @property
    def characters(self) -> int:
        """Characters kept at each end that is kept, before any token is made.

        Twelve a token is far above what prose or code needs, so only pathological texts lose a
        token by it, and a text of a megabyte costs what one of a few thousand characters does.
        """
        return max(_MIN_CHARACTERS, _CHARACTERS_PER_TOKEN * self.max_length)

    def cut(self, text: str) -> str:
        """The part of ``text`` that can matter; bounds time and memory of tokenising."""
        keep = self.characters
        if self.truncation == "head":
            return text[:keep]
        if len(text) <= 2 * keep:
            return text
        return f"{text[:keep]}\n{text[-keep:]}"


def clean(text: str) -> str:
    """``text`` with surrogate pairs joined and lone surrogates replaced by U+FFFD.

    Python and JSON let them through; UTF-8, and so every tokenizer and hash, does not.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text_digest(text: str) -> str:
    """Name of an exact text: the first 32 hex digits of the sha256 of its UTF-8 bytes."""
    return hashlib.sha256(clean(text).encode("utf-8")).hexdigest()[:32]


def text_of(
    prompt: str | None = None,
    messages: Sequence[Mapping[str, object]] | None = None,
    tools: Sequence[Mapping[str, object]] | None = None,
) -> str:
    """The one text that stands for a request.

    A prompt is itself; a single user message is its content, so that the two forms of one
    question read alike. Other conversations are joined as ``role: content`` lines. Images and
    other parts that are no text are named in brackets; tool schemas follow as compact JSON.

    Raises:
        InputError: neither or both of prompt and messages, or one that is not of their form.
    """
    if (prompt is None) == (messages is None):
        raise InputError("A request needs either a prompt or messages, and not both.")
    if prompt is not None:
        if not isinstance(prompt, str):
            raise InputError(f"A prompt must be text, found {type(prompt).__name__}.")
        text = prompt
    else:
        text = _conversation(messages, bare=not tools)
    if not tools:
        return text
    try:
        schemas = json.dumps(list(tools), ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(f"tools must be plain JSON: {error}.") from error
    return f"{text}\ntools: {schemas}"


def _conversation(messages: object, bare: bool) -> str:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise InputError(
            f"messages must be a list of role and content, found {type(messages).__name__}."
        )
    if not messages:
        raise InputError("messages is an empty list; it needs at least one message.")
    turns: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping) or not isinstance(role, str):
            raise InputError(
                f"messages[{index}] must be an object with a role, found {_short(message)}."
            )
        content = _content(message.get("content"), index)
        calls = message.get("tool_calls")
        if calls:
            called = json.dumps(calls, ensure_ascii=False, separators=(",", ":"), default=str)
            content = f"{content} {called}".strip()
        turns.append((role, content))
    if bare and len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    return "\n".join(f"{role}: {content}" for role, content in turns)


def _content(content: object, index: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise InputError(
            f"messages[{index}].content must be text or a list of parts, found {_short(content)}."
        )
    return "\n".join(_part(part, index) for part in content)


def _part(part: object, index: int) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise InputError(
            f"messages[{index}].content holds {_short(part)} where a part with a type was expected."
        )
    text = part.get("text")
    if isinstance(text, str):
        return text
    kind = str(part.get("type", "part"))
    return f"[{kind.removeprefix('input_').removesuffix('_url')}]"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _parts_at_space(tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a text are those of its pieces between white space, in a row.

    It is so of BERT's rules, which part a text there before they look at words. Added tokens are
    found before that, so none may hold white space, or be nothing by those rules.
    """
    rules = json.loads(tokenizer.to_str())
    kinds = [
        (rules.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")
    ]
    return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and all(
        tokenizer.normalizer.normalize_str(added["content"]).strip()
        and not any(map(str.isspace, added["content"]))
        for added in rules["added_tokens"]
    )


def token_ids(tokenizer: Tokenizer, text: str, special: bool = False) -> list[int]:
    """Token ids of a text, with or without the special tokens around it.

    Raises:
        PredictorError: the tokenizer's own rules are at odds with each other. The library ends in
            plain Exception then, or in a panic, which is not even one.
    """
    try:
        return list(tokenizer.encode(text, add_special_tokens=special).ids)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise PredictorError(
            f"the tokenizer fails on a text of {len(text)} characters ({_short(str(error))})"
        ) from error


class TextTokenizer:
    """Texts to token ids, special tokens included, cut as an `InputSpec` says.

    Texts are encoded one by one: a batch call would spread over every core of the machine, which
    belong to an engine, and could not be used after a fork. Where a tokenizer reads what stands
    between white space by itself, as BERT's does, those pieces are remembered, and no more of a
    long text is read than fits.
    """

    def __init__(self, tokenizer_json: str | Path, spec: InputSpec) -> None:
        """Read a `tokenizer.json`.

        Raises:
            PredictorError: the file is missing or no tokenizer, or its rules are at odds.
            ConfigError: max_length leaves no room for text.
        """
        path = Path(tokenizer_json)
        self.spec = spec
        try:
            self._tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PredictorError(f"{path}: there is no such tokenizer file.") from error
        except Exception as error:  # the library raises plain Exception
            raise PredictorError(
                f"{path}: not a tokenizer that can be read ({_short(str(error))})."
            ) from error
        # A tokenizer.json often carries the padding and truncation of its last use.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._by_piece = _parts_at_space(self._tokenizer)
        self._known = Remembered(self._ids_of)
        try:
            token_ids(self._tokenizer, PROBE, special=True)
            self._prefix, self._suffix = self._specials()
        except PredictorError as error:
            raise PredictorError(f"{path}: {error}; export the predictor again.") from error
        self.pad_id: int = self._padding_id()
        self._room = spec.max_length - len(self._prefix) - len(self._suffix)
        if self._room < 2:
            raise ConfigError(
                f"input.max_length is {spec.max_length}, which leaves no room for text beside "
                f"{len(self._prefix) + len(self._suffix)} special tokens."
            )

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def id_bound(self) -> int:
        """One more than the largest token id, which `vocab_size` is not where ids have gaps."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at least one and at most ``spec.max_length`` of them.

        Raises:
            InputError: one of the texts is not a string.
        """
        return [self._encode(text, index) for index, text in enumerate(texts)]

    def content(self, ids: list[int]) -> list[int]:
        """Ids that `encode` gave without the special tokens around them.

        At least one: `pad_id` where nothing else is left.
        """
        return ids[len(self._prefix) : len(ids) - len(self._suffix)] or [self.pad_id]

    def _encode(self, text: str, index: int) -> list[int]:
        if not isinstance(text, str):
            raise InputError(f"Text {index} must be a string, found {type(text).__name__}.")
        text = clean(self.spec.cut(text))
        read = self._known.__getitem__ if self._by_piece else self._ids_of
        pieces = _BETWEEN_SPACE.findall(text) if self._by_piece else [text]
        front: list[list[int]] = []
        size = 0
        for piece in pieces:
            front.append(read(piece))
            size += len(front[-1])
            if size > self._room:
                break
        ids = list(chain.from_iterable(front))
        if size > self._room:
            tail = self._room // 2 if self.spec.truncation == "head_tail" else 0
            back: list[list[int]] = []
            missing, place = tail, len(pieces)
            while missing > 0:
                place -= 1
                back.append(front[place] if place < len(front) else read(pieces[place]))
                missing -= len(back[-1])
            last = list(chain.from_iterable(reversed(back)))
            ids = ids[: self._room - tail] + last[len(last) - tail :]
        ids = [*self._prefix, *ids, *self._suffix]
        return ids or [self.pad_id]

    def _ids_of(self, piece: str) -> list[int]:
        return token_ids(self._tokenizer, piece)

    def _specials(self) -> tuple[list[int], list[int]]:
        # Where the content stands between the special tokens is only told by an example.
        content, whole = (token_ids(self._tokenizer, "a", special) for special in (False, True))
        for start in range(len(whole) - len(content) + 1):
            if whole[start : start + len(content)] == content:
                return whole[:start], whole[start + len(content) :]
        return [], []

    def _padding_id(self) -> int:
        for name in ("[PAD]", "<pad>", "<|pad|>"):
            found = self._tokenizer.token_to_id(name)
            if found is not None:
                return int(found)
        return 0
