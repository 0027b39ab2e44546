"""Prompts from a stream: one a line, or JSONL with `prompt` or `messages`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pars_export.errors import InputError
from pars_export.facts import Facts
from pars_export.inputs import text_of

FORMATS = ("auto", "lines", "jsonl")


@dataclass(frozen=True)
class Prompt:
    """A text to score, what its line called it, and what else its line told."""

    text: str
    prompt_id: str | None = None
    facts: Facts = field(default_factory=Facts)


def read_texts(path: Path) -> list[str]:
    """The texts of a prompt file.

    Raises:
        InputError: no such file, or a line that is no prompt.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such prompt file.")
    # Bytes that are no UTF-8 become lone surrogates, and those U+FFFD: a prompt, not an error.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return [prompt.text for prompt in read_prompts(file, str(path), format_of(path))]


def format_of(path: Path) -> str:
    """The format that a file's name tells."""
    return "jsonl" if path.suffix in (".jsonl", ".ndjson") else "auto"


def read_prompts(lines: Iterable[str], name: str, form: str = "auto") -> Iterator[Prompt]:
    """Prompts of a stream, as they come.

    As `auto`, the first line that is not blank decides: a JSON object with `prompt` or `messages`
    means JSONL. Blank lines are no prompts and skipped.

    Raises:
        InputError: naming the line of JSONL that is no prompt.
    """
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip("\r\n")
        if not line.strip():
            continue
        if form == "auto":
            form = "jsonl" if _is_request(line) else "lines"
        yield Prompt(line) if form == "lines" else _request(line, f"{name}, line {number}")


def _is_request(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and ("prompt" in value or "messages" in value)


def _request(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with prompt or messages.")
    try:
        text = text_of(value.get("prompt"), value.get("messages"), value.get("tools"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    found = value.get("prompt_id")
    facts = Facts.of({**value, "tools": bool(value.get("tools"))})
    return Prompt(text, None if found is None else str(found), facts)
