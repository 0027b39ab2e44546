"""The default predictor's fit: what prompts ask for, averaged over LLMs.

The target of a prompt is the mean, over all LLMs that answered it, of the rank of its length among
that LLM's lengths, as a normal deviate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pars_export.inputs import InputSpec
from pars_export.runtimes.student import StudentScorer, read_network
from pars_export.words import WordTokenizer, train_tokenizer
from pars_model.lengths import LengthTable
from pars_model.linear import Arrays, Design, LinearShape
from pars_model.ngrams import NgramRidge, rank_targets
from pars_model.universal.sources import FAMILIES, family_of

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Recipe:
    """How the default predictor looks and learns."""

    spec: InputSpec = field(default_factory=lambda: InputSpec(256, "head_tail"))
    """What of a text is read."""
    vocabulary: int = 4_000
    """Most subwords."""
    shape: LinearShape = field(default_factory=lambda: LinearShape(documents=10, ends=0.25))
    """Its inputs."""
    balance: float = 1.0
    """0: every prompt counts alike; 1: every family of data sets does."""
    doubt: float = 3.0
    """A prompt that this many LLMs have answered counts half as much as one of very many."""


@dataclass(frozen=True)
class Fitted:
    """What was learned."""

    scores: Floats
    """Of all prompts of the table, (n,), those included that it did not learn from."""
    arrays: Arrays
    """Of the student."""
    tokenizer_json: str
    """Its subwords."""
    spec: InputSpec
    """What of a text it reads."""

    def scorer(self) -> StudentScorer:
        """What serves."""
        tokenizer = WordTokenizer(self.tokenizer_json, self.spec)
        return StudentScorer(tokenizer, read_network(self.arrays))


class Material:
    """The prompts of a table, and what is to be learned of them.

    Attributes:
        family: number of each prompt's family, (n,).
    """

    def __init__(self, table: LengthTable, recipe: Recipe) -> None:
        self.table, self.recipe = table, recipe
        number = [FAMILIES.index(family_of(name)) for name in table.datasets]
        self.family = np.zeros(len(table.prompts), dtype=np.int64)
        self.family[table.prompt] = np.array(number)[table.dataset]
        self._read: dict[tuple[object, ...], _Reading] = {}

    def variant(self, recipe: Recipe) -> Material:
        """The same prompts by another recipe; what both read alike is read once."""
        other = Material(self.table, recipe)
        other._read = self._read
        return other

    def fit(self, train: Bools | None = None) -> Fitted:
        """Learn from some prompts of the table, (n,), or from all; subwords included."""
        numbers, target, weight = self.lesson(train)
        read, recipe = self._reading(numbers), self.recipe
        design = Design(read.ids, read.features, numbers, read.tokens, recipe.shape)
        found = design.fit(numbers, target, weight)
        scores = (design.matrix @ found).astype(np.float32)
        return Fitted(scores, design.arrays(found), read.tokenizer_json, recipe.spec)

    def ridge(self, train: Bools | None = None) -> NgramRidge:
        """The n-gram ridge that every table has, fitted on the same prompts."""
        numbers, target, weight = self.lesson(train)
        # It holds out every tenth to choose its penalty: they must be of all families.
        order = np.random.default_rng(0).permutation(len(numbers))
        texts = [self.table.prompts[number] for number in numbers[order]]
        return NgramRidge(texts, target[order], weight[order])

    def lesson(
        self, train: Bools | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Numbers of the prompts to learn from, their targets and weights."""
        everything = np.ones(len(self.table.prompts), dtype=bool)
        items = (everything if train is None else train)[self.table.prompt]
        target, count = rank_targets(self.table, items)
        numbers = np.flatnonzero(count > 0)
        weight = count[numbers] / (count[numbers] + self.recipe.doubt)
        size = np.bincount(self.family[numbers], minlength=len(FAMILIES))
        weight *= np.maximum(size, 1.0)[self.family[numbers]] ** -self.recipe.balance
        return numbers, target[numbers], weight / weight.mean()

    def left_out(self, name: str) -> Bools:
        """Prompts of all families but one, (n,)."""
        return self.family != FAMILIES.index(name)  # type: ignore[no-any-return]

    def unseen_kinds(self) -> Floats:
        """Scores of each prompt, (n,), by a fit on all families but its own."""
        return self._by_family(lambda train, mine: self.fit(train).scores[mine])

    def unseen_kinds_by_ridge(self) -> Floats:
        """The same by the n-gram ridge."""
        texts = self.table.prompts
        return self._by_family(
            lambda train, mine: self.ridge(train).score([texts[each] for each in mine])
        )

    def _by_family(self, score: Callable[[Bools, NDArray[np.int64]], Floats]) -> Floats:
        scores = np.zeros(len(self.family), dtype=np.float32)
        for number, name in enumerate(FAMILIES):
            mine = np.flatnonzero(self.family == number)
            if len(mine):
                scores[mine] = score(self.left_out(name), mine)
        return scores

    def _reading(self, numbers: NDArray[np.int64]) -> _Reading:
        """All prompts as subwords of those to learn from."""
        vocabulary, spec, texts = self.recipe.vocabulary, self.recipe.spec, self.table.prompts
        key = (vocabulary, spec, numbers.tobytes())
        if key not in self._read:
            content = train_tokenizer((texts[number] for number in numbers), vocabulary)
            tokenizer = WordTokenizer(content, spec)
            ids, features = tokenizer.read_all(texts)
            self._read[key] = _Reading(content, tokenizer.vocab_size, ids, features)
        return self._read[key]


@dataclass(frozen=True)
class _Reading:
    tokenizer_json: str
    tokens: int
    ids: list[list[int]]
    features: Floats
