from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pars_export import PredictorError
from pars_export.inputs import InputSpec
from pars_export.parity import builtin_texts
from pars_export.runtimes.ngrams import NgramNetwork
from pars_export.runtimes.student import read_network
from pars_export.words import WordTokenizer, train_tokenizer
from pars_model.linear import Arrays, Design, LinearShape
from pars_model.metrics import kendall_tau

TEXTS = [*builtin_texts()[:200], "", "a", "a a a a", "日本語 \ud800"]
TOKENIZER = WordTokenizer(train_tokenizer(builtin_texts(), 400), InputSpec(48, "head_tail"))
IDS, FEATURES = TOKENIZER.read_all(TEXTS)
SHAPE = LinearShape(pair_buckets=3001, end_buckets=501, penalty=0.1)
TRAIN = np.arange(0, len(TEXTS), 2)
TARGET = np.random.default_rng(2).normal(size=len(TEXTS))


def learned(**changes: Any) -> tuple[np.ndarray, Arrays]:
    design = Design(IDS, FEATURES, TRAIN, TOKENIZER.vocab_size, replace(SHAPE, **changes))
    found = design.fit(TRAIN, TARGET[TRAIN], np.ones(len(TRAIN)))
    return design.matrix @ found, design.arrays(found)


def test_the_runtime_scores_what_was_trained() -> None:
    wanted, arrays = learned()
    found = NgramNetwork(arrays)(IDS, FEATURES)
    assert wanted.std() > 0.3
    assert_allclose(found, wanted, atol=0.02 * wanted.std())
    assert kendall_tau(wanted[TRAIN], TARGET[TRAIN]) > 0.5, "a small penalty learns by heart"


@pytest.mark.parametrize("part", ["ngrams", "ends", "surface"])
def test_each_input_counts_and_can_be_left_out(part: str) -> None:
    alone = dict.fromkeys(("ngrams", "ends", "surface"), 0.0) | {part: 1.0}
    wanted, arrays = learned(**alone)
    found = NgramNetwork(arrays)(IDS, FEATURES)
    assert wanted.std() > 0.05
    assert_allclose(found, wanted, atol=0.02 * wanted.std())


def test_topics_are_a_prior_of_the_coefficients() -> None:
    """Beside kernel ridge regression on plain arrays, by singular vectors of numpy's own."""
    shape = replace(SHAPE, topics=5, topic_weight=2.0, penalty=1.0)
    design = Design(IDS, FEATURES, TRAIN, TOKENIZER.vocab_size, shape)
    found = design.matrix @ design.fit(TRAIN, TARGET[TRAIN], np.ones(len(TRAIN)))
    x = design.matrix.toarray()
    words = x[:, : -len(FEATURES[0]) - 1]
    topics = 2.0 * words @ np.linalg.svd(words[TRAIN], full_matrices=False)[2][:5].T
    kernel = x @ x.T + topics @ topics.T
    known = kernel[np.ix_(TRAIN, TRAIN)] + shape.penalty * np.eye(len(TRAIN))
    wanted = kernel[:, TRAIN] @ np.linalg.solve(known, TARGET[TRAIN])
    assert_allclose(found, wanted, atol=0.01 * wanted.std())
    plain = learned(penalty=1.0)[0]
    assert np.abs(plain - wanted).max() > 0.05 * wanted.std()


def test_a_prompt_alone_and_in_any_batch_has_one_score() -> None:
    network = NgramNetwork(learned()[1])
    together = network(IDS, FEATURES)
    alone = [network([ids], FEATURES[[row]])[0] for row, ids in enumerate(IDS)]
    assert np.array_equal(alone, together), "few are summed in Python, in the order of many"
    assert network([], FEATURES[:0]).shape == (0,)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 48, 250, 700])
def test_odd_texts_alone_score_exactly_as_in_a_batch(length: int) -> None:
    network = NgramNetwork(learned()[1])
    rng = np.random.default_rng(length)
    # One token over and over, two in turn, and any; counts beyond the table of logarithms too.
    texts = [[7] * length, [7, 9] * length, rng.integers(0, network.vocab_size, length).tolist()]
    texts += [IDS[row] for row in range(20)]
    features = np.tile(FEATURES[:1] * 1e6, (len(texts), 1)).astype(np.float32)
    together = network(texts, features)
    for row, ids in enumerate(texts):
        assert network([ids], features[[row]])[0] == together[row]
    assert np.array_equal(network(texts[:3], features[:3]), together[:3])


def test_what_is_not_learned_from_changes_nothing() -> None:
    arrays = learned()[1]
    others = [[5, 6, 7] if row % 2 else ids for row, ids in enumerate(IDS)]
    features = FEATURES.copy()
    features[1::2] = 9
    design = Design(others, features, TRAIN, TOKENIZER.vocab_size, SHAPE)
    again = design.arrays(design.fit(TRAIN, TARGET[TRAIN], np.ones(len(TRAIN))))
    for name, array in arrays.items():
        assert_allclose(again[name].astype("f4"), array.astype("f4"), atol=1e-3, err_msg=name)


def test_arrays_that_do_not_fit() -> None:
    arrays = learned()[1]
    with pytest.raises(PredictorError, match="'ngram_end' is missing"):
        read_network({name: each for name, each in arrays.items() if name != "ngram_end"})
    with pytest.raises(PredictorError, match="'ngram_token_idf' has 3 tokens, and"):
        read_network(arrays | {"ngram_token_idf": np.zeros(3, "f4")})
    with pytest.raises(PredictorError, match="'ngram_bias' holds NaN"):
        read_network(arrays | {"ngram_bias": np.full(1, np.nan, "f4")})
