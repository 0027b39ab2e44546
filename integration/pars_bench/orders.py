"""The orders that are compared, each as a folder that the same scheduler class reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pars_export.errors import ConfigError

POLICIES: tuple[str, ...] = ("fcfs", "pars", "oracle", "prompt_length")
NEEDS_FOLDER = "pars"

SCHEDULER = "pars_vllm.ParsScheduler"


@dataclass(frozen=True)
class Order:
    """One order of the waiting queue."""

    policy: str
    """``fcfs`` (arrival), ``pars``, ``oracle`` (lengths measured under fcfs), ``prompt_length``."""
    predictor: Path | None = None
    """Predictor folder; given for ``pars``, made by the benchmark for the rest."""


def parse_order(text: str) -> Order:
    """Read ``fcfs``, ``oracle``, ``prompt_length`` or ``pars=DIR``.

    Raises:
        ConfigError: another name, ``pars`` without a folder, or a folder given to another.
    """
    policy, _, folder = text.partition("=")
    if policy not in POLICIES:
        raise ConfigError(f"--order {text}: unknown order {policy!r}; known: {', '.join(POLICIES)}")
    if policy == NEEDS_FOLDER and not folder:
        raise ConfigError("--order pars needs its predictor folder: write --order pars=DIR")
    if policy != NEEDS_FOLDER and folder:
        raise ConfigError(f"--order {text}: {policy} takes no folder, the benchmark makes its own")
    return Order(policy, Path(folder).resolve() if folder else None)


def check_orders(orders: tuple[Order, ...]) -> tuple[Order, ...]:
    """The orders with arrival order first.

    Raises:
        ConfigError: arrival order is missing, or an order is given twice.
    """
    names = [order.policy for order in orders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--order {twice[0]} is given twice: give each order once")
    if "fcfs" not in names:
        raise ConfigError(
            "--order fcfs is missing: the load, the oracle's lengths and every comparison come "
            "from arrival order"
        )
    return tuple(sorted(orders, key=lambda order: order.policy != "fcfs"))


def folder_of(order: Order, work: Path, lengths: Mapping[str, int]) -> Path | None:
    """The order's predictor folder, written below ``work`` where the benchmark makes it.

    Args:
        order: The order.
        work: Folder for what is made here.
        lengths: Response tokens measured in arrival order, by the predictor's text.
    """
    if order.policy == "fcfs":
        return None
    if order.policy == "pars":
        return order.predictor
    from pars_export.table import write_length_predictor, write_table_predictor

    folder = work / order.policy
    if order.policy == "oracle":
        write_table_predictor(folder, {text: float(tokens) for text, tokens in lengths.items()})
    else:
        write_length_predictor(folder)
    return folder


def identity(order: Order, lengths: Mapping[str, int]) -> str:
    """What the order depends on, as a digest; a change of it makes an old run void."""
    if order.policy == "pars" and order.predictor is not None:
        from pars_export.artifact import folder_sha256

        return folder_sha256(order.predictor)
    if order.policy == "oracle":
        return hashlib.sha256(json.dumps(sorted(lengths.items())).encode()).hexdigest()
    return order.policy


def scheduler_arguments(policy: str, folder: Path | None) -> tuple[str, ...]:
    """Arguments of ``vllm serve`` for an order; ``folder`` is its predictor (None for ``fcfs``).

    Arrival order goes through the very same class with its ranking off: a subclass alone can
    change the speed of an engine, and that must not be counted as a gain or loss of the order.
    """
    settings: dict[str, object] = {"ranking": "off"}
    if folder is not None:
        # Without a score cache: the second arrival pattern sends the first one's prompts again,
        # and real traffic would not have had them scored beforehand.
        settings = {"predictor": str(folder.resolve()), "cache_entries": 0}
        if policy != "pars":
            # What PARS is compared with keeps its order, however badly it predicts lengths.
            settings["min_concordance"] = 0
    return (
        *("--scheduler-cls", SCHEDULER),
        *("--additional-config", json.dumps({"pars": settings})),
    )
