"""Single responses of many LLMs, on the scale of a typical one; how many the intervals cover.

A prompt's median over LLMs says nothing of how far one response lies from another. Yet LLMs differ
in how long they talk, and serving corrects that by one factor: so does this, before it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pars_export.calibration import Calibration
from pars_model.lengths import LengthTable
from pars_model.reliability import reliability
from pars_model.universal.judge import LEAST
from pars_vllm.ratio import fit_ratio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_ROUNDS = 5
"""Of fitting LLMs and prompts by turns."""
_ENDS = ("value", "low", "high")
_EACH = 5
"""Responses drawn of each prompt: an exam of ten LLMs is no more traffic than a chat with one."""


@dataclass(frozen=True)
class Responses:
    """One by one, (n,)."""

    prompt: Ints
    """Number of the prompt."""
    llm: Ints
    """Number of the LLM, whatever its generation config."""
    length: Floats
    """At least 1, in tokens of whatever unit that LLM was measured in."""
    censored: Bools
    """Which were cut off."""

    @classmethod
    def of(cls, table: LengthTable) -> Responses:
        """All of a table, but those of LLMs with hardly any."""
        prompt, length, censored = table.responses()
        number = {name: at for at, name in enumerate(dict.fromkeys(g.model for g in table.groups))}
        llms = np.array([number[group.model] for group in table.groups])
        llm = np.repeat(llms[table.group], np.diff(table.sample_start))
        found = cls(prompt, llm, np.maximum(length, 1.0), censored)
        return found.take(np.flatnonzero(np.bincount(llm)[llm] >= LEAST))

    def take(self, rows: Ints) -> Responses:
        """The chosen ones, in that order."""
        return Responses(self.prompt[rows], self.llm[rows], self.length[rows], self.censored[rows])

    def draw(self, prompts: Ints, seed: int = 0) -> Responses:
        """As many of each of these prompts, at random with replacement."""
        rng = np.random.default_rng(seed)
        order = np.argsort(self.prompt, kind="stable")
        numbers, start, count = np.unique(self.prompt[order], return_index=True, return_counts=True)
        at = np.searchsorted(numbers, np.intersect1d(prompts, numbers))
        drawn = (rng.random((len(at), _EACH)) * count[at, None]).astype(np.int64)
        return self.take(order[(start[at, None] + drawn).ravel()])

    def typical(self) -> Responses:
        """The same with each LLM's lengths divided by its factor over a typical LLM.

        The logarithm of a length is taken for a sum of its prompt's and its LLM's, fitted by
        medians (Tukey's median polish): an LLM is compared on the prompts that it shares with
        others, and keeps its scale where it shares none.
        """
        logarithm = np.log(self.length)
        of_llm = np.zeros(len(logarithm))
        for _ in range(_ROUNDS):
            of_prompt = _medians(logarithm - of_llm, self.prompt)
            of_llm = _medians(logarithm - of_prompt, self.llm)
        return Responses(self.prompt, self.llm, self.length / np.exp(of_llm), self.censored)

    def served(self, expected: NDArray[np.float32]) -> Responses:
        """The same with each LLM's lengths divided by the factor that serving finds for it.

        Args:
            expected: tokens of each response, by the predictor.
        """
        factor = np.ones(len(self.length))
        for each in np.unique(self.llm):
            mine = self.llm == each
            ratio = fit_ratio(np.log(self.length[mine] / expected[mine]), ~self.censored[mine])
            if ratio is not None:
                factor[mine] = ratio.mean
        return Responses(self.prompt, self.llm, self.length / factor, self.censored)


def coverage(
    calibration: Calibration,
    scores: NDArray[np.float32],
    responses: Responses,
    prompts: Ints,
    resamples: int = 200,
) -> Mapping[str, object]:
    """How many responses the central intervals of a calibration cover, once LLMs are rescaled.

    Args:
        calibration: with a spread.
        scores: of each prompt of the table.
        responses: all that there are, by which the factors of LLMs are found.
        prompts: those that are looked at.
        resamples: bootstrap draws, of prompts.

    Returns:
        Plain values: ``prompts`` and ``llms``, numbers; and by interval in percent the share that
        lies inside: value, low and high end.
    """
    expected = calibration.expected_tokens(scores[responses.prompt])
    seen = responses.served(expected).draw(prompts)
    mine = scores[seen.prompt].astype(np.float64)
    found = reliability(calibration, mine, seen.length, seen.censored, seen.prompt, resamples)
    shares = cast("Mapping[str, Mapping[str, float | None]]", found["coverage"])
    return {
        "prompts": len(np.unique(seen.prompt)),
        "llms": len(np.unique(seen.llm)),
        **{name: [_rounded(share[end]) for end in _ENDS] for name, share in shares.items()},
    }


def _medians(values: Floats, group: Ints) -> Floats:
    """Median of each value's group, (n,)."""
    order = np.lexsort((values, group))
    _, start, inverse, count = np.unique(
        group[order], return_index=True, return_inverse=True, return_counts=True
    )
    ranked = values[order]
    middle = (ranked[start + (count - 1) // 2] + ranked[start + count // 2]) / 2
    found = np.empty(len(values))
    found[order] = middle[inverse]
    return found


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
