"""A small head on frozen features, trained with any objective and filter of ``pars fit``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pars_model.batches import Batch
from pars_model.course import Course, Lesson, take
from pars_model.datamodule import group_targets
from pars_model.evidence import label_noise
from pars_model.kept import Rows
from pars_model.lengths import LengthTable
from pars_model.losses import Labels, build_objective

CODE = tuple(
    f"pars_model.{name}"
    for name in ("experiments.heads", "experiments.frozen", "course", "evidence", "losses", "pairs")
)
"""Modules that a head's scores depend on."""
_NEURONS, _DROPOUT, _BATCH = 128, 0.2, 128
_EPOCHS, _STEPS, _MOST = 6, 300, 60
"""Fewest epochs and fewest steps (of few prompts there are more epochs), and most epochs."""


@dataclass(frozen=True)
class HeadSettings:
    """How a head learns; the names are those of ``pars fit``."""

    objective: str = "margin"
    lr: float = 1e-3
    delta: float = 0.0
    survive: float = 0.5
    noise: str = "group"
    spread: float = 0.4
    evidence: str = "none"


def fit_head(
    table: LengthTable,
    features: Rows,
    part: NDArray[np.str_],
    settings: HeadSettings,
    seed: int,
) -> tuple[float, Rows]:
    """Train a head.

    Args:
        table: one LLM's lengths, one item per prompt.
        features: (prompts, width).
        part: train, val or anything else, per prompt; the best epoch on val is kept.
        settings: how.
        seed: of weights, dropout and batches.

    Returns:
        Tau on val, and scores of all prompts.
    """
    torch.manual_seed(seed)
    objective = build_objective(settings.objective, evidence=settings.evidence)
    train = part == "train"
    of_train = train[table.prompt]
    mean, spread = features[train].mean(axis=0), features[train].std(axis=0) + 1e-6
    known = torch.from_numpy((features - mean) / spread)
    target, quantile, censored = _by_prompt(table, of_train)
    network = nn.Sequential(
        nn.Linear(features.shape[1], _NEURONS),
        nn.ReLU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_NEURONS, objective.outputs),
    )

    def loss(batch: Batch) -> Tensor:
        numbers = batch.prompt[batch.row]
        labels = Labels(
            target[numbers],
            quantile[numbers],
            censored[numbers],
            batch.longer,
            batch.shorter,
            batch.evidence,
        )
        return objective.loss(network(known[numbers]), labels)

    def predict(numbers: NDArray[np.int64]) -> Rows:
        with torch.inference_mode():
            scores: Rows = objective.score(network(known[numbers])).numpy()
        return scores

    noise = label_noise(table, of_train, settings.noise, settings.spread)
    lesson = Lesson(table, part, [[0]] * len(table.prompts), noise)
    epochs = min(_MOST, max(_EPOCHS, math.ceil(_STEPS * _BATCH / int(train.sum()))))
    course = Course(
        epochs, settings.lr, _BATCH, delta=settings.delta, survive=settings.survive, seed=seed
    )
    taus = take(course, lesson, network, loss, predict, "")
    return max(taus), predict(np.arange(len(table.prompts)))


def _by_prompt(table: LengthTable, in_train: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Target, quantile and censoring of each prompt's one item."""
    target, quantile = group_targets(table, in_train)
    item = np.zeros(len(table.prompts), dtype=np.int64)
    item[table.prompt] = np.arange(len(table))
    return (
        torch.from_numpy(target[item].astype(np.float32)),
        torch.from_numpy(quantile[item].astype(np.float32)),
        torch.from_numpy(table.censored[item]),
    )
