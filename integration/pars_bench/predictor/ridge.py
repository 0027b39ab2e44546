"""The n-gram baseline, fitted on the response lengths that ship with the demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTHS = Path(__file__).parents[1] / "demo" / "lengths.parquet"


class RidgeScorer:
    """`pars_model.ngrams.NgramRidge` as a scorer."""

    survives_fork = True

    def __init__(self, texts: Sequence[str], target: NDArray[np.float64]) -> None:
        from pars_model.ngrams import NgramRidge

        self._ridge = NgramRidge(texts, target)

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores (n,) of texts."""
        return self._ridge.score(texts)


def fit_ridge() -> RidgeScorer:
    """Fit on the training prompts of `LENGTHS`."""
    from pars_model.lengths import read_lengths, split_prompts
    from pars_model.ranks import rank_targets

    table = read_lengths(LENGTHS)
    train = split_prompts(table) == "train"
    target, count = rank_targets(table, train[table.prompt])
    known = np.flatnonzero(count > 0)
    return RidgeScorer([table.prompts[index] for index in known], target[known])
