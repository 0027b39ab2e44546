"""What the orders of a replay are called, and how their curves look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """One order on the page."""

    policy: str
    """As in report.json: a kind, and after ``@`` what its scores are."""
    name: str
    role: str
    """Of its colour: a CSS variable of the page."""
    dash: str
    """``solid``, ``dashed`` or ``dotted``: tells curves apart in grey too."""

    @property
    def kind(self) -> str:
        """The order without where its scores come from."""
        return self.policy.partition("@")[0]


_KINDS = {
    "fcfs": ("arrival order", "fcfs", "solid"),
    "pars": ("PARS", "pars", "solid"),
    "oracle": ("oracle", "oracle", "dashed"),
    "rerun": ("rerun oracle", "rerun", "dashed"),
    "prompt_length": ("prompt length", "prompt_length", "dotted"),
    "hrrn": ("HRRN", "hrrn", "dashed"),
    "vllm_priority": ("vLLM priority", "vllm_priority", "dotted"),
}
_MORE = ("more_1", "more_2", "more_3", "more_4")
ROLES = (*(role for _, role, _ in _KINDS.values()), *_MORE)

KNOWING = ("oracle", "rerun")
"""Orders that know what none can know before a response is there: they do not compete."""


def looks(policies: Sequence[str]) -> list[Look]:
    """A look for each order; several of one kind get colours of their own."""
    found: list[Look] = []
    more = 0
    for policy in policies:
        kind, _, scores = policy.partition("@")
        name, role, dash = _KINDS.get(kind, (kind.replace("_", " "), "", "solid"))
        if scores:
            known = scores.replace("=", " ")
            # Scores that were made up are not PARS, and must not be called so.
            name = f"score model, {known}" if kind == "pars" else f"{name}, {known}"
        if not role or any(look.role == role for look in found):
            role = _MORE[more % len(_MORE)]
            more += 1
        found.append(Look(policy, name, role, dash))
    return found
