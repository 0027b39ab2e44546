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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

Message = dict[str, str]
Tool = dict[str, object]

START, END = "", "\0"
"""Stand for the text's ends among the roles."""
_ROLES = ("system", "user", "assistant", "tool")
_MIN_SIGNS = 3
"""A delimiter of fewer signs (white space aside) could be somebody's own text."""

# Conversations that show every frame a chat usually needs; a template may refuse some.
_PROBES: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("system", "user"),
    ("user", "assistant"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "tool"),
    ("user", "assistant", "tool", "assistant", "user"),
    ("user", "user"),
)
_MARKED_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "QxToolxQ",
        "description": "QxToolTextxQ",
        "parameters": {"type": "object", "properties": {}},
    },
}
# Two calls that share nothing: what their renderings end with alike is the template's.
_CALLS: tuple[dict[str, object], ...] = (
    {"name": "look", "arguments": {"a": 1}},
    {"name": "find", "arguments": {"b": "x"}},
)


_SWITCHES: tuple[Mapping[str, object], ...] = (
    *({name: value} for name in ("enable_thinking", "thinking") for value in (True, False)),
    *(
        {"reasoning_effort": effort, **more}
        for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")
        for more in ({}, {"enable_thinking": effort != "none"})
    ),
)
"""What clients switch in the templates of reasoning models, by ``chat_template_kwargs`` or, as vLLM
passes it on with ``enable_thinking``, by ``reasoning_effort``."""


class TemplateError(Exception):
    """The chat template does not render these messages."""


