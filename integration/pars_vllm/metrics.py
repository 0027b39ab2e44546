"""Counters of the scheduler and its scorer; numbers and names of errors, never prompt text."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Counters:
    """Counted since the engine started.

    A request may be asked about again, after a lost scorer process was replaced or when the order
    comes back: from ``scored`` to ``not_sent`` each time counts.
    """

    requests: int = 0
    """Requests that could be scored (generation, by token ids), each once."""
    scored: int = 0
    """Times that a request got an expected length."""
    unknown: int = 0
    """Times that the predictor had no score for a request."""
    cached: int = 0
    """Times that the cache held the answer, an expected length or that there is none."""
    not_sent: int = 0
    """Times that a request stayed without an answer: too many were pending, no scorer was there,
    its prompt failed, now or too often before, or the process was lost meanwhile."""
    as_they_are: int = 0
    """Prompts that the predictor was given as they are, head and tail of long ones, because their
    chat template could not be taken off; an answer from the cache is not counted again."""
    failures: int = 0
    """Times that the scorer process could not score a prompt, or a batch of them."""
    restarts: int = 0
    """Times that a lost scorer process was replaced."""
    losses: int = 0
    """Times that a scorer process died, hung or was given up."""
    admissions: int = 0
    """Requests admitted for the first time."""
    admitted_urgent: int = 0
    """Of these, admitted out of turn because they had waited long."""
    passed_over: int = 0
    """Waiting requests that others passed because they did not fit into the KV cache."""
    preemptions: int = 0
    """Times that a generation request which is over was preempted."""
    finished: int = 0
    """Generation requests that ended by themselves or at their cap."""
    judged: int = 0
    """Times that the predictor was judged by the lengths of the answers."""
    fallbacks: int = 0
    """Times that the order fell back to arrival because the predictor was no better than that."""
    returns: int = 0
    """Times that it came back."""

    def line(self) -> str:
        """One line for the log."""
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())
