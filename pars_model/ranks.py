"""Lengths as the normal deviates of their ranks, so that no long tail rules a least-squares fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from pars_model.lengths import LengthTable

Floats = NDArray[np.float64]


def deviates(lengths: Floats, censored: NDArray[np.bool_] | None = None) -> Floats:
    """The ranks of lengths (n,) as normal deviates, (n,).

    Args:
        lengths: of one group.
        censored: which are lower bounds, (n,), and count as the mean of the deviates beyond their
            own; none by default.
    """
    place = (rankdata(lengths) - 0.5) / len(lengths)
    found: Floats = norm.ppf(place)
    return found if censored is None else np.where(censored, norm.pdf(found) / (1 - place), found)


def rank_targets(
    table: LengthTable, chosen: NDArray[np.bool_], censored: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """One target per prompt from the lengths of all LLMs, and how many lengths stand behind it.

    Args:
        table: the length table.
        chosen: items to learn from, (n,); ranks are taken among those of their group.
        censored: which items are lower bounds, (n,), as `deviates` takes them; none by default.

    Returns:
        Mean normal deviate of the ranks, and number of items, both per prompt of the table; 0
        where a prompt has no chosen item.
    """
    total, count = np.zeros(len(table.prompts)), np.zeros(len(table.prompts))
    for group in np.unique(table.group[chosen]):
        mine = np.flatnonzero(chosen & (table.group == group))
        deviate = deviates(table.length[mine], None if censored is None else censored[mine])
        np.add.at(total, table.prompt[mine], deviate)
        np.add.at(count, table.prompt[mine], 1.0)
    return total / np.maximum(count, 1.0), count
