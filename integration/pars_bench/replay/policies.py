"""The orders that a replay compares, and what each of them believes about response lengths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_bench.replay.columns import Columns
from pars_bench.replay.costmodel import Array
from pars_bench.replay.traffic import TrafficRequest
from pars_export.errors import ConfigError, InputError

KINDS: dict[str, str] = {
    "fcfs": "arrival order, by our class with its ranking off",
    "prompt_length": "shortest prompt first",
    "pars": "least expected work first, by a predictor or a score model of stated tau",
    "oracle": "least expected work first, by the true lengths",
    "rerun": "least expected work first, by another response of the same LLM",
    "hrrn": "highest response ratio next, by the same scores as pars",
    "vllm_priority": "vLLM's own priority queue, by the same scores as pars",
}
DEFAULT = ("fcfs", "prompt_length", "pars", "oracle", "hrrn", "vllm_priority")

_BATCH = 256
_MOST_FOR_TAU = 20_000
_TAU_OFF = 0.02
"""How far a score model's tau may lie below the one it is named for."""


@dataclass(frozen=True)
class Scores:
    """Where the scores of an order come from."""

    predictor: Path | None = None
    """Predictor folder; needs the prompts' text."""
    tau: float | None = None
    """Kendall's tau-b that a score model shall have with the true lengths."""
    noise: float | None = None
    """Standard deviation of the logarithm of a score model's error."""


@dataclass(frozen=True)
class Order:
    """One order."""

    name: str
    """In reports; a score model's says so."""
    kind: str
    """One of ``KINDS``."""
    scores: Scores | None = None


@dataclass(frozen=True)
class Beliefs:
    """What an order expects of every request, and how that came about."""

    tokens: Array
    """Expected response tokens, shape (n,); NaN where a predictor knows nothing."""
    facts: dict[str, object]

    def of(self, index: int) -> float | None:
        """Expected tokens of one request; None where nothing is known."""
        tokens = float(self.tokens[index])
        return None if np.isnan(tokens) else tokens

    @property
    def guessed(self) -> Array:
        """The median where nothing is known; 1 if nothing is known of any."""
        unknown = np.isnan(self.tokens)
        median = 1.0 if unknown.all() else float(np.nanmedian(self.tokens))
        return np.where(unknown, median, self.tokens)


