"""The baseline that a neural ranker has to beat: ridge regression on n-grams, tuned.

Words and word pairs by TF-IDF, the first and last words as features of their own (they hold the
verb of an instruction and its last demand), and the text's surface features; the target is the
rank of the length inside its LLM's lengths, as a normal deviate, so that no long tail rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, hstack
from scipy.sparse.linalg import lsqr

from pars_export.inputs import InputSpec
from pars_export.words import FEATURES, WordTokenizer, split_words, train_tokenizer
from pars_model.folds import best_penalty
from pars_model.lengths import LengthTable
from pars_model.ranks import rank_targets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PENALTIES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Of squared coefficients; rows of n-grams have length 1."""
_ENDS, _SURFACE = 0.5, 0.3
"""Weights of the other features beside them."""
_READ = 4096
"""Most words read of a text."""


def ngrams_of(words: Sequence[str]) -> list[str]:
    """Words and pairs of neighbouring words."""
    return [*words, *(f"{a} {b}" for a, b in pairwise(words))]


def ends_of(words: Sequence[str]) -> list[str]:
    """Names of the first words, alone and together, and of the last ones."""
    first = [f"first {' '.join(words[:n])}" for n in (1, 2, 3)]
    places = [f"{place} {word}" for place, word in enumerate(words[:4])]
    return [*first, *places, *(f"last {' '.join(words[-n:])}" for n in (1, 2))]


class Terms:
    """Terms that occur in two texts or more, and their columns."""

    def __init__(self, of: Callable[[Sequence[str]], list[str]], texts: Iterable[Sequence[str]]):
        counts = Counter(term for words in texts for term in set(of(words)))
        kept = (term for term, count in counts.items() if count > 1)
        self._of = of
        self.column = {term: number for number, term in enumerate(kept)}

    def count(self, texts: Sequence[Sequence[str]]) -> csr_matrix:
        """How often each term occurs in each text, (n, terms)."""
        rows, columns, data = [], [], []
        for row, words in enumerate(texts):
            for term, count in Counter(self._of(words)).items():
                column = self.column.get(term)
                if column is not None:
                    rows.append(row)
                    columns.append(column)
                    data.append(float(count))
        return csr_matrix((data, (rows, columns)), shape=(len(texts), len(self.column)))


class NgramRidge:
    """Texts to scores by a linear model.

    Args:
        texts: n different texts, two at least.
        target: what to predict of each, (n,); higher means longer.
        weight: how much each counts, (n,); all alike by default.

    Attributes:
        penalty: the one of `PENALTIES` that five folds of the texts chose.
    """

    def __init__(self, texts: Sequence[str], target: Floats, weight: Floats | None = None) -> None:
        words = [split_words(text)[:_READ] for text in texts]
        self._ngrams, self._ends = Terms(ngrams_of, words), Terms(ends_of, words)
        counts = self._ngrams.count(words)
        self._idf = np.log((1 + len(texts)) / (1 + counts.astype(bool).sum(axis=0).A1)) + 1
        surface = _surface(texts)
        self._mean, self._spread = surface.mean(axis=0), np.maximum(surface.std(axis=0), 1e-6)
        x = self._features(counts, self._ends.count(words), surface)
        root = np.ones(len(texts)) if weight is None else np.sqrt(weight)

        def unseen(others: Ints, inner: Ints, penalty: float) -> Floats:
            found: Floats = x[inner] @ _ridge(x[others], target[others], root[others], penalty)
            return found

        self.penalty = best_penalty(PENALTIES, target, unseen)
        self._coefficients = _ridge(x, target, root, self.penalty)

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores (n,) of texts; higher means a longer response."""
        words = [split_words(text)[:_READ] for text in texts]
        counts, ends = self._ngrams.count(words), self._ends.count(words)
        x = self._features(counts, ends, _surface(texts))
        scores: NDArray[np.float32] = (x @ self._coefficients).astype("f4")
        return scores

    def _features(self, counts: csr_matrix, ends: csr_matrix, surface: Floats) -> csr_matrix:
        tfidf = counts.copy()
        tfidf.data = 1 + np.log(tfidf.data)
        tfidf = tfidf @ diags(self._idf)
        lengths = np.sqrt(tfidf.multiply(tfidf).sum(axis=1).A1)
        tfidf = diags(1 / np.maximum(lengths, 1e-12)) @ tfidf
        known = _SURFACE * (surface - self._mean) / self._spread
        ones = np.ones((counts.shape[0], 1))
        return csr_matrix(hstack([tfidf, _ENDS * ends, csr_matrix(known), csr_matrix(ones)]))


def _ridge(x: csr_matrix, target: Floats, root: Floats, penalty: float) -> Floats:
    found: Floats = lsqr(diags(root) @ x, root * target, damp=penalty**0.5, atol=1e-4, btol=1e-4)[0]
    return found


def _surface(texts: Sequence[str]) -> Floats:
    reader = WordTokenizer(train_tokenizer(["a"], 64), InputSpec(max_length=_READ))
    found: Floats = reader.read_all(texts)[1][:, : len(FEATURES) - 1].astype(np.float64)
    return found


def fit_ridge(table: LengthTable, learned: NDArray[np.bool_]) -> NgramRidge:
    """The ridge on some prompts of a table, (prompts,), by the ranks of their lengths.

    A length that was cut off counts as it stands: as the mean of the longer ones it made the
    ridge worse.
    """
    target, _ = rank_targets(table, learned[table.prompt])
    numbers = np.flatnonzero(learned)
    return NgramRidge([table.prompts[number] for number in numbers], target[numbers])
