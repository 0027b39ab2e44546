"""The default predictor's fit: what prompts ask for, averaged over LLMs.

The target of a prompt is the mean, over all LLMs that answered it, of the rank of its length among
that LLM's lengths, as a normal deviate. Two models learn it: a ridge regression on what a
pretrained encoder says of the prompt, which carries over to other kinds of prompts, and a linear
model on n-grams, which is better on the same kinds. Their sum is the teacher of a student that
serves without the encoder: of all prompts, and of many made-up ones whose lengths nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_export.inputs import InputSpec
from pars_export.runtimes.student import StudentScorer, read_network
from pars_export.words import WordTokenizer, train_tokenizer
from pars_model.course import Course
from pars_model.lengths import LengthTable, text_fraction
from pars_model.linear import Arrays, Design, LinearShape
from pars_model.ngrams import NgramRidge
from pars_model.ranks import rank_targets
from pars_model.student import StudentShape
from pars_model.student_fit import Recipe as StudentRecipe
from pars_model.student_fit import Vectors, fit_student, predict
from pars_model.universal.corpus import Corpus, Sizes, make_corpus
from pars_model.universal.reader import Reader
from pars_model.universal.sources import FAMILIES, family_of

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

_VAL = 0.05
"""Share of the prompts that choose a student's epoch."""
_TOLD = 128
"""Components of the encoder's features that a student learns to tell."""


@dataclass(frozen=True)
class Recipe:
    """How the default predictor looks and learns."""

    balance: float = 1.0
    """0: every prompt counts alike; 1: every family of data sets does, but for `exam`."""
    exam: float = 0.3
    """Weight of exam questions beside 1 of another family: their subjects tell lengths apart, and
    the contrary elsewhere (of law or history an exam asks for little, a chat for much)."""
    doubt: float = 3.0
    """A prompt that this many LLMs have answered counts half as much as one of very many."""
    penalty: float = 10_000.0
    """Of the squared coefficients of the ridge on the encoder's components."""
    linear: float = 0.25
    """Share of the linear model in the teacher, beside 1 for the encoder's."""
    spec: InputSpec = field(default_factory=lambda: InputSpec(256, "head_tail"))
    """What of a text the linear model reads."""
    vocabulary: int = 4_000
    """Most subwords that the linear model knows."""
    shape: LinearShape = field(
        default_factory=lambda: LinearShape(
            documents=10, ends=0.25, penalty=16.0, topics=100, topic_weight=2.0
        )
    )
    """The linear model's inputs."""
    made: Sizes = field(default_factory=Sizes)
    """Prompts that are made up."""
    student: StudentRecipe = field(
        default_factory=lambda: StudentRecipe(
            shape=StudentShape(8_000, 16_384, 96, 96, 192),
            course=Course(epochs=3, lr=3e-3, batch_size=256),
            label_weight=0.0,
            vector_weight=1.0,
        )
    )
    """How the student looks and learns."""
    wide: float = 0.35
    """Share of a linear model on the student's tokens in what serves, beside 1 for the student."""


