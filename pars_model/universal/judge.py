"""Tau of several predictors on one data set, LLM by LLM, side by side on the same draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pars_model.lengths import LengthTable
from pars_model.metrics import Estimate, estimates, kendall_tau

LEAST = 40
"""Prompts below which a cell of a data set and an LLM is left out."""
_LLMS = 12
"""LLMs per data set that are judged, chosen by a hash of the name."""
_PROMPTS = 3000
"""Prompts per data set that are judged."""

Numbers = dict[str, object]


def judge(
    table: LengthTable,
    dataset: str,
    scores: Mapping[str, NDArray[np.float32]],
    resamples: int = 200,
    seed: int = 0,
) -> Numbers | None:
    """Judge predictors on a data set.

    Args:
        table: with the data set's lengths.
        dataset: its name.
        scores: of each prompt of the table, by name of the predictor; the first is compared with
            each of the others.
        resamples: bootstrap draws, of prompts.
        seed: of the draws, and of the choice of prompts where there are very many.

    Returns:
        Plain values: ``dataset``, ``prompts``, ``llms``; under ``tau``, by predictor, the mean
        over LLMs; under ``gain`` the first predictor's lead over each other, on the same draws;
        under ``by_llm`` the first one's tau on each LLM. None where no LLM has enough prompts.
    """
    part = some_prompts(table.select(table.dataset == table.datasets.index(dataset)), seed)
    sizes = np.bincount(part.group, minlength=len(part.groups))
    groups = sorted(np.flatnonzero(sizes >= LEAST), key=lambda each: _rank(str(part.groups[each])))
    groups = [each for each in groups if np.ptp(part.length[part.group == each]) > 0][:_LLMS]
    if not groups:
        return None
    part = part.select(np.isin(part.group, groups))
    names = list(scores)

    def statistic(items: NDArray[np.int64]) -> NDArray[np.float64]:
        group = part.group[items]
        cells = [items[group == each] for each in groups]
        taus = np.array(
            [
                [
                    kendall_tau(scores[name][part.prompt[c]], part.length[c], part.censored[c])
                    for c in cells
                ]
                for name in names
            ]
        )
        means = np.nanmean(taus, axis=1)
        return np.concatenate([means, means[0] - means[1:], taus[0]])

    found = iter(map(plain, estimates(statistic, part.prompt, resamples, seed)))
    return {
        "dataset": dataset,
        "prompts": len(np.unique(part.prompt)),
        "llms": len(groups),
        "tau": {name: next(found) for name in names},
        "gain": {name: next(found) for name in names[1:]},
        "by_llm": {str(part.groups[each]): next(found) for each in groups},
    }


def some_prompts(table: LengthTable, seed: int = 0) -> LengthTable:
    """The items of those prompts that `judge` would look at: all, or a random few thousand."""
    kept = np.unique(table.prompt)
    if len(kept) <= _PROMPTS:
        return table
    kept = np.random.default_rng(seed).permutation(kept)[:_PROMPTS]
    return table.select(np.isin(table.prompt, kept))


def plain(estimate: Estimate) -> list[float | None]:
    """Value, low and high end, rounded to what they are worth."""
    ends = (estimate.value, estimate.low, estimate.high)
    return [None if end is None else round(end, 4) for end in ends]


def _rank(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
