"""Which pairs of prompts teach: which is known to be longer, and by enough to believe it.

A pair (a, b) is in order when a's length is *known* to exceed b's by a share ``delta`` of a's
(the filter of PARS, arXiv 2510.03243: abs(a - b) / max(a, b) >= delta). A cut-off response has
only a lower bound, so it can be the longer of a pair and never the shorter; but where the ranker
reads ``max_tokens``, one that reached its own cap ended there (`pars_model.lengths`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Pairs(NamedTuple):
    """Pairs of items by their numbers, ``longer[k]`` being longer than ``shorter[k]``."""

    longer: Ints
    shorter: Ints


def known_longer(
    length: Floats,
    other_length: Floats,
    other_censored: Bools,
    delta: float = 0.0,
) -> Bools:
    """Whether items are known to be longer than others (elementwise, broadcast).

    Args:
        length: lengths, or lower bounds of them.
        other_length: lengths of the items compared with.
        other_censored: which of those are lower bounds: nothing is known to exceed them.
        delta: smallest relative difference that counts, 0 for any.
    """
    difference = length - other_length
    return (difference > 0) & (difference >= delta * length) & ~other_censored


def pair_mask(
    length: Floats, censored: Bools, group: Ints, prompt: Ints, delta: float = 0.0
) -> Bools:
    """All pairs that teach, as a matrix: ``[i, j]`` says that i is known to be longer than j.

    Pairs lie inside one group, and never join a prompt to itself (it may come from two data
    sets).

    Args:
        length: lengths, shape (n,).
        censored: which are lower bounds, shape (n,).
        group: group of each item, shape (n,).
        prompt: prompt of each item, shape (n,).
        delta: smallest relative difference.

    Returns:
        Boolean matrix of shape (n, n).
    """
    longer = known_longer(length[:, None], length[None, :], censored[None, :], delta)
    same_group = group[:, None] == group[None, :]
    mask: Bools = longer & same_group & (prompt[:, None] != prompt[None, :])
    return mask


def all_pairs(
    length: Floats, censored: Bools, group: Ints, prompt: Ints, delta: float = 0.0
) -> Pairs:
    """All pairs that teach among the items of a batch; each prompt needs encoding only once.

    The arguments are those of :func:`pair_mask`. Groups are taken one after the other, so that
    a batch with hundreds of LLMs on the same prompts needs no matrix over all of them.
    """
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order])) + 1
    longer, shorter = [], []
    for items in np.split(order, bounds):
        mask = pair_mask(length[items], censored[items], group[items], prompt[items], delta)
        rows, columns = np.nonzero(mask)
        longer.append(items[rows])
        shorter.append(items[columns])
    return Pairs(np.concatenate(longer), np.concatenate(shorter))


def random_pairs(
    length: Floats,
    censored: Bools,
    group: Ints,
    prompt: Ints,
    partners: int,
    rng: np.random.Generator,
    delta: float = 0.0,
) -> Pairs:
    """Random partners as in the paper: ``partners`` draws per item from its group, then the filter.

    Args:
        length: lengths, shape (n,).
        censored: which are lower bounds, shape (n,).
        group: group of each item, shape (n,).
        prompt: prompt of each item, shape (n,).
        partners: draws per item; those that fail the filter are dropped, repeats kept once.
        rng: source of the draws.
        delta: smallest relative difference.

    Returns:
        Pairs in random order.
    """
    order = np.argsort(group, kind="stable")
    _, start, count = np.unique(group[order], return_index=True, return_counts=True)
    place = np.searchsorted(np.unique(group), group)
    first = np.repeat(np.arange(len(length)), partners)
    draws = rng.random(len(first)) * count[place[first]]
    second = order[start[place[first]] + draws.astype(np.int64)]
    pair = np.unique(np.sort(np.stack([first, second], axis=1), axis=1), axis=0)
    a, b = pair[prompt[pair[:, 0]] != prompt[pair[:, 1]]].T
    a_longer = known_longer(length[a], length[b], censored[b], delta)
    b_longer = known_longer(length[b], length[a], censored[a], delta)
    longer = np.concatenate([a[a_longer], b[b_longer]])
    shorter = np.concatenate([b[a_longer], a[b_longer]])
    shuffled = rng.permutation(len(longer))
    return Pairs(longer[shuffled], shorter[shuffled])
