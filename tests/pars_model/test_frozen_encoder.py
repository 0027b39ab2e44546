"""Frozen features of experiments are what a ranker pools from three layers."""

from __future__ import annotations

import numpy as np

from pars_model.frozen_encoder import ENCODER, LAYERS, FrozenEncoder
from pars_model.module import ResponseLengthRanker


def test_features_are_those_that_a_ranker_pools() -> None:
    texts = ["What colour is coal?", "Write an essay on the history of the bicycle. " * 20, "x"]
    ranker = ResponseLengthRanker(encoder=ENCODER, pooling="layers").eval()
    assert tuple(ranker.network.pooled_layers()) == LAYERS
    vectors = ranker.scores_and_vectors(texts)[:, 1:]
    np.testing.assert_allclose(FrozenEncoder()(texts), vectors, atol=1e-4)
