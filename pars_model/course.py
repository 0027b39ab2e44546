"""A short training course: AdamW over given batches, the best epoch by validation tau kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import trange

from pars_model.batches import Batch, Collator, Items, bucketed_batches
from pars_model.lengths import LengthTable
from pars_model.metrics import group_counts, mean_over_groups
from pars_model.optim import learning_rate_factor

_POOL = 16
"""Batches drawn together and sorted by length."""


@dataclass(frozen=True)
class Course:
    """How long and how fast to learn."""

    epochs: int
    """Passes over all texts."""
    lr: float
    """Highest learning rate; it rises for a tenth of the steps and then falls to 0."""
    batch_size: int = 128
    """Texts per step; all pairs among them whose order is known can teach."""
    weight_decay: float = 0.01
    """Of AdamW."""
    delta: float = 0.05
    """Smallest relative difference of lengths that makes a pair."""
    survive: float = 0.5
    """Smallest probability that a rerun keeps a pair's order; needs a lesson with noise."""
    seed: int = 0
    """Of the batches; weights and dropout take torch's own."""


@dataclass(frozen=True)
class Lesson:
    """What there is to learn: lengths of some texts, and which of them are for what.

    Attributes:
        table: lengths of the first ``len(table.prompts)`` texts.
        part: train, val or test, per text; there may be more texts than the table has prompts.
        tokens: ids of each text.
        noise: standard deviation of the log of each item's length; none where not asked for.
    """

    table: LengthTable
    part: NDArray[np.str_]
    tokens: Sequence[Sequence[int]]
    noise: NDArray[np.float64] | None = None

    def items(self, name: str) -> Items:
        """The items of one part."""
        table = self.table
        mine = self.part[table.prompt] == name
        none = np.zeros(int(mine.sum()))
        return Items(
            table.prompt[mine],
            table.length[mine],
            table.censored[mine],
            table.group[mine],
            target=none,
            quantile=none,
            noise=None if self.noise is None else self.noise[mine],
        )

    def tau(self, scores: NDArray[np.floating], name: str = "val") -> float:
        """Mean tau over LLMs of scores (one per text), weighted by their items."""
        items = self.items(name)
        found = scores[items.prompt].astype(np.float64)
        counts = group_counts(found, items.length, items.censored, items.group)
        return mean_over_groups(counts, lambda each: each.tau)


def take(
    course: Course,
    lesson: Lesson,
    network: nn.Module,
    loss: Callable[[Batch], Tensor],
    predict: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    name: str,
) -> tuple[float, ...]:
    """Train ``network`` in place and leave it with the weights of its best epoch.

    Args:
        course: how.
        lesson: on what.
        network: whose weights learn.
        loss: of a batch, in training mode.
        predict: scores of the texts of these numbers, in evaluation mode.
        name: stands before the progress bar; without one there is none.

    Returns:
        Validation tau after each epoch.
    """
    train, val = (np.flatnonzero(lesson.part == part) for part in ("train", "val"))
    collate = Collator(lesson.tokens, 0, lesson.items("train"), course.delta, course.survive)
    sizes = np.array([len(each) for each in lesson.tokens])

    def batches(epoch: int) -> list[list[object]]:
        rng = np.random.default_rng((course.seed, epoch))
        home = np.zeros(len(train), dtype=np.int64)
        return bucketed_batches(train, home, sizes[train], course.batch_size, _POOL, rng)

    optimizer = torch.optim.AdamW(
        network.parameters(), course.lr, weight_decay=course.weight_decay, fused=True
    )
    factor = learning_rate_factor(course.epochs * len(batches(0)), 0.1, "linear")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    scores = np.full(len(lesson.part), np.nan, dtype=np.float32)
    taus: list[float] = []
    best: dict[str, Tensor] = {}
    with trange(course.epochs, desc=name, unit="epoch", disable=not name) as progress:
        for epoch in progress:
            network.train()
            for keys in batches(epoch):
                value = loss(collate(keys))  # type: ignore[arg-type]  # keys are numbers of texts
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                schedule.step()
            network.eval()
            scores[val] = predict(val)
            taus.append(lesson.tau(scores))
            progress.set_postfix(tau=f"{taus[-1]:.4f}")
            if taus[-1] == max(taus):
                best = copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    network.eval()
    return tuple(taus)
