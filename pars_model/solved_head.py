"""A head in closed form: ridge regression on what the encoder says of prompts, as it is.

Of few prompts a fine-tuning learns little that holds, and forgets some of what the encoder knew: a
linear probe extrapolates better (Kumar et al. 2022, arXiv 2202.10054). The probe's targets are the
normal deviates of ranks, as those of the n-gram half; five folds choose the penalty. Nothing else
is chosen, so no prompts need be kept for validation: each is judged by a head that has not seen it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pars_export.errors import ConfigError
from pars_model.folds import FOLDS, mean_tau, out_of_fold
from pars_model.metrics import kendall_tau
from pars_model.ranks import rank_targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from pars_model.datamodule import PromptLengthDataModule
    from pars_model.module import ResponseLengthRanker

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]

PENALTIES = tuple(float(f"{10 ** (half / 2):.3g}") for half in range(10))
"""Of squared coefficients of standardised inputs: 1 to 31,600."""
_LEAST_SPREAD = 1e-6
"""Of an input, or of scores, that they are divided by."""


@dataclass(frozen=True)
class SolvedHead:
    """Scores are ``vectors @ weight + bias``, with mean 0 and deviation 1 where they were fitted.

    Attributes:
        weight: (width,).
        bias: what is added.
        penalty: the one of `PENALTIES` with the best tau in the mean over folds that have an order.
    """

    weight: Doubles
    bias: float
    penalty: float


def take_solved_head(
    ranker: ResponseLengthRanker, data: PromptLengthDataModule | None, processes: int
) -> None:
    """Give a ranker the head that is fitted to all training prompts of its fit.

    Where no others validate it, it gets their scores out of fold, too, to be validated by.

    Args:
        ranker: whose head has one output and reads the text alone.
        data: of the fit, set up.
        processes: that take part in the fit.

    Raises:
        ConfigError: several processes would each solve it, or there is no data module.
    """
    if data is None:
        raise ConfigError(
            "model.fine_tune is false, but the fit has no data module whose lengths the head "
            "is solved from: give trainer.fit a PromptLengthDataModule, or set it to true."
        )
    if processes > 1:
        raise ConfigError(
            f"model.fine_tune is false, and there are {processes} processes: a "
            "head in closed form takes one (--trainer.devices 1)."
        )
    table = data.table
    assert table is not None
    train = data.split == "train"
    every_target, _ = rank_targets(table, train[table.prompt], table.censored)
    target = every_target[train]
    texts = [table.prompts[number] for number in np.flatnonzero(train)]
    ranker.eval()
    vectors = ranker.scores_and_vectors(texts)[:, 1:]
    ranker.train()
    solved = solve_head(vectors, target)
    folds = None if data.comparable("val") else out_of_fold(train, head_scorer(vectors, target))
    ranker.out_of_fold = folds
    with torch.no_grad():
        ranker.head.weight.copy_(torch.from_numpy(solved.weight[None]))
        ranker.head.bias.fill_(solved.bias)


def head_scorer(
    vectors: Singles, target: Doubles
) -> Callable[[NDArray[np.int64], NDArray[np.int64]], Doubles]:
    """What `out_of_fold` asks for a head.

    Args:
        vectors: of the training prompts, (n, width).
        target: what to predict of each, (n,); ranks among all of them, so that those of a fold know
            how many are longer in the others.
    """

    def score(others: NDArray[np.int64], inner: NDArray[np.int64]) -> Doubles:
        head = solve_head(vectors[others], target[others])
        return vectors[inner] @ head.weight + head.bias

    return score


def solve_head(vectors: NDArray[np.float32], target: Doubles) -> SolvedHead:
    """Fit a head.

    Args:
        vectors: pooled vectors of prompts, (n, width).
        target: what to predict of each, (n,); higher means longer.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    spread = np.maximum(vectors.std(axis=0, dtype=np.float64), _LEAST_SPREAD)
    inputs, wanted = (vectors - mean) / spread, target - target.mean()
    fold = np.arange(len(target)) % FOLDS
    # Sums over folds, so that no fit reads the inputs again.
    squares = np.stack([inputs[fold == each].T @ inputs[fold == each] for each in range(FOLDS)])
    products = np.stack([inputs[fold == each].T @ wanted[fold == each] for each in range(FOLDS)])
    whole, told = squares.sum(axis=0), products.sum(axis=0)
    taus: list[list[float]] = [[] for _ in PENALTIES]
    for each in range(FOLDS):
        mine = fold == each
        found = _ridges(whole - squares[each], told - products[each], PENALTIES)
        for place, scores in enumerate((inputs[mine] @ found).T):
            taus[place].append(kendall_tau(scores, wanted[mine]))
    means = [mean_tau(each) for each in taus]
    best = max(reversed(range(len(PENALTIES))), key=means.__getitem__)
    (weight,) = _ridges(whole, told, PENALTIES[best : best + 1]).T
    weight /= spread * max(float((inputs @ weight).std()), _LEAST_SPREAD)
    return SolvedHead(weight, -float(mean @ weight), PENALTIES[best])


def _ridges(squares: Doubles, products: Doubles, penalties: tuple[float, ...]) -> Doubles:
    """Coefficients (width, penalties) by sums of squares (width, width) and products (width,)."""
    values, vectors = np.linalg.eigh(squares)
    along = vectors.T @ products
    factors = np.maximum(values, 0.0)[:, None] + np.array(penalties)
    found: Doubles = vectors @ (along[:, None] / factors)
    return found
