"""A small head on frozen features, trained with any objective and filter of ``pars fit``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pars_export.facts import FactSpec, standardise
from pars_model.batches import Batch
from pars_model.course import Course, Lesson, take
from pars_model.evidence import label_noise
from pars_model.experiments.frozen import of_samples
from pars_model.kept import Rows
from pars_model.lengths import LengthTable, text_fraction
from pars_model.losses import Labels, build_objective
from pars_model.targets import group_targets

CODE = (
    "pars_export.facts",
    "pars_export.inputs",
    *(
        f"pars_model.{name}"
        for name in (
            *("experiments.heads", "experiments.frozen", "frozen_encoder"),
            *("batches", "course", "datamodule", "evidence", "fit_split", "lengths", "losses"),
            *("metrics", "optim", "pairs", "rows", "targets"),
        )
    ),
)
"""Modules that a head's scores depend on."""
_NEURONS, _DROPOUT, _BATCH = 128, 0.2, 128
_FACT_DROPOUT = 0.1
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
    samples: int = 0
    """Samples of a prompt whose median is learned from, others for each seed; 0 for all."""
    share: float = 1.0
    """Share of the training prompts that are learned from."""
    facts: tuple[str, ...] = ()
    """What is read of a request beside its text (`pars_export.facts`)."""
    told: bool = True
    """Whether those facts are known where scores are wanted."""


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
    table = of_samples(table, seed, settings.samples) if settings.samples else table
    part = _fewer(table, part, settings.share)
    objective = build_objective(settings.objective, evidence=settings.evidence)
    train = part == "train"
    of_train = train[table.prompt]
    mean, spread = features[train].mean(axis=0), features[train].std(axis=0) + 1e-6
    known = torch.from_numpy((features - mean) / spread)
    spec, beside = _beside(table, of_train, settings.facts)
    untold = torch.from_numpy(spec.vectors({}, 1))
    target, quantile, censored = _by_prompt(table, of_train)
    network = nn.Sequential(
        nn.Linear(features.shape[1] + spec.width, _NEURONS),
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
        gone = torch.rand(len(numbers), 1) < _FACT_DROPOUT
        facts = torch.where(gone, untold, beside[numbers])
        return objective.loss(network(torch.cat([known[numbers], facts], dim=1)), labels)

    def predict(numbers: NDArray[np.int64]) -> Rows:
        with torch.inference_mode():
            facts = beside[numbers] if settings.told else untold.expand(len(numbers), -1)
            rows = torch.cat([known[numbers], facts], dim=1)
            scores: Rows = objective.score(network(rows)).numpy()
        return scores

    noise = label_noise(table, of_train, settings.noise, settings.spread)
    lesson = Lesson(table, part, [[0]] * len(table.prompts), noise)
    epochs = min(_MOST, max(_EPOCHS, math.ceil(_STEPS * _BATCH / int(train.sum()))))
    course = Course(
        epochs, settings.lr, _BATCH, delta=settings.delta, survive=settings.survive, seed=seed
    )
    taus = take(course, lesson, network, loss, predict, "")
    return max(taus), predict(np.arange(len(table.prompts)))


def _fewer(table: LengthTable, part: NDArray[np.str_], share: float) -> NDArray[np.str_]:
    """The parts with a share of the training prompts, by a hash of the text; the rest unused."""
    if share >= 1:
        return part
    out = np.array([text_fraction(f"share {text}") >= share for text in table.prompts])
    return np.where((part == "train") & out, "unused", part)


def _beside(
    table: LengthTable, in_train: NDArray[np.bool_], names: Sequence[str]
) -> tuple[FactSpec, Tensor]:
    """The facts of these names, and their numbers for each prompt (prompts, width)."""
    spec = standardise(names, {name: table.facts[name][in_train] for name in names})
    rows = np.zeros((len(table.prompts), spec.width), dtype=np.float32)
    rows[table.prompt] = spec.vectors(table.facts, len(table))
    return spec, torch.from_numpy(rows)


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
