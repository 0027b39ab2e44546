"""Templated text back to messages, by delimiters learned from the chat template itself.

The engine core knows a prompt only as token ids with the chat template already applied. The
predictor was trained on what people write, so the template has to come off exactly. Marker
messages are rendered through the tokenizer's own template; whatever stands between two markers is
what this template puts between two such turns. A default system prompt that a template inserts is
part of what stands before the first user message, and so it is recognised as template.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Message = dict[str, str]
Render = Callable[[Sequence[Mapping[str, object]], bool], str]
"""(messages, add_generation_prompt) -> text; raises TemplateError where the template does."""

START, END = "", "\0"  # stand for the text's ends among the roles
_ROLES = ("system", "user", "assistant", "tool")
_MIN_SIGNS = 3
"""A delimiter shorter than this (without white space) could be somebody's own text."""

# Conversations that show every frame a chat usually needs; a template may refuse some.
_PROBES: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "tool"),
    ("user", "assistant", "tool", "assistant", "user"),
    ("user", "user"),
)


class TemplateError(Exception):
    """The chat template does not render these messages."""


@dataclass(frozen=True)
class Delimiters:
    """What a template puts between turns; see :func:`learn`."""

    frames: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(role or START, next role or END) -> texts between their contents, longest first."""
    opens: Mapping[str, str] = field(default_factory=dict)
    """Role -> what always stands right before its content, wherever the turn is."""
    closes: Mapping[str, str] = field(default_factory=dict)
    """Role -> what always stands right after its content."""


def learn(render: Render) -> Delimiters | None:
    """Delimiters of a template; None where it does not keep user content apart and whole."""
    frames: dict[tuple[str, str], set[str]] = {}
    for roles in _PROBES:
        for generation in (True, False):
            _observe(render, roles, generation, frames)
    if not any(first == START and second == "user" for first, second in frames):
        return None
    opens = {}
    closes = {}
    for role in _ROLES:
        before = [text for (_, to), texts in frames.items() if to == role for text in texts]
        after = [text for (of, _), texts in frames.items() if of == role for text in texts if text]
        if before and _is_distinct(common := _common_suffix(before)):
            opens[role] = common
        if after and _is_distinct(common := _common_prefix(after)):
            closes[role] = common
    kept = {
        pair: tuple(sorted(texts, key=len, reverse=True))
        for pair, texts in frames.items()
        if all(_is_distinct(text) for text in texts) or START in pair
    }
    delimiters = Delimiters(kept, opens, closes)
    ends = kept.get(("user", "assistant"), ()) + kept.get(("user", END), ())
    return delimiters if any(ends) and "user" in opens else None


def _observe(
    render: Render,
    roles: Sequence[str],
    generation: bool,
    frames: dict[tuple[str, str], set[str]],
) -> None:
    if generation and roles[-1] not in ("user", "tool"):
        return
    # Letters and digits alone: a template may strip, escape or re-indent anything else.
    markers = [f"Qx{index}{role.capitalize()}xQ" for index, role in enumerate(roles)]
    messages: list[dict[str, object]] = []
    for index, (role, marker) in enumerate(zip(roles, markers, strict=True)):
        message: dict[str, object] = {"role": role, "content": marker}
        if role == "tool":
            message |= {"name": "lookup", "tool_call_id": "abcdefghi"}
        if role == "assistant" and index + 1 < len(roles) and roles[index + 1] == "tool":
            call = {"name": "lookup", "arguments": {}}
            message["tool_calls"] = [{"id": "abcdefghi", "type": "function", "function": call}]
        messages.append(message)
    try:
        text = render(messages, generation)
    except TemplateError:
        return
    position, role = 0, START
    for marker, following in zip(markers, roles, strict=True):
        found = text.find(marker, position)
        if found < 0:
            return  # reordered or left out: this probe shows nothing
        # Between an assistant turn with calls and its tool turn stand the calls, not a delimiter.
        if (role, following) != ("assistant", "tool"):
            frames.setdefault((role, following), set()).add(text[position:found])
        position, role = found + len(marker), following
    if generation:
        frames.setdefault((role, END), set()).add(text[position:])


def _is_distinct(text: str) -> bool:
    return sum(not sign.isspace() for sign in text) >= _MIN_SIGNS


def _common_prefix(texts: Iterable[str]) -> str:
    texts = list(texts)
    first, last = min(texts), max(texts)  # whatever these two share, all between them share
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(sign for sign, _ in same)


def _common_suffix(texts: Iterable[str]) -> str:
    return _common_prefix(text[::-1] for text in texts)[::-1]


def parse(text: str, delimiters: Delimiters) -> tuple[str, list[Message]] | None:
    """(what stands before the first turn and is not template, messages) of a templated text.

    None where the text has no user turn of this template: a raw prompt, or another template.
    """
    preamble, position, role = _enter(text, delimiters)
    if role == START:
        return None
    messages: list[Message] = []
    while role != END:
        end, position_after, following = _leave(text, position, role, delimiters)
        messages.append({"role": role, "content": text[position:end]})
        position, role = position_after, following
    if len(messages) > 1 and messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()  # the generation prompt, not a turn
    return (preamble, messages) if any(m["role"] == "user" for m in messages) else None


def _enter(text: str, delimiters: Delimiters) -> tuple[str, int, str]:
    """(preamble, where the first content starts, its role); role START where there is none."""
    best: tuple[int, int, str] | None = None  # longest frame; of equal ones the user's
    for (of, role), frames in delimiters.frames.items():
        if of != START:
            continue
        for frame in frames:
            if frame and text.startswith(frame):
                rank = (len(frame), int(role == "user"), role)
                best = max(best, rank) if best is not None else rank
    opening: tuple[int, int, str] | None = None
    for role, open_text in delimiters.opens.items():
        found = text.find(open_text)
        if found >= 0 and (opening is None or found < opening[0]):
            opening = (found, found + len(open_text), role)
    # Often nothing but a begin-of-text mark opens a system turn: believe it if a turn follows.
    if best is not None and (opening is not None or best[2] == "user"):
        return "", best[0], best[2]
    if opening is None:
        return "", 0, START
    return text[: opening[0]], opening[1], opening[2]


def _leave(text: str, position: int, role: str, delimiters: Delimiters) -> tuple[int, int, str]:
    """(end of the content, start of the next one, next role); next role END at the end."""
    best: tuple[int, int, str] | None = None  # (end, -length of the delimiter, next role)
    for (of, following), frames in delimiters.frames.items():
        if of != role:
            continue
        for frame in frames:
            found = text.find(frame, position) if frame else -1
            if following == END and found >= 0 and found + len(frame) != len(text):
                found = len(text) - len(frame) if text.endswith(frame) else -1
                found = found if found >= position else -1
            if found >= 0:
                candidate = (found, -len(frame), following)
                best = candidate if best is None else min(best, candidate)
    close = delimiters.closes.get(role)
    closed = text.find(close, position) if close else -1
    if best is not None and (closed < 0 or best[0] <= closed):
        return best[0], best[0] - best[1], best[2]
    if closed < 0:
        return len(text), len(text), END  # the last turn goes on: nothing closes it
    assert close is not None
    after = closed + len(close)
    opening: tuple[int, int, str] | None = None
    for following, open_text in delimiters.opens.items():
        # An opening may begin with the closing itself.
        found = text.find(open_text, closed)
        if found >= 0 and (opening is None or found < opening[0]):
            opening = (found, found + len(open_text), following)
    if opening is None:
        return closed, after, END
    return closed, opening[1], opening[2]


def tool_schemas(preamble: str) -> list[dict[str, object]]:
    """The tool schemas that stand as JSON objects in what a template puts before the turns."""
    decoder = json.JSONDecoder()
    tools: list[dict[str, object]] = []
    position = preamble.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(preamble, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            if isinstance(value, dict) and ("function" in value or "parameters" in value):
                tools.append(value)
        position = preamble.find("{", end)
    return tools