def choose_orders(
    names: Sequence[str], predictor: Path | None, taus: Sequence[float], noise: float | None
) -> tuple[Order, ...]:
    """The orders by name; ``pars`` once for every tau, the others with the first.

    Raises:
        ConfigError: an unknown name, one given twice, or scores that contradict each other.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise ConfigError(f"--orders {unknown[0]}: unknown order; known: {', '.join(KINDS)}.")
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise ConfigError(f"--orders: {twice[0]} is given twice.")
    sources = _sources(predictor, taus, noise)
    orders: list[Order] = []
    for name in names:
        if name == "pars":
            orders += [Order(_label(name, scores), name, scores) for scores in sources]
        elif name in ("hrrn", "vllm_priority"):
            orders.append(Order(_label(name, sources[0]), name, sources[0]))
        else:
            orders.append(Order(name, name))
    return tuple(orders)


def _sources(
    predictor: Path | None, taus: Sequence[float], noise: float | None
) -> tuple[Scores, ...]:
    if predictor is not None:
        if taus or noise is not None:
            raise ConfigError("--predictor gives real scores: drop --tau and --noise.")
        return (Scores(predictor=predictor),)
    if noise is not None:
        if taus:
            raise ConfigError("--tau and --noise both tell the score model's error: give one.")
        if not 0 <= noise <= 10:
            raise ConfigError(f"--noise is {noise}: expected 0 to 10.")
        return (Scores(noise=noise),)
    for tau in taus:
        if not 0 < tau < 1:
            raise ConfigError(f"--tau is {tau}: expected more than 0 and less than 1.")
    return tuple(Scores(tau=tau) for tau in taus or (0.5,))


def _label(name: str, scores: Scores) -> str:
    if scores.tau is not None:
        return f"{name}@tau={scores.tau:g}"
    return name if scores.noise is None else f"{name}@noise={scores.noise:g}"


def check_order(order: Order, columns: Columns) -> None:
    """Refuse an order that reads what the traffic has not.

    Raises:
        InputError: names what is missing.
    """
    count = len(columns)
    missing = int(np.isnan(columns.rerun_tokens).sum())
    if order.kind == "rerun" and missing:
        raise InputError(
            f"the order rerun needs another sample of every response, and {missing} of {count} "
            "requests have none: give a length table with several samples, a trace with "
            "rerun_tokens, or leave the order out."
        )
    scores = order.scores or Scores()
    if scores.predictor is not None and columns.texts < count:
        raise InputError(
            f"--predictor reads prompts, and {count - columns.texts} of {count} requests of the "
            "traffic have no text: use --tau, a score model, for such a trace."
        )
    greatest = greatest_tau(columns.output_tokens[:_MOST_FOR_TAU])
    if scores.tau is not None and 0 < greatest < scores.tau - _TAU_OFF:
        raise InputError(
            f"no score model can have the tau {scores.tau:g}: so many responses have equal lengths "
            f"that {greatest:.3f} is the most; give --tau up to "
            f"{math.floor(100 * greatest) / 100:.2f}, or --noise in its place."
        )


def beliefs(
    order: Order, columns: Columns, requests: Iterable[TrafficRequest], seed: int
) -> Beliefs | None:
    """What the order expects of every request; None for arrival order.

    Args:
        order: The order.
        columns: The traffic's numbers.
        requests: The traffic itself, for its texts.
        seed: Of a score model's errors.

    Raises:
        InputError: the traffic lacks what the order reads.
    """
    if order.kind == "fcfs":
        return None
    check_order(order, columns)
    if order.kind == "prompt_length":
        found = Beliefs(columns.prompt_tokens.astype(np.float64), {"kind": "prompt length"})
    elif order.kind == "oracle":
        found = Beliefs(columns.output_tokens.astype(np.float64), {"kind": "true length"})
    elif order.kind == "rerun":
        found = Beliefs(columns.rerun_tokens, {"kind": "another sample"})
    else:
        assert order.scores is not None
        if order.scores.predictor is not None:
            found = _predicted(order.scores.predictor, requests)
        else:
            found = _modelled(order.scores, columns, seed)
    tau = _tau(found.tokens, columns.output_tokens.astype(np.float64))
    return replace(found, facts={**found.facts, "tau": tau})


def _predicted(folder: Path, requests: Iterable[TrafficRequest]) -> Beliefs:
    from pars_export import Predictor

    predictor = Predictor.load(folder)
    stream = iter(requests)
    found: list[Array] = []
    while texts := [request.prompt or "" for request in itertools.islice(stream, _BATCH)]:
        found.append(predictor.expected_tokens(texts).astype(np.float64))
    return Beliefs(
        np.concatenate(found), {"kind": "predictor", "predictor_sha256": predictor.sha256}
    )


def _modelled(scores: Scores, columns: Columns, seed: int) -> Beliefs:
    """True lengths times log-normal noise, as strong as the wanted tau asks for.

    Where all responses have one length nothing can rank them: the scores are noise alone.
    """
    lengths = columns.output_tokens.astype(np.float64)
    draws = np.random.default_rng([seed, 0x7A0]).standard_normal(lengths.size)
    noise = scores.noise
    if noise is None:
        assert scores.tau is not None
        some = lengths[:_MOST_FOR_TAU]
        equal = some.min() == some.max()
        noise = 1.0 if equal else noise_for_tau(scores.tau, some, draws[:_MOST_FOR_TAU])
    facts: dict[str, object] = {"kind": "score model", "wanted_tau": scores.tau, "noise": noise}
    return Beliefs(lengths * np.exp(noise * draws), facts)


def greatest_tau(lengths: NDArray[np.int64]) -> float:
    """The most that Kendall's tau-b of scores that all differ can be; 0 of one length for all."""
    counts = np.unique(lengths, return_counts=True)[1]
    pairs = lengths.size * (lengths.size - 1) / 2
    tied = float((counts * (counts - 1) / 2).sum())
    return math.sqrt(1 - tied / pairs) if pairs else 0.0


def noise_for_tau(tau: float, lengths: Array, draws: Array) -> float:
    """The noise under which ``lengths * exp(noise * draws)`` has the wanted tau; by bisection."""
    low, high = 0.0, 16.0
    for _ in range(40):
        middle = (low + high) / 2
        found = _tau(lengths * np.exp(middle * draws), lengths)
        low, high = (middle, high) if found is not None and found > tau else (low, middle)
    return (low + high) / 2


def _tau(expected: Array, lengths: Array) -> float | None:
    from scipy.stats import kendalltau

    if lengths.size < 2:
        return None
    tau = float(kendalltau(expected, lengths).statistic)
    return None if np.isnan(tau) else tau