@dataclass(frozen=True)
class Fitted:
    """What was learned."""

    scores: Floats
    """Of all prompts of the table, (n,), those included that it did not learn from."""
    arrays: Arrays
    """Of the student, of a linear model, or of both."""
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

    Args:
        table: with all lengths.
        recipe: how.
        folder: where what the encoder says is kept between runs; nowhere by default.

    Attributes:
        family: number of each prompt's family, (n,).
    """

    def __init__(self, table: LengthTable, recipe: Recipe, folder: Path | None = None) -> None:
        self.table, self.recipe, self._folder = table, recipe, folder
        self._linear: dict[tuple[str, ...], Fitted] = {}
        number = [FAMILIES.index(family_of(name)) for name in table.datasets]
        self.family = np.zeros(len(table.prompts), dtype=np.int64)
        self.family[table.prompt] = np.array(number)[table.dataset]

    @cached_property
    def reader(self) -> Reader:
        """The encoder, once it has read the prompts."""
        return Reader(self.table.prompts, self._folder)

    @cached_property
    def known(self) -> Floats:
        """What it says of them, (n, components)."""
        return self.reader.known

    @cached_property
    def corpus(self) -> Corpus:
        """The prompts that are made up."""
        made = self.recipe.made
        return make_corpus(self.table.prompts, self.family, self.reader.words(), made)

    @cached_property
    def corpus_known(self) -> Floats:
        """What the encoder says of those."""
        return self.reader(self.corpus.texts)

    def fit(self, without: Sequence[str] = ()) -> Fitted:
        """What serves: the student, and the linear model on its tokens beside it.

        Args:
            without: families that are left out, lengths and texts, but for the principal
            components of the encoder's features, which are those of all prompts.
        """
        made = self.corpus.without(without)
        more = [text for text, kept in zip(self.corpus.texts, made, strict=True) if kept]
        vectors = np.concatenate([self.known, self.corpus_known[made]])[:, :_TOLD]
        prompts, (numbers, _, weight) = self.table.prompts, self.lesson(without)
        part = np.full(len(prompts) + len(more), "train", dtype="<U5")
        part[: len(prompts)] = "test"
        part[numbers] = ["val" if text_fraction(prompts[n]) < _VAL else "train" for n in numbers]
        student = fit_student(
            self.table,
            [*prompts, *more],
            part,
            self.teacher(without, more, self.corpus_known[made]),
            self.recipe.student,
            Vectors(vectors, lambda words: self.reader(words)[:, :_TOLD]),
        )
        spec = self.recipe.student.spec
        tokenizer = WordTokenizer(student.tokenizer_json, spec)
        ids, features = tokenizer.read_all(prompts)
        design, coefficients = self._designed(without, tokenizer.vocab_size, ids, features)

        def moments(scores: NDArray[np.floating]) -> tuple[float, float]:
            mean = np.average(scores[numbers], weights=weight)
            square = np.average((scores[numbers] - mean) ** 2, weights=weight)
            return float(mean), float(np.sqrt(square))

        # Fits without different families are calibrated together: all in one unit.
        deep, wide = predict(student.network, ids, features), design.matrix @ coefficients
        mean, deviation = moments(deep)
        wide_mean, wide_deviation = moments(wide)
        share = self.recipe.wide / wide_deviation
        _, whole = moments((deep - mean) / deviation + share * (wide - wide_mean))
        student.network.rescale(mean, deviation * whole)
        coefficients[-1] -= wide_mean
        coefficients *= share / whole
        scores = predict(student.network, ids, features) + design.matrix @ coefficients
        arrays = student.network.arrays() | design.arrays(coefficients)
        return Fitted(scores.astype(np.float32), arrays, student.tokenizer_json, spec)

    def teacher(
        self, without: Sequence[str], more: Sequence[str] = (), known: Floats | None = None
    ) -> Floats:
        """The teacher's scores of all prompts and of further texts.

        Args:
            without: families that it does not learn from.
            more: the further texts.
            known: what the encoder says of them, (n, components).
        """
        linear, encoder = self.linear(without), self.encoder(without)
        wanted, spoken = encoder(self.known), linear.scores
        if known is not None:
            wanted = np.concatenate([wanted, encoder(known)])
            spoken = np.concatenate([spoken, linear.scorer().score(more)])
        numbers, _, _ = self.lesson(without)
        wanted, spoken = (each / each[numbers].std() for each in (wanted, spoken))
        found: Floats = wanted + np.float32(self.recipe.linear) * spoken
        return found

    def linear(self, without: Sequence[str] = ()) -> Fitted:
        """The linear model, subwords included."""
        key = tuple(without)
        if key not in self._linear:
            numbers, _, _ = self.lesson(without)
            recipe, texts = self.recipe, self.table.prompts
            content = train_tokenizer((texts[number] for number in numbers), recipe.vocabulary)
            tokenizer = WordTokenizer(content, recipe.spec)
            read = tokenizer.read_all(texts)
            design, found = self._designed(without, tokenizer.vocab_size, *read)
            scores = (design.matrix @ found).astype(np.float32)
            self._linear[key] = Fitted(scores, design.arrays(found), content, recipe.spec)
        return self._linear[key]

    def _designed(
        self,
        without: Sequence[str],
        tokens: int,
        ids: Sequence[Sequence[int]],
        features: Floats,
    ) -> tuple[Design, Doubles]:
        """The linear model's inputs and coefficients on a tokenizer's ids of all prompts."""
        numbers, target, weight = self.lesson(without)
        design = Design(ids, features, numbers, tokens, self.recipe.shape)
        return design, design.fit(numbers, target, weight)

    def encoder(self, without: Sequence[str] = ()) -> Callable[[Floats], Floats]:
        """The ridge on what the encoder says: components (n, c) to scores (n,)."""
        numbers, target, weight = self.lesson(without)

        def inputs(rows: Floats) -> Doubles:
            return np.concatenate([rows, np.ones((len(rows), 1))], axis=1, dtype=np.float64)

        x = inputs(self.known[numbers])
        weighted = (x * weight[:, None]).T
        penalty = self.recipe.penalty * np.eye(x.shape[1])
        coefficients = np.linalg.solve(weighted @ x + penalty, weighted @ target)
        return lambda rows: (inputs(rows) @ coefficients).astype(np.float32)

    def ridge(self, without: Sequence[str] = ()) -> NgramRidge:
        """The n-gram ridge that every table has, fitted on the same prompts."""
        numbers, target, weight = self.lesson(without)
        # Every fifth text is a fold that chooses its penalty: each must be of all families.
        order = np.random.default_rng(0).permutation(len(numbers))
        texts = [self.table.prompts[number] for number in numbers[order]]
        return NgramRidge(texts, target[order], weight[order])

    def lesson(self, without: Sequence[str] = ()) -> tuple[Ints, Doubles, Doubles]:
        """Numbers of the prompts to learn from, their targets and weights."""
        items = ~np.isin(self.family, [FAMILIES.index(name) for name in without])[self.table.prompt]
        target, count = rank_targets(self.table, items)
        numbers = np.flatnonzero(count > 0)
        weight = count[numbers] / (count[numbers] + self.recipe.doubt)
        size = np.bincount(self.family[numbers], minlength=len(FAMILIES))
        weight *= np.maximum(size, 1.0)[self.family[numbers]] ** -self.recipe.balance
        weight[self.family[numbers] == FAMILIES.index("exam")] *= self.recipe.exam
        return numbers, target[numbers], weight / weight.mean()

    def by_family(self, score: Callable[[str], Floats]) -> Floats:
        """Scores of each prompt, (n,), by what was fitted without its family.

        Args:
            score: name of a family to scores of all prompts, (n,), by a fit without it.
        """
        scores = np.zeros(len(self.family), dtype=np.float32)
        for number, name in enumerate(FAMILIES):
            mine = self.family == number
            if mine.any():
                scores[mine] = score(name)[mine]
        return scores
