"""Facts of report.json in words: the environment and the predictor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

# In the order in which they are shown.
_PREDICTOR_NAMES = {
    "tau": "tau of score and length",
    "interval": "95 % interval of tau",
    "prompts": "prompts that tau is of",
    "tau_config": "responses that tau is of",
    "ceiling": "ceiling (another run of the LLM)",
    "ceiling_interval": "95 % interval of the ceiling",
    "ceiling_config": "responses that the ceiling is of",
    "milliseconds": "milliseconds per prompt",
    "served_tau": "tau on the served prompts",
    "served_interval": "95 % interval of that",
    "served_prompts": "served prompts",
}


def predictor_pairs(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """(name, value) of each fact about the predictor, in words."""
    names = [
        *(n for n in _PREDICTOR_NAMES if n in facts),
        *(n for n in facts if n not in _PREDICTOR_NAMES),
    ]
    return [
        (_PREDICTOR_NAMES.get(name, name.replace("_", " ")), _plain(facts[name])) for name in names
    ]


def _plain(value: object) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return " to ".join(_plain(item) for item in value)
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def flatten(facts: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    """(name, value) of each fact of a nested mapping, in words."""
    for name, value in facts.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{label}: ")
        else:
            yield label, _plain(value)
