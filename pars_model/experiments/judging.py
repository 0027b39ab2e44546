"""Methods side by side on the same prompts: tau, its spread over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pars_model.lengths import LengthTable
from pars_model.metrics import Estimate, estimates, kendall_tau

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 200


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
    item = np.zeros(len(truth.prompts), dtype=np.int64)
    item[truth.prompt] = np.arange(len(truth))
    prompt = np.concatenate([run.prompts for run in runs])
    seed = np.repeat(np.arange(len(runs)), [len(run.prompts) for run in runs])
    length, censored = truth.length[item[prompt]], truth.censored[item[prompt]]
    scores = {name: np.concatenate([run.scores[name] for run in runs]) for name in methods}

    def by_seed(rows: Ints) -> Floats:
        """Tau of each method and seed, (methods, seeds)."""
        parts = [rows[seed[rows] == each] for each in range(len(runs))]
        return np.array(
            [
                [kendall_tau(scores[name][part], length[part], censored[part]) for part in parts]
                for name in methods
            ]
        )

    def statistic(rows: Ints) -> Floats:
        taus = by_seed(rows).mean(axis=1)
        return np.concatenate([taus, taus - taus[methods.index(reference)]])

    found = estimates(statistic, prompt, RESAMPLES)
    seeds = by_seed(np.arange(len(prompt)))
    return {
        name: Standing(found[place], tuple(seeds[place]), found[len(methods) + place])
        for place, name in enumerate(methods)
    }


def mean_gain(gains: Sequence[Estimate]) -> Estimate:
    """The mean of gains in several cells, with the interval of a mean of independent ones."""
    value = float(np.mean([each.value for each in gains]))
    halves = [(each.high - each.low) / 2 for each in gains if each.low is not None and each.high]
    half = float(np.sqrt(np.sum(np.square(halves)))) / len(gains)
    return Estimate(value, value - half, value + half)
