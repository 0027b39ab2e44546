"""What the lengths of a table are learned as, and how far apart they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pars_model.batches import Items
from pars_model.evidence import survival
from pars_model.lengths import LengthTable


def widest_difference(items: Items) -> float:
    """Largest known relative difference of two lengths in a group."""
    widest = 0.0
    for group in np.unique(items.group):
        mine = items.group == group
        finished = items.length[mine & ~items.censored]
        longest = items.length[mine].max()
        if finished.size and longest > finished.min():
            widest = max(widest, float((longest - finished.min()) / longest))
    return widest


def surest_order(items: Items) -> float:
    """Largest probability that a rerun keeps the order of two lengths of a group."""
    surest = 0.0
    for group in np.unique(items.group):
        mine = items.pick(np.flatnonzero(items.group == group))
        finished = np.flatnonzero(~mine.censored)
        if not finished.size or mine.noise is None:
            continue
        ends = (np.array([mine.length.argmax()]), finished[[mine.length[finished].argmin()]])
        kept = survival(*(mine.length[end] for end in ends), *(mine.noise[end] for end in ends))
        surest = max(surest, float(kept[0]))
    return surest


def group_targets(
    table: LengthTable, in_train: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standardised log length, and place among the training lengths, of each item's group.

    Args:
        table: the length table.
        in_train: which items are for training; a group without any is standardised by itself.

    Returns:
        Targets of mean 0 and deviation 1, and quantiles in [0, 1), both (n,).
    """
    target, quantile = np.zeros(len(table)), np.zeros(len(table))
    logs = np.log1p(table.length)
    for group in np.unique(table.group):
        mine = table.group == group
        known = mine & in_train if (mine & in_train).any() else mine
        deviation = float(logs[known].std())
        if deviation > 1e-9:  # equal lengths differ by rounding alone
            target[mine] = (logs[mine] - logs[known].mean()) / deviation
        ordered = np.sort(table.length[known])
        below = np.searchsorted(ordered, table.length[mine], side="left")
        upto = np.searchsorted(ordered, table.length[mine], side="right")
        quantile[mine] = np.minimum((below + upto) / 2 / len(ordered), 1 - 1e-6)
    return target, quantile
