"""Text to subword ids and surface features in microseconds: what a student reads.

A text is cut into words by one regular expression; each distinct word goes through the trained
WordPiece tokenizer once and is remembered. Both ends of a long text are read, its middle is only
measured, so the cost is bounded whatever a client sends.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import ascii_uppercase, digits

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pars_export.errors import InputError, PredictorError
from pars_export.inputs import PROBE, InputSpec, clean, token_ids
from pars_export.remembered import Remembered

FEATURES = (
    "log characters",
    "log words read",
    "log line breaks",
    "share of capitals",
    "share of digits",
    "question mark at the end",
    "cut",
)
"""What stands beside the tokens, in this order."""

PAD, UNKNOWN = "[PAD]", "[UNK]"
# Letters, digits or one other sign. Long runs are broken up: the tokenizer gives up on them.
_WORD = re.compile(r"[^\W\d_]{1,24}|\d{1,4}|[^\w\s]|_")
_CAPITALS, _DIGITS = ascii_uppercase.encode(), digits.encode()
_CHARACTERS_PER_TOKEN = 4
_LETTERS = 1000
"""Most letters of a vocabulary, the most frequent ones."""


def split_words(text: str) -> list[str]:
    """The lower-case words, numbers and signs of a text, in order."""
    return _WORD.findall(text.lower())


def part_read(text: str, spec: InputSpec) -> str:
    """The part of a text that is read, without lone surrogates.

    Texts of up to ``8 * max_length`` characters are read whole, of longer ones that many in
    all, half of them at either end (at the head alone with truncation `head`).
    """
    keep = _CHARACTERS_PER_TOKEN * spec.max_length
    if len(text) > 2 * keep:
        both = spec.truncation == "head_tail"
        text = f"{text[:keep]}\n{text[-keep:]}" if both else text[: 2 * keep]
    return clean(text)


def surface(text: str, spec: InputSpec, tokens_cut: bool = False) -> list[float]:
    """`FEATURES` of a text: what `WordTokenizer.read` gives, without its tokens.

    Args:
        text: the whole of it.
        spec: how it is cut; a part of it is read as `part_read` has it.
        tokens_cut: whether its tokens are more than fit, which counts as cut too.
    """
    read = part_read(text, spec)
    return _features(len(text), read, len(read.split()), spec, tokens_cut)


def _features(whole: int, read: str, words: int, spec: InputSpec, tokens_cut: bool) -> list[float]:
    """`FEATURES` from a text's characters, the part read and the number of words there."""
    signs = read.encode()
    size = max(len(signs), 1)
    return [
        math.log1p(whole),
        math.log1p(words),
        math.log1p(read.count("\n")),
        (len(signs) - len(signs.translate(None, _CAPITALS))) / size,
        (len(signs) - len(signs.translate(None, _DIGITS))) / size,
        float(read.rstrip()[-1:] == "?"),
        float(tokens_cut or whole > 2 * _CHARACTERS_PER_TOKEN * spec.max_length),
    ]


class WordTokenizer:
    """Texts to ids and features, cut as an `InputSpec` says (`part_read`)."""

    def __init__(self, tokenizer_json: str, spec: InputSpec) -> None:
        """Build from the content of a `tokenizer.json` that `train_tokenizer` wrote.

        Raises:
            PredictorError: it is no tokenizer, one without padding or with gaps between its ids,
                or its rules are at odds.
        """
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise PredictorError(f"not a tokenizer that can be read ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.spec = spec
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        if max(self._tokenizer.get_vocab().values(), default=0) >= self.vocab_size:
            raise PredictorError("not a student's tokenizer: its ids have gaps")
        token_ids(self._tokenizer, PROBE)
        if self._tokenizer.token_to_id(PAD) != 0:
            raise PredictorError(f"not a student's tokenizer: its first token is not {PAD}")
        # Words, and what stands between white space, which is read a step sooner as a whole.
        self._words = Remembered(self._ids_of_word)
        self._ids = Remembered(self._ids_of)
        self._tail = spec.max_length // 2 if spec.truncation == "head_tail" else 0

    def pieces(self) -> list[str]:
        """The vocabulary in the order of its ids: whole words, and `##` before what goes on."""
        ids = self._tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)

    def read(self, text: str) -> tuple[list[int], list[float]]:
        """Ids (at least one, at most ``spec.max_length``) and `FEATURES` of one text."""
        read = part_read(text, self.spec)
        chunks = read.lower().split()
        ids: list[int] = []
        for chunk in chunks:
            ids += self._ids[chunk]
        room = self.spec.max_length
        cut = len(ids) > room
        if cut:
            ids = ids[: room - self._tail] + ids[len(ids) - self._tail :]
        return ids or [0], _features(len(text), read, len(chunks), self.spec, cut)

    def read_all(self, texts: Sequence[str]) -> tuple[list[list[int]], NDArray[np.float32]]:
        """Ids of each text, and their features (n, len(FEATURES)).

        Raises:
            InputError: one of the texts is not a string.
        """
        ids, features = [], np.empty((len(texts), len(FEATURES)), dtype=np.float32)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"Text {index} must be a string, found {type(text).__name__}.")
            found, features[index] = self.read(text)
            ids.append(found)
        return ids, features

    def _ids_of_word(self, word: str) -> list[int]:
        return token_ids(self._tokenizer, word)

    def _ids_of(self, chunk: str) -> list[int]:
        return [token for word in split_words(chunk) for token in self._words[word]]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """Content of the `tokenizer.json` of a WordPiece vocabulary for the words of these texts.

    The same for the same texts: the trainer breaks ties by the numbers of the parts, and would
    choose and number letters by chance, so that is done here.
    """
    rows = [" ".join(split_words(clean(text))) for text in texts]
    tokenizer = _word_piece({})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, UNKNOWN, *_letters(rows)],
        limit_alphabet=0,
        show_progress=False,
    )
    tokenizer.train_from_iterator(rows, trainer)
    # Once more, without the letters as special tokens.
    content: str = _word_piece(tokenizer.get_vocab()).to_str()
    return content


def _word_piece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _letters(rows: Iterable[str]) -> list[str]:
    """The most frequent letters, at the start of a word and inside, in a fixed order."""
    words = Counter(word for row in rows for word in row.split())
    often: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        for letter in word:
            often[letter] += count
        inside.update(word[1:])
    kept = sorted(sorted(often, key=lambda letter: (-often[letter], letter))[:_LETTERS])
    return [*kept, *(f"##{letter}" for letter in kept if letter in inside)]


def read_tokenizer(path: Path, spec: InputSpec) -> WordTokenizer:
    """The tokenizer of a student's folder.

    Raises:
        PredictorError: naming the file.
    """
    try:
        return WordTokenizer(path.read_text(encoding="utf-8"), spec)
    except (PredictorError, UnicodeDecodeError) as error:
        raise PredictorError(f"{path}: {error}; distil the student again.") from error
