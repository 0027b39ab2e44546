"""Methods side by side on the same prompts: tau, its spread over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pars_model.lengths import LengthTable
from pars_model.metrics import Estimate, estimates, kendall_tau

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 200
SHARED = 0.1
"""Share of the smaller cell's prompts that two cells of one set have in common."""


@dataclass(frozen=True)
class Judged:
    """One seed's scores of the prompts that it was judged on.

    Attributes:
        prompts: their numbers in the table, (n,).
        scores: (n,) by method.
    """

    prompts: Ints
    scores: Mapping[str, Floats]


@dataclass(frozen=True)
class Standing:
    """How a method ranks in one cell.

    Attributes:
        tau: the mean over seeds, and its interval over prompts.
        seeds: tau of each seed.
        gain: tau less the reference's, and its interval over prompts, drawn for both alike.
    """

    tau: Estimate
    seeds: tuple[float, ...]
    gain: Estimate

    @property
    def spread(self) -> float:
        """Standard deviation of tau over seeds; prompts differ between seeds too."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else 0.0


def judge(truth: LengthTable, runs: Sequence[Judged], reference: str) -> dict[str, Standing]:
    """Standings of all methods of ``runs`` (the same in each seed) in one cell.

    Args:
        truth: one LLM's lengths, one item per prompt, to judge by.
        runs: one per seed.
        reference: the method that the others are compared with.
    """
    methods = list(runs[0].scores)
    prompt, by_seed = _taus(truth, runs)

    def statistic(rows: Ints) -> Floats:
        taus = by_seed(rows).mean(axis=1)
        return np.concatenate([taus, taus - taus[methods.index(reference)]])

    found = estimates(statistic, prompt, RESAMPLES)
    seeds = by_seed(np.arange(len(prompt)))
    return {
        name: Standing(found[place], tuple(seeds[place]), found[len(methods) + place])
        for place, name in enumerate(methods)
    }


def contrast(truth: LengthTable, runs: Sequence[Judged], weights: Mapping[str, float]) -> Estimate:
    """A weighted sum of the taus of methods, in the mean over seeds; its interval over prompts.

    Args:
        truth: one LLM's lengths, one item per prompt, to judge by.
        runs: one per seed.
        weights: by method.
    """
    prompt, by_seed = _taus(truth, runs)
    factors = np.array([weights.get(name, 0.0) for name in runs[0].scores])
    (found,) = estimates(
        lambda rows: np.array([factors @ by_seed(rows).mean(axis=1)]), prompt, RESAMPLES
    )
    return found


def _taus(truth: LengthTable, runs: Sequence[Judged]) -> tuple[Ints, Callable[[Ints], Floats]]:
    """The prompt of each judgement, of all seeds, and some of them to taus (methods, seeds)."""
    item = np.zeros(len(truth.prompts), dtype=np.int64)
    item[truth.prompt] = np.arange(len(truth))
    prompt = np.concatenate([run.prompts for run in runs])
    seed = np.repeat(np.arange(len(runs)), [len(run.prompts) for run in runs])
    length, censored = truth.length[item[prompt]], truth.censored[item[prompt]]
    scores = [np.concatenate([run.scores[name] for run in runs]) for name in runs[0].scores]

    def by_seed(rows: Ints) -> Floats:
        parts = [rows[seed[rows] == each] for each in range(len(runs))]
        return np.array(
            [
                [kendall_tau(each[part], length[part], censored[part]) for part in parts]
                for each in scores
            ]
        )

    return prompt, by_seed


def prompt_sets(cells: Sequence[Collection[str]]) -> list[int]:
    """The set of each cell, given its prompts: cells with prompts in common are of one set."""
    sets = list(range(len(cells)))
    for one, other in combinations(range(len(cells)), 2):
        common = len(set(cells[one]) & set(cells[other]))
        if common >= SHARED * min(len(cells[one]), len(cells[other])):
            sets = [sets[one] if each == sets[other] else each for each in sets]
    return sets


def mean_gain(gains: Sequence[Estimate], sets: Sequence[int]) -> Estimate:
    """The mean of gains over sets of prompts, each the mean of its cells, with its interval.

    Cells of one set err together, as far as the interval goes; sets err independently.

    Args:
        gains: one per cell; the mean has no interval where one of them has none.
        sets: the set of each, of :func:`prompt_sets`.
    """
    by_set = [
        [gain for gain, mine in zip(gains, sets, strict=True) if mine == each]
        for each in sorted(set(sets))
    ]
    value = float(np.mean([np.mean([gain.value for gain in each]) for each in by_set]))
    halves = []
    for each in by_set:
        ends = [(gain.low, gain.high) for gain in each]
        known = [(high - low) / 2 for low, high in ends if low is not None and high is not None]
        if len(known) < len(ends):
            return Estimate(value, None, None)
        halves.append(np.mean(known))
    half = float(np.sqrt(np.sum(np.square(halves)))) / len(by_set)
    return Estimate(value, value - half, value + half)
