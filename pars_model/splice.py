"""Prompts made up of parts of others: a teacher scores any text, and a student learns from more.

A student that has seen only the prompts of a table knows few combinations of their words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

_WITH_ITS_INPUT = 0.35
"""Share of splices that put one prompt's further lines under the first line of another."""


def splice(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Up to ``count`` texts, each once: the start of one text and the end of another.

    Args:
        texts: what the parts are of.
        count: how many to try; those that come twice or are empty are left out.
        seed: of the choice.
    """
    draw = random.Random(seed)
    made = dict.fromkeys(join(draw, draw.choice(texts), draw.choice(texts)) for _ in range(count))
    return [text for text in made if text.strip()]


def join(draw: random.Random, one: str, other: str) -> str:
    """The start of one text and the end of another."""
    instruction, further = one.partition("\n")[0], other.partition("\n")[2]
    if further and draw.random() < _WITH_ITS_INPUT:
        return f"{instruction}\n{further}"
    start, end = one.split(" "), other.split(" ")
    return " ".join(start[: draw.randint(1, len(start))] + end[draw.randrange(len(end)) :])
