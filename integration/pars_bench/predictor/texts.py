"""Texts of an exact number of tokens, out of the words of prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pars_bench.predictor.contestants import Contestant
from pars_export.artifact import read_manifest
from pars_export.errors import ConfigError
from pars_export.inputs import InputSpec, TextTokenizer
from pars_export.runtimes.encoded import TOKENIZER


def repeated(texts: Sequence[str], count: int) -> list[str]:
    """``count`` of these texts, from the start again where there are fewer."""
    return (list(texts) * (count // len(texts) + 1))[:count]


class TextMaker:
    """Draws texts of plain words, each of which is one token.

    Args:
        tokenizer: what counts the tokens; it must not cut below what is asked for.
        prompts: where the words come from.
        seed: of the draw.

    Raises:
        ConfigError: no word of the prompts is one token.
    """

    def __init__(self, tokenizer: TextTokenizer, prompts: Sequence[str], seed: int = 0) -> None:
        self._tokenizer = tokenizer
        self._random = random.Random(seed)
        words = sorted({word for text in prompts for word in text.split() if word.isalpha()})
        once = [len(each) for each in tokenizer.encode(words)]
        twice = [len(each) for each in tokenizer.encode([f"{word} {word}" for word in words])]
        self._words = [w for w, a, b in zip(words, once, twice, strict=True) if b == a + 1]
        if not self._words:
            raise ConfigError("--prompts: none of their words is one token of the encoder.")
        self._specials = min(once) - 1

    def draw(self, length: int, count: int) -> list[str]:
        """``count`` texts of ``length`` tokens each, special tokens included.

        Raises:
            ConfigError: this tokenizer joins words, so that no such text can be made of them.
        """
        found = [
            " ".join(self._random.choices(self._words, k=length - self._specials))
            for _ in range(count)
        ]
        for ids in self._tokenizer.encode(found):
            if len(ids) != length:
                raise ConfigError(
                    f"A text of {length - self._specials} words has {len(ids)} tokens instead of "
                    f"{length}; this tokenizer cannot be measured at exact lengths."
                )
        return found


def makers_of(
    contestants: Sequence[Contestant], longest: int, prompts: Sequence[str]
) -> dict[str, TextMaker]:
    """One for each encoder's folder; the first is for those of other folders, too."""
    return {
        folder: TextMaker(
            TextTokenizer(Path(folder) / TOKENIZER, InputSpec(max_length=longest)), prompts
        )
        for folder in dict.fromkeys(each.folder for each in contestants)
        if read_manifest(Path(folder), check_hashes=False).kind == "encoder"
    }
