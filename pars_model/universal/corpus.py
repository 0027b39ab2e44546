"""Prompts without lengths, for a teacher to score: many words in many places.

A student that saw only the prompts whose lengths are known would know few words. Three kinds are
added, all made of texts that may be redistributed: further drawings of the project's instructions,
splices of two prompts, and prompts in which words stand for others of the teacher's vocabulary.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pars_model.splice import join
from pars_model.universal.instructions.prompts import DATASET, generate
from pars_model.universal.sources import FAMILIES, family_of

_CHARACTERS = 300
"""Of the longest prompt that splices and substitutions are made of: short ones cost little."""
_SHARES = (0.2, 0.4, 0.7, 1.0)
"""Of the words of a prompt that are substituted."""
_REPLACED, _LEAST = 4, 3
"""Letters, at least, of a word that is substituted, and of one that stands for it."""
_FIRST = 0.45
"""Ranks are drawn evenly by their logarithm, from this power of the number of words on: the most
common ones are in every text anyway."""
_ORDINARY = ("chat", "own prompts")
"""Families that read like what people ask assistants, beside the instructions."""


@dataclass(frozen=True)
class Sizes:
    """How many prompts are made; those that come twice are left out."""

    draws: int = 16
    """Of each template of the instructions."""
    swapped: int = 75_000
    """With words substituted."""
    spliced: int = 65_000
    """Of two prompts."""
    of_all: float = 0.3
    """Share of the latter two made of prompts of any family, in place of ordinary ones."""


@dataclass(frozen=True)
class Corpus:
    """Texts, and what they were made of."""

    texts: tuple[str, ...]
    families: NDArray[np.bool_]
    """Which families' prompts each is made of, (n, families)."""

    def without(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Those with nothing of some families, (n,)."""
        numbers = [FAMILIES.index(name) for name in names]
        return np.logical_not(self.families[:, numbers].any(axis=1))


def make_corpus(
    prompts: Sequence[str],
    family: NDArray[np.int64],
    words: Sequence[str],
    sizes: Sizes,
    seed: int = 0,
) -> Corpus:
    """Make prompts of others; none of them is one of ``prompts``.

    Args:
        prompts: with known lengths.
        family: number of each one's, (n,).
        words: to substitute others by, the most common first.
        sizes: how many.
        seed: of the choice.
    """
    draw = random.Random(seed)
    made: dict[str, int] = defaultdict(int)  # text -> bits of families
    instruction = FAMILIES.index(family_of(DATASET))
    drawn = [row["prompt"] for row in generate(sizes.draws)]
    made |= dict.fromkeys(drawn, 1 << instruction)
    known = [(text, int(each)) for text, each in zip(prompts, family, strict=True)]
    known += [(text, instruction) for text in drawn]  # those that were measured count twice
    short = [each for each in known if len(each[0]) <= _CHARACTERS]
    families = {instruction, *(FAMILIES.index(name) for name in _ORDINARY)}
    ordinary = [each for each in short if each[1] in families] or short

    def one() -> tuple[str, int]:
        return draw.choice(short if draw.random() < sizes.of_all else ordinary)

    if short:
        for _ in range(sizes.swapped):
            text, number = one()
            made[_substituted(text, words, draw)] |= 1 << number
        for _ in range(sizes.spliced):
            (first, number), (second, other) = one(), one()
            made[join(draw, first, second)] |= 1 << number | 1 << other
    for text in (*prompts, ""):
        made.pop(text, None)
    bits = np.array(list(made.values()), dtype=np.int64)
    families_of = (bits[:, None] >> np.arange(len(FAMILIES))) & 1
    return Corpus(tuple(made), families_of.astype(bool))


def _substituted(text: str, words: Sequence[str], draw: random.Random) -> str:
    share = draw.choice(_SHARES)
    parts = re.split(r"(\W+)", text)
    for place in range(0, len(parts), 2):
        word = parts[place]
        if len(word) >= _REPLACED and word.isalpha() and draw.random() < share:
            rank = int(len(words) ** draw.uniform(_FIRST, 1)) - 1
            parts[place] = words[rank].capitalize() if word[0].isupper() else words[rank]
    return "".join(parts)


def whole_words(vocabulary: dict[str, int]) -> list[str]:
    """Words of a WordPiece vocabulary in plain letters, in the order of their ids."""
    words = (each for each in vocabulary if len(each) >= _LEAST and each.isascii())
    return sorted((each for each in words if each.isalpha()), key=vocabulary.__getitem__)
