"""Tau of several predictors on one data set, LLM by LLM, side by side on the same draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pars_model.lengths import LengthTable
from pars_model.metrics import Estimate, estimates, kendall_tau

LEAST = 40
"""Prompts below which a cell of a data set and an LLM is left out."""
_LLMS = 12
"""LLMs and ways of decoding, per data set, that are judged, chosen by a hash of the name."""
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
        over LLMs and their ways of decoding; under ``gain`` the first predictor's lead over each
        other, on the same draws; under ``by_llm`` the first one's tau on each of them. None where
        none has enough prompts.
    """
    part, groups = _part(table, dataset, seed)
    if not groups:
        return None
    names = list(scores)

    def statistic(items: NDArray[np.int64]) -> NDArray[np.float64]:
        cells = [items[part.group[items] == each] for each in groups]
        taus = _taus(part, cells, scores)
        means = np.nanmean(taus, axis=1)
        return np.concatenate([means, means[0] - means[1:], taus[0]])

    found = iter(map(plain, estimates(statistic, part.prompt, resamples, seed)))
    return {
        "dataset": dataset,
        "prompts": len(np.unique(part.prompt)),
        "llms": len({part.groups[each].model for each in groups}),
        "tau": {name: next(found) for name in names},
        "gain": {name: next(found) for name in names[1:]},
        "by_llm": {str(part.groups[each]): next(found) for each in groups},
    }


def compare(
    table: LengthTable,
    datasets: Sequence[str],
    scores: Mapping[str, NDArray[np.float32]],
    resamples: int = 200,
    seed: int = 0,
) -> Numbers:
    """The mean over data sets of what `judge` finds on each, predictors side by side.

    Args:
        table: with the lengths of all data sets.
        datasets: their names; those on which `judge` finds nothing are left out.
        scores: as in `judge`.
        resamples: bootstrap draws, of prompts of all data sets together.
        seed: as in `judge`.

    Returns:
        Plain values: ``datasets``, in order; by predictor ``tau``, the mean over them, ``gain``,
        its lead over the first predictor on the same draws, and ``taus``, one per data set.
    """
    parts = [(name, *_part(table, name, seed)) for name in datasets]
    parts = [(name, part, groups) for name, part, groups in parts if groups]
    start = np.cumsum([0, *(len(part) for _, part, _ in parts)])
    prompt = np.concatenate([part.prompt for _, part, _ in parts])
    whole = np.arange(len(prompt))

    def by_dataset(items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each predictor on each data set."""
        means = []
        for (_, part, groups), first, end in zip(parts, start, start[1:], strict=False):
            mine = items[(first <= items) & (items < end)] - first
            cells = [mine[part.group[mine] == each] for each in groups]
            means.append(np.nanmean(_taus(part, cells, scores), axis=1))
        return np.stack(means, axis=1)

    def statistic(items: NDArray[np.int64]) -> NDArray[np.float64]:
        means = by_dataset(items).mean(axis=1)
        return np.concatenate([means, means - means[0]])

    found = iter(map(plain, estimates(statistic, prompt, resamples, seed)))
    return {
        "datasets": [name for name, _, _ in parts],
        "tau": {name: next(found) for name in scores},
        "gain": {name: next(found) for name in scores},
        "taus": {
            name: [round(float(tau), 4) for tau in row]
            for name, row in zip(scores, by_dataset(whole), strict=True)
        },
    }


def mean_tau(
    table: LengthTable, dataset: str, scores: NDArray[np.float32], seed: int = 0
) -> float | None:
    """What `judge` finds for one predictor, without an interval; None where it finds nothing."""
    part, groups = _part(table, dataset, seed)
    cells = [np.flatnonzero(part.group == each) for each in groups]
    return float(np.nanmean(_taus(part, cells, {"": scores}))) if groups else None


def _part(table: LengthTable, dataset: str, seed: int) -> tuple[LengthTable, list[int]]:
    """What is judged of a data set: its items, and the groups that have enough of them."""
    part = some_prompts(table.select(table.dataset == table.datasets.index(dataset)), seed)
    sizes = np.bincount(part.group, minlength=len(part.groups))
    enough = np.flatnonzero(sizes >= LEAST).tolist()
    groups = sorted(enough, key=lambda each: _rank(str(part.groups[each])))
    groups = [each for each in groups if np.ptp(part.length[part.group == each]) > 0][:_LLMS]
    return part.select(np.isin(part.group, groups)), groups


def _taus(
    part: LengthTable,
    cells: Sequence[NDArray[np.int64]],
    scores: Mapping[str, NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Tau of each predictor in each cell of items, (predictors, cells)."""
    return np.array(
        [
            [kendall_tau(each[part.prompt[c]], part.length[c], part.censored[c]) for c in cells]
            for each in scores.values()
        ]
    )


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
