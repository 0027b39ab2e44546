"""What a pass over a split finds: every item's score, and how well the scores order the lengths."""

from __future__ import annotations

from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
from torch import Tensor

from pars_model.batches import Batch
from pars_model.metrics import group_counts, mean_over_groups
from pars_model.processes import rows_of_all_processes


class ScoredItems(NamedTuple):
    """Items as arrays of one length, (n,).

    Attributes:
        scores: higher means longer.
        length: tokens of the response; a lower bound where censored.
        censored: which are lower bounds.
        group: group of each.
        item: its number in the table; -1 where it has none.
        prompt: number of its prompt in the table; the last, as `rows_of_all_processes` asks.
    """

    scores: np.ndarray
    length: np.ndarray
    censored: np.ndarray
    group: np.ndarray
    item: np.ndarray
    prompt: np.ndarray


class Pass:
    """Collects what one process scores in a pass, batch by batch."""

    def __init__(self) -> None:
        self._batches: list[ScoredItems] = []

    def begin(self) -> None:
        """Forget the scores of an earlier pass."""
        self._batches.clear()

    def add(self, batch: Batch, scores: Tensor) -> None:
        """Take the scores (n,) of a batch's items."""
        labels = (batch.length, batch.censored, batch.group, batch.item, batch.prompt[batch.row])
        found = (each.detach().cpu().numpy() for each in (scores, *labels))
        self._batches.append(ScoredItems(*found))

    def items(self, module: pl.LightningModule) -> ScoredItems:
        """All items, those of other processes included; ``module`` knows of these."""
        seen = [np.concatenate(each) for each in zip(*self._batches, strict=True)]
        if module.trainer.world_size > 1:
            seen = rows_of_all_processes(module, seen)
        return ScoredItems(*seen)


def metrics_of(
    scores: np.ndarray, lengths: np.ndarray, censored: np.ndarray, group: np.ndarray
) -> dict[str, float]:
    """Tau-b and pair accuracy of the scores (n,) of items, in the mean over groups."""
    counts = group_counts(scores, lengths, censored, group)
    return {
        "tau": mean_over_groups(counts, lambda each: each.tau),
        "pair_accuracy": mean_over_groups(counts, lambda each: each.accuracy),
    }