class Render(Protocol):
    """Messages through a chat template; raises TemplateError where it refuses them."""

    def __call__(
        self,
        messages: Sequence[Mapping[str, object]],
        generation: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        """The text.

        ``generation``: whether the prompt for an answer is added; ``variables``: what else a
        template may ask for.
        """


@dataclass(frozen=True)
class ToolFrame:
    """What a template puts around tool schemas, and what stands there without tools."""

    start: str
    """From the start of the text to the system prompt, or to the schemas where there is none."""
    start_plain: str
    """What stands there without tools."""
    before: str
    """From the end of the system prompt to the schemas."""
    after: str
    """From the schemas to the first user message."""
    plain: str
    """From the end of the system prompt to the first user message, without tools."""


@dataclass(frozen=True)
class Delimiters:
    """What a template puts between turns; see :func:`learn`."""

    frames: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(role or START, next role or END) -> texts between their contents."""
    opens: Mapping[str, str] = field(default_factory=dict)
    """Role -> what always stands right before its content, wherever the turn is."""
    closes: Mapping[str, str] = field(default_factory=dict)
    """Role -> what always stands right after its content."""
    tools: Sequence[ToolFrame] = ()
    """Where tool schemas stand."""


def learn(render: Render) -> Delimiters | None:
    """Delimiters of a template; None where it does not keep user content apart and whole."""
    frames = _observed(render, {})
    if (START, "user") not in frames:
        return None
    opens, closes = {}, {}
    for role in _ROLES:
        before = [text for (_, to), texts in frames.items() if to == role for text in texts]
        after = [text for (of, _), texts in frames.items() if of == role for text in texts if text]
        if before and _is_distinct(common := _common_suffix(before)):
            opens[role] = common
        if after and _is_distinct(common := _common_prefix(after)):
            closes[role] = common
    kept = {
        pair: tuple(texts)
        for pair, texts in frames.items()
        if START in pair or all(map(_is_distinct, texts))
    }
    for switch in _SWITCHES:
        for pair, texts in _observed(render, switch).items():
            if pair in kept:
                new = texts.difference(kept[pair])
                kept[pair] += tuple(text for text in new if START in pair or _is_distinct(text))
    answered = [*kept.get(("user", "assistant"), ()), *kept.get(("user", END), ())]
    if not any(map(_is_distinct, kept[START, "user"])) or not any(answered):
        return None
    return Delimiters(kept, opens, closes, _tool_frames(render))


def _marker(index: int, role: str) -> str:
    # Letters and digits alone: a template may strip, escape or re-indent anything else.
    return f"Qx{index}{role.capitalize()}xQ"


def _conversation(roles: Sequence[str], call: Mapping[str, object]) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    for index, (role, following) in enumerate(itertools.pairwise((*roles, END))):
        message: dict[str, object] = {"role": role, "content": _marker(index, role)}
        if role == "tool":
            message |= {"name": "look", "tool_call_id": "abcdefghi"}
        if following == "tool":
            message["tool_calls"] = [{"id": "abcdefghi", "type": "function", "function": call}]
        messages.append(message)
    return messages


def _gaps(
    render: Render,
    roles: Sequence[str],
    generation: bool,
    variables: Mapping[str, object],
    call: Mapping[str, object],
) -> list[str]:
    """Texts before, between and after the markers; empty where the template loses one."""
    try:
        text = render(_conversation(roles, call), generation, None, variables)
    except TemplateError:
        return []
    gaps, position = [], 0
    for index, role in enumerate(roles):
        marker = _marker(index, role)
        found = text.find(marker, position)
        if found < 0:
            return []
        gaps.append(text[position:found])
        position = found + len(marker)
    return [*gaps, text[position:]]


def _observed(render: Render, variables: Mapping[str, object]) -> dict[tuple[str, str], set[str]]:
    """(role or START, next role or END) -> texts that stand between their contents."""
    frames: dict[tuple[str, str], set[str]] = {}
    for roles, generation in itertools.product(_PROBES, (True, False)):
        variants = [_gaps(render, roles, generation, variables, call) for call in _CALLS]
        ends = (*roles, END) if generation else roles
        for pair, gap, other in zip(itertools.pairwise((START, *ends)), *variants, strict=False):
            if pair == ("assistant", "tool"):
                # The calls themselves stand in this gap: only what follows them is the template's.
                gap = _common_suffix([gap, other]).lstrip("}]\"' ")
            frames.setdefault(pair, set()).add(gap)
    return frames


def _tool_frames(render: Render) -> list[ToolFrame]:
    found = []
    for variables, roles in itertools.product(({}, *_SWITCHES), (("user",), ("system", "user"))):
        plain = _gaps(render, roles, True, variables, _CALLS[0])
        try:
            text = render(_conversation(roles, _CALLS[0]), True, [_MARKED_TOOL], variables)
        except TemplateError:
            continue
        name = text.find("QxToolxQ")
        spans = [(start, end) for start, end, _ in _objects(text) if start < name < end]
        user = text.find(_marker(len(roles) - 1, "user"))
        system = text.find(_marker(0, "system"))
        if not plain or not spans or user < spans[0][1]:
            continue
        start, end = spans[0]
        if len(roles) == 1:
            found.append(ToolFrame(text[:start], plain[0], "", text[end:user], ""))
        elif 0 <= system < start:
            between = text[system + len(_marker(0, "system")) : start]
            if _is_distinct(between):
                after = text[end:user]
                found.append(ToolFrame(text[:system], plain[0], between, after, plain[1]))
    return list(dict.fromkeys(found))


def _is_distinct(text: str) -> bool:
    return sum(not sign.isspace() for sign in text) >= _MIN_SIGNS


def _common_prefix(texts: Iterable[str]) -> str:
    texts = list(texts)
    first, last = min(texts), max(texts)  # whatever these two share, all between them share
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(sign for sign, _ in same)


def _common_suffix(texts: Iterable[str]) -> str:
    return _common_prefix(text[::-1] for text in texts)[::-1]


def parse(text: str, delimiters: Delimiters) -> tuple[list[Message], list[Tool]] | None:
    """(messages, tool schemas) of a templated text.

    None where the text has no user turn of this template: a raw prompt, or another template.
    """
    text, tools = _take_tools(text, delimiters)
    preamble, position, role = _enter(text, delimiters)
    if role == START:
        return None
    messages: list[Message] = []
    if preamble.strip():
        messages.append({"role": "system", "content": preamble})
    while role != END:
        end, after, following = _leave(text, position, role, delimiters)
        messages.append({"role": role, "content": text[position:end]})
        position, role = after, following
    if len(messages) > 1 and messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()  # the prompt for the answer, not a turn
    return (messages, tools) if any(m["role"] == "user" for m in messages) else None


def _take_tools(text: str, delimiters: Delimiters) -> tuple[str, list[Tool]]:
    """The text as it would be without tools, and their schemas."""
    for frame in delimiters.tools:
        if not text.startswith(frame.start):
            continue
        at = text.find(frame.before, len(frame.start))
        schemas, end = _schemas(text, at + len(frame.before)) if at >= 0 else ([], 0)
        if schemas and text.startswith(frame.after, end):
            kept = text[len(frame.start) : at]
            rest = text[end + len(frame.after) :]
            return frame.start_plain + kept + frame.plain + rest, schemas
    return text, []


def _schemas(text: str, position: int) -> tuple[list[Tool], int]:
    """(tool schemas that follow one another from ``position``, where the last one ends)."""
    decoder = json.JSONDecoder()
    schemas: list[Tool] = []
    end = position
    while text.startswith("{", position):
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        if not {"function", "parameters", "name"} & set(value):
            break
        schemas.append(value)
        end = position
        while text[position : position + 1] in {" ", "\n", ","}:
            position += 1
    return schemas, end


def _objects(text: str) -> list[tuple[int, int, Tool]]:
    """(start, end, value) of the JSON objects in a text, outermost only."""
    decoder = json.JSONDecoder()
    found: list[tuple[int, int, Tool]] = []
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            found.append((position, end, value))
        position = text.find("{", end)
    return found


def _enter(text: str, delimiters: Delimiters) -> tuple[str, int, str]:
    """(what stands before and is no known template, where the first content starts, its role).

    The role is START where no turn is found.
    """
    best: tuple[int, int, str] | None = None  # longest frame; of equal ones the user's
    for (of, role), frames in delimiters.frames.items():
        for frame in frames if of == START else ():
            if frame and text.startswith(frame):
                rank = (len(frame), int(role == "user"), role)
                best = max(best, rank) if best is not None else rank
    if best is not None:
        return "", best[0], best[2]
    opening = _next_open(text, 0, delimiters)
    if opening is None:
        return "", 0, START
    if "" in delimiters.frames.get((START, "system"), ()):
        return "", 0, "system"
    return text[: opening[0]], opening[1], opening[2]


def _next_open(text: str, start: int, delimiters: Delimiters) -> tuple[int, int, str] | None:
    """(start, end, role) of the first opening from ``start``, the longest where some coincide."""
    found = [
        (at, -len(open_text), role)
        for role, open_text in delimiters.opens.items()
        if (at := text.find(open_text, start)) >= 0
    ]
    if not found:
        return None
    at, negative_length, role = min(found)
    return at, at - negative_length, role


def _leave(text: str, position: int, role: str, delimiters: Delimiters) -> tuple[int, int, str]:
    """(end of the content, start of the next one, next role); next role END at the end."""
    found: list[tuple[int, int, str]] = []  # (end, -length of the delimiter, next role)
    for (of, following), frames in delimiters.frames.items():
        for frame in frames if of == role else ():
            if not frame:
                continue
            if following == END:
                at = len(text) - len(frame) if text.endswith(frame) else -1
                at = at if at >= position else -1
            else:
                at = text.find(frame, position)
            if at >= 0:
                found.append((at, -len(frame), following))
    close = delimiters.closes.get(role)
    closed = text.find(close, position) if close else -1
    if found and (closed < 0 or min(found)[0] <= closed):
        end, negative_length, following = min(found)
        return end, end - negative_length, following
    if closed < 0:
        return len(text), len(text), END  # the last turn goes on: nothing closes it
    opening = _next_open(text, closed, delimiters)  # it may begin with the closing itself
    if opening is None:
        return closed, len(text), END
    return closed, opening[1], opening[2]
