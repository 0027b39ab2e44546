"""Learning rates: one per layer, and their course over the steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from pars_export.errors import ConfigError

HEADS = ("head.", "fact_head.")


def check_rates(
    lr: float, head_lr: float, layer_decay: float, warmup: float, schedule: str
) -> None:
    """Refuse what no fit can learn by.

    Raises:
        ConfigError: a value of a recipe's ``model`` is unknown or out of range.
    """
    if schedule not in ("linear", "constant"):
        raise ConfigError(f"model.schedule is {schedule!r}; expected linear or constant.")
    for name, value, allowed in (
        ("lr", lr, lr > 0),
        ("head_lr", head_lr, head_lr > 0),
        ("layer_decay", layer_decay, 0 < layer_decay <= 1),
        ("warmup", warmup, 0 <= warmup < 1),
    ):
        if not allowed:
            raise ConfigError(f"model.{name} is {value}, which is out of range.")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    head_lr: float,
    layer_decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay.

    Transformer layers are told by the number after ``layer.`` or ``layers.`` in a parameter's
    name; embeddings count as one layer below the first.
    """
    named = [(name, p) for name, p in parameters if p.requires_grad]
    layers = {name: _layer(name) for name, _ in named}
    top = max((layer for layer in layers.values() if layer is not None), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        decay = weight_decay if parameter.ndim > 1 else 0.0
        layer = layers[name]
        below_top = 0 if layer is None else top - layer
        rate = head_lr if name.startswith(HEADS) else lr * layer_decay**below_top
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": members, "lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]


def _layer(name: str) -> int | None:
    found = re.search(r"\blayers?\.(\d+)\.", name)
    if found:
        return int(found.group(1))
    return -1 if "embeddings." in name else None


def learning_rate_factor(steps: float, warmup: float, schedule: str) -> Callable[[int], float]:
    """Factor on the learning rates by step.

    Args:
        steps: steps of the whole fit; infinite where nobody knows.
        warmup: share of the steps in which the factor rises to 1.
        schedule: linear (falls to 0 at the last step) or constant.
    """
    if not math.isfinite(steps):
        return lambda _step: 1.0
    rise = warmup * steps

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        if schedule == "constant":
            return 1.0
        return max(0.0, (steps - step) / max(1.0, steps - rise))

    return factor
