"""The n-gram half of a ranker: what its n-grams say of a prompt is added to the network's score.

An encoder that learned from few prompts knows what a prompt is about, and misses what single words
tell; with a linear model on n-grams it is the other way round. The half is one on the encoder's own
tokens (`pars_model.linear`), fitted to the training prompts when the network has learned. Of few of
them, it starts from what a predictor that is there says of prompts (`pars_model.prior`). Its share
is what least squares give it beside the network on the validation prompts; of few of those, little
is believed. Where a head in closed form has none, the training prompts tell it, each by fits that
have not seen it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_export.runtimes.arrays import Arrays
from pars_export.runtimes.ngram_half import NgramHalf, half_inputs
from pars_model.checkpoint import load_ranker, rewrite
from pars_model.folds import best_penalty, out_of_fold
from pars_model.linear import Design, LinearShape
from pars_model.prior import Prior, prior_for
from pars_model.ranks import deviates, rank_targets

if TYPE_CHECKING:
    import torch

    from pars_export.inputs import TextTokenizer
    from pars_model.batches import Items
    from pars_model.datamodule import PromptLengthDataModule
    from pars_model.lengths import LengthTable
    from pars_model.module import ResponseLengthRanker

Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]

log = logging.getLogger("pars")

PENALTIES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
LEAST, LEAST_WITH_PRIOR = 100, 20
"""Fewest training prompts that a half is fitted to, from nothing and from a prior."""
_PRIOR_PENALTY = 4.0
"""Of the coefficients that tell what a prior says."""
_DOUBTED = 9.0
"""Training prompts whose word that a prior is worth nothing is taken as given."""
SHARE = 0.25
"""Of the half where nothing else is known; the network has the rest."""
BELIEVED = 300
"""Validation prompts whose word on the share weighs as much as `SHARE` does."""
FEWEST, MOST = 0.02, 0.9
"""Shares that are worth a half, and that leave something to the network."""
_LEAST_SPREAD = 1e-3
"""Of scores that another score is measured by."""


@dataclass(frozen=True)
class FittedHalf:
    """A half before it is weighed against a network: it tells the normal deviate of a rank.

    Attributes:
        penalty: the one of `PENALTIES` that is best in the mean over parts of the training prompts,
            each judged by a fit to the others; the largest where no part can tell.
        carried: by how many deviates a prompt is longer that the prior puts one standard deviation
            higher; 0 without one, or where the training prompts contradict it.
    """

    _design: Design
    _coefficients: Doubles
    penalty: float
    carried: float = 0.0

    def arrays(self, factor: float = 1.0) -> Arrays:
        """What `pars_export.runtimes.ngrams` reads, for scores ``factor`` times as large."""
        return self._design.arrays(self._coefficients * factor)


def add_half(
    ckpt: Path,
    data: PromptLengthDataModule,
    device: torch.device,
    unseen: Singles | None = None,
) -> None:
    """Fit a half for the ranker of a checkpoint, and write it back with both.

    Its metrics and calibration are then those of the sum. The checkpoint stays as it is, and a
    warning says why, where there are too few training prompts, no validation prompts to compare, or
    where the half's share would be next to nothing.

    Args:
        ckpt: the ranker's.
        data: of its fit, set up.
        device: where the network reads the validation prompts.
        unseen: the network's scores (prompts,) of training prompts by fits that have not seen them,
            where these are to weigh the half in place of validation prompts.

    Raises:
        InputError: the checkpoint cannot be written again; the old one stands.
    """
    table = data.table
    assert table is not None
    train = data.split == "train"
    ranker = load_ranker(ckpt).to(device)
    prior = prior_for(ranker.hparams.prior, table, train)
    least = LEAST if prior is None else LEAST_WITH_PRIOR
    if train.sum() < least:
        log.warning("No n-gram half: it takes %d training prompts or more.", least)
        return
    if unseen is None and not data.comparable("val"):
        log.warning("No n-gram half: there are no validation prompts to weigh it by.")
        return
    tokenizer = ranker.text_tokenizer()
    fitted = fit_half(table, train, tokenizer, prior)
    items = data.items("val" if unseen is None else "train")
    texts = [table.prompts[number] for number in items.prompt]
    if unseen is not None:
        network = unseen[items.prompt]
        halves = half_out_of_fold(table, train, tokenizer, fitted.penalty, prior)
        ngrams = halves[items.prompt]
    else:
        network = _network_scores(ranker, texts, items)
        ngrams = NgramHalf(fitted.arrays(), tokenizer).score(texts, tokenizer.encode(texts))
    prompts = len(np.unique(items.prompt))
    share = share_of(network, ngrams, items.length, items.group, prompts, items.censored)
    if share < FEWEST:
        log.warning("No n-gram half: n-grams add nothing to the ranker's order.")
        return
    ranker.judge(network, items.length, items.censored, items.group)
    without = ranker.metrics["tau"]
    factor = factor_of(share, network, ngrams)
    ranker.take_half(fitted.arrays(factor))
    half = ranker.half_scores(texts) if unseen is None else np.float32(factor) * ngrams
    scores = network + half
    ranker.judge(scores, items.length, items.censored, items.group)
    assert items.item is not None
    ranker.calibrate(scores, items.item, data)
    ranker.training_summary["ngram_half"] = {
        "share": round(share, 3),
        "penalty": fitted.penalty,
        "tau_without": without,
        "prior": prior and {**prior.said, "carried": round(fitted.carried, 3)},
    }
    rewrite(ckpt, ranker)


def _network_scores(ranker: ResponseLengthRanker, texts: list[str], items: Items) -> Singles:
    """Scores (n,) of the texts of items; a text is encoded once, unless facts stand beside it."""
    if items.facts is not None:
        return ranker.network_scores(texts, items.facts)
    different = list(dict.fromkeys(texts))
    scores = dict(zip(different, ranker.network_scores(different), strict=True))
    return np.array([scores[text] for text in texts], dtype=np.float32)


def fit_half(
    table: LengthTable,
    train: NDArray[np.bool_],
    tokenizer: TextTokenizer,
    prior: Prior | None = None,
    penalty: float | None = None,
) -> FittedHalf:
    """Fit a linear model on n-grams to the ranks of lengths.

    Args:
        table: lengths; one that was cut off counts as the mean of what lies beyond it.
        train: which of its prompts to learn from, (prompts,).
        tokenizer: the encoder's.
        prior: what to start from: the ranks less what it explains of them are learned from the
            n-grams, with those of its own texts beside the table's.
        penalty: of coefficients; by default the best of `PENALTIES`.
    """
    target, _ = rank_targets(table, train[table.prompt], table.censored)
    learned = np.flatnonzero(train)
    texts = [table.prompts[number] for number in learned]
    target, rows = target[learned], np.arange(len(learned))
    more = [] if prior is None else list(prior.texts)
    read = [*texts, *more]
    ids, features = half_inputs(tokenizer, read, tokenizer.encode(read))
    design = Design(ids, features, np.arange(len(read)), tokenizer.id_bound, LinearShape())
    start = np.zeros(design.matrix.shape[1])
    if prior is not None:
        start = _retold(design, prior.score(read), len(texts))
    known = design.matrix[rows] @ start

    def fit(chosen: NDArray[np.int64], penalty: float) -> tuple[Doubles, float]:
        design.shape = replace(design.shape, penalty=penalty)
        said, wanted = known[chosen], target[chosen]
        carried = max(float(said @ wanted / (said @ said + _DOUBTED)), 0.0)
        rest = design.fit(chosen, wanted - carried * said, np.ones(len(chosen)))
        return carried * start + rest, carried

    def unseen(others: NDArray[np.int64], inner: NDArray[np.int64], penalty: float) -> Doubles:
        found: Doubles = design.matrix[inner] @ fit(others, penalty)[0]
        return found

    chosen = best_penalty(PENALTIES, target, unseen) if penalty is None else penalty
    coefficients, carried = fit(rows, chosen)
    return FittedHalf(design, coefficients, chosen, carried)


def half_out_of_fold(
    table: LengthTable,
    train: NDArray[np.bool_],
    tokenizer: TextTokenizer,
    penalty: float,
    prior: Prior | None = None,
) -> Singles:
    """Scores (prompts,) of training prompts, each by a half that has not seen it.

    Args:
        table: lengths, as in `fit_half`.
        train: which of its prompts are learned from, (prompts,); the others have NaN.
        tokenizer: the encoder's.
        penalty: of coefficients, as all of these prompts have chosen it.
        prior: what each half starts from.
    """
    learned = np.flatnonzero(train)

    def score(others: NDArray[np.int64], inner: NDArray[np.int64]) -> Singles:
        known = np.zeros(len(train), dtype=bool)
        known[learned[others]] = True
        arrays = fit_half(table, known, tokenizer, prior, penalty).arrays()
        texts = [table.prompts[number] for number in learned[inner]]
        return NgramHalf(arrays, tokenizer).score(texts, tokenizer.encode(texts))

    return out_of_fold(train, score)


def _retold(design: Design, scores: Doubles, texts: int) -> Doubles:
    """Coefficients that tell what a prior says of texts, standardised by the first of them."""
    design.shape = replace(design.shape, penalty=_PRIOR_PENALTY)
    own = scores[:texts]
    told = (scores - own.mean()) / max(float(own.std()), _LEAST_SPREAD)
    return design.fit(np.arange(len(scores)), told, np.ones(len(scores)))


def share_of(
    network: Singles,
    ngrams: Singles,
    length: Doubles,
    group: NDArray[np.int64],
    prompts: int,
    censored: NDArray[np.bool_] | None = None,
) -> float:
    """The half's share of a sum of two scores that spread alike.

    Args:
        network: scores of validation items, (n,).
        ngrams: the half's, (n,).
        length: lengths of those items, (n,).
        group: whose they are, (n,); their ranks are taken within each.
        prompts: of how many prompts the items are.
        censored: which lengths are lower bounds, (n,); none by default.

    Returns:
        0 to `MOST`: of what least squares give and of `SHARE`, the mean weighted by the number of
        prompts and `BELIEVED`.
    """
    target = np.zeros(len(length))
    for each in np.unique(group):
        mine = group == each
        target[mine] = deviates(length[mine], None if censored is None else censored[mine])
    inputs = np.stack([_standardised(network), _standardised(ngrams)], axis=1)
    weights = np.maximum(np.linalg.lstsq(inputs, target, rcond=None)[0], 0.0)
    total = float(weights.sum())
    found = float(weights[1]) / total if total > 0 else SHARE
    share = (prompts * found + BELIEVED * SHARE) / (prompts + BELIEVED)
    return min(share, MOST)


def _standardised(scores: Singles) -> Doubles:
    wide = scores.astype(np.float64)
    found: Doubles = (wide - wide.mean()) / max(float(wide.std()), 1e-9)
    return found


def factor_of(share: float, network: Singles, ngrams: Singles) -> float:
    """By how much the half's scores (n,) are larger in a sum in which it has that share."""
    spread, own = (max(float(each.std()), _LEAST_SPREAD) for each in (network, ngrams))
    return share / (1 - share) * spread / own
