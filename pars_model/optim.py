"""Learning rates: one per layer, and their course over the steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

HEADS = ("head.", "fact_head.")


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
