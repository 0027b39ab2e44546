"""Training of a student's linear part: ridge regression on hashed n-grams of subwords.

`pars_export.runtimes.ngrams` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, hstack
from scipy.sparse.linalg import lsqr, svds

from pars_export.runtimes.arrays import Floats
from pars_export.runtimes.ngrams import MARK, Rows, counted, standardised

Doubles = NDArray[np.float64]
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class LinearShape:
    """Which inputs there are, and how much each may say."""

    pair_buckets: int = 131_072
    """Numbers that hashed pairs of neighbouring tokens share."""
    end_buckets: int = 32_768
    """The same for first and last tokens."""
    documents: int = 2
    """Texts that a token, pair or end must occur in to count."""
    penalty: float = 8.0
    """Of squared coefficients; the n-grams of a text have length 1."""
    ngrams: float = 1.0
    """Weight of n-grams beside the other inputs; 0 leaves them out."""
    ends: float = 0.5
    """Weight of first and last tokens."""
    surface: float = 0.3
    """Weight of the surface features, standardised."""
    topics: int = 0
    """Principal directions of n-grams and ends that are inputs of their own: what occurs together
    then says nearly the same, be each of it ever so rare. They cost nothing to serve: a direction's
    coefficient is spread over the n-grams and ends that it is made of."""
    topic_weight: float = 1.0
    """Of those directions beside the n-grams."""


class Design:
    """The inputs of texts as one sparse matrix.

    Args:
        ids: of each text, one id or more.
        features: surface features (n, f).
        train: numbers of the texts that are learned from; what others hold changes nothing.
        tokens: size of the vocabulary.
        shape: which inputs there are.

    Attributes:
        matrix: (n, columns), its last column 1.
    """

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        features: Floats,
        train: NDArray[np.int64],
        tokens: int,
        shape: LinearShape,
    ) -> None:
        self.shape, rows, n = shape, Rows(ids), len(ids)
        self._learned = np.zeros(n, dtype=bool)
        self._learned[train] = True
        token = _sparse(*counted(rows.text, rows.ids, tokens), (n, tokens))
        pairs = shape.pair_buckets
        pair = _sparse(*counted(*rows.pairs(pairs), pairs), (n, pairs))
        end_text, end = rows.ends(shape.end_buckets)
        ends = _sparse(end_text, end, np.ones(len(end)), (n, shape.end_buckets))
        self.token_idf, self.pair_idf = self._idf(token), self._idf(pair)
        grams = csr_matrix(hstack([token @ diags(self.token_idf), pair @ diags(self.pair_idf)]))
        length = np.sqrt(grams.multiply(grams).sum(axis=1).A1)
        grams = diags(shape.ngrams / np.maximum(length, 1e-6)) @ grams
        ends = csr_matrix(ends @ diags(shape.ends * (self._documents(ends) >= shape.documents)))
        learned = features[train]
        self.feature_mean = learned.mean(axis=0)
        spread = learned.std(axis=0)
        self.feature_scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype("f4")
        surface = shape.surface * standardised(features, self.feature_mean, self.feature_scale)
        ones = np.ones((n, 1))
        words = csr_matrix(hstack([grams, ends]))
        self._topics = shape.topic_weight * _directions(words[train], shape.topics)
        self.matrix = csr_matrix(hstack([words, csr_matrix(surface), csr_matrix(ones)]))
        self.matrix.eliminate_zeros()

    def fit(self, train: NDArray[np.int64], target: Doubles, weight: Doubles) -> Doubles:
        """Coefficients (columns,) from texts, their targets (m,) and weights (m,)."""
        root = np.sqrt(weight)
        known = self.matrix[train]
        words, topics = self._topics.shape
        x = diags(root) @ csr_matrix(hstack([known, csr_matrix(known[:, :words] @ self._topics)]))
        damp = self.shape.penalty**0.5
        found = lsqr(x, root * target, damp=damp, atol=1e-5, btol=1e-5, iter_lim=400)[0]
        coefficients: Doubles = found[: len(found) - topics]
        coefficients[:words] += self._topics @ found[len(found) - topics :]
        return coefficients

    def arrays(self, coefficients: Doubles) -> Arrays:
        """What `pars_export.runtimes.ngrams` reads."""
        shape = self.shape
        sizes = (
            len(self.token_idf),
            shape.pair_buckets,
            shape.end_buckets,
            len(self.feature_mean),
        )
        token, pair, end, surface, bias = np.split(coefficients, np.cumsum(sizes))
        half = {
            MARK: shape.ngrams * token,
            "ngram_token_idf": self.token_idf,
            "ngram_pair": shape.ngrams * pair,
            "ngram_pair_idf": self.pair_idf,
            "ngram_end": shape.ends * end,
        }
        single = {
            "ngram_surface": shape.surface * surface,
            "ngram_feature_mean": self.feature_mean,
            "ngram_feature_scale": self.feature_scale,
            "ngram_bias": bias,
        }
        return {
            **{name: each.astype(np.float16) for name, each in half.items()},
            **{name: each.astype(np.float32) for name, each in single.items()},
        }

    def _documents(self, counts: csr_matrix) -> NDArray[np.int64]:
        """In how many of the learned texts each column occurs."""
        found: NDArray[np.int64] = np.bincount(
            counts[self._learned].indices, minlength=counts.shape[1]
        )
        return found

    def _idf(self, counts: csr_matrix) -> Doubles:
        """0 for what occurs in too few learned texts: it would be learned by heart."""
        documents = self._documents(counts)
        idf = np.log((1 + self._learned.sum()) / (1 + documents)) + 1
        return np.where(documents >= self.shape.documents, idf, 0.0)


def _directions(rows: csr_matrix, count: int) -> Doubles:
    """Principal directions of rows (n, columns), of length 1: (columns, at most count)."""
    count = min(count, min(rows.shape) - 1)
    if count <= 0:
        return np.zeros((rows.shape[1], 0))
    start = np.random.default_rng(0).normal(size=min(rows.shape))
    found: Doubles = svds(rows, k=count, v0=start)[2].T
    return found


def _sparse(
    text: NDArray[np.int64],
    column: NDArray[np.int64],
    value: Doubles,
    shape: tuple[int, int],
) -> csr_matrix:
    return csr_matrix((value, (text, column)), shape=shape)
