"""Prompts out of templates and word lists, the same on every Python.

A slot is ``{field}`` (a value of that word list; the same value wherever it recurs in a prompt),
``{field.2}`` (another value of that list) or ``{12..99}`` (a whole number, drawn anew at each
place). A value may hold slots itself. Which value fills which slot follows from a hash of a key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

_SLOT = re.compile(r"\{(?:(?P<low>\d+)\.\.(?P<high>\d+)|(?P<field>[a-z_]+)(?:\.(?P<nth>\d))?)\}")


def hash_of(*parts: object) -> int:
    """A whole number below 2**64 that follows from the parts alone."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def fill(template: str, fields: Mapping[str, Sequence[str]], key: str) -> str:
    """Fill the slots of ``template`` with values that follow from ``key`` alone.

    Raises:
        KeyError: a slot names a word list that ``fields`` does not hold.
        ValueError: a prompt asks for more different values than its word list has.
    """
    chosen: dict[str, dict[str, str]] = {}  # word list -> slot -> the value as listed
    filled: dict[str, str] = {}  # slot -> the value with its own slots filled
    numbers = 0

    def value_of(match: re.Match[str]) -> str:
        nonlocal numbers
        if match["low"] is not None:
            low, high = int(match["low"]), int(match["high"])
            numbers += 1
            return str(low + hash_of(key, "number", numbers) % (high - low + 1))
        slot = match[0]
        if slot not in filled:
            field = match["field"]
            of_field = chosen.setdefault(field, {})
            free = [value for value in fields[field] if value not in of_field.values()]
            if not free:
                raise ValueError(f"{key}: the word list {field} is too short for one prompt")
            of_field[slot] = free[hash_of(key, slot) % len(free)]
            filled[slot] = _SLOT.sub(value_of, of_field[slot])
        return filled[slot]

    return _SLOT.sub(value_of, template)
