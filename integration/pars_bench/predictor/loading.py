"""A fresh process that loads one contestant, scores what it is given and says what it took.

Started with `python -m pars_bench.predictor.loading`, an `Order` as JSON in the first line of the
input. Whoever starts it has the clock: its first line comes when it could score. Each further line
of input is a `Call`, and is answered with the most memory that the process had: ever, or since the
last call that counts it anew.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TypedDict

from pars_bench.environment import forget_peak, memory_mib

LOOKED_FOR = ("torch", "transformers", "onnxruntime", "openvino", "onnx", "scipy")
"""Packages whose import costs more than loading a predictor should."""


class Order(TypedDict):
    """What to load."""

    contestant: dict[str, Any]
    """Fields of `Contestant`."""
    threads: int
    longest: int | None
    """Tokens at which an encoder cuts texts; None to load the folder as a user would."""


class Call(TypedDict):
    """What to score."""

    texts: list[str]
    anew: bool
    """Whether only memory from now on counts; the answer is None where that cannot be had."""


class Loaded(TypedDict):
    """First line."""

    resident_mib: float | None
    """Memory in use when it could score."""
    cpu_seconds: float
    """Of this process until then, from its start."""
    imported: list[str]
    """Those of `LOOKED_FOR` that were imported."""


def main() -> None:
    """Load, tell; score, tell, until the input ends."""
    order: Order = json.loads(sys.stdin.readline())
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        scorer = _load(order)
        loaded: Loaded = {
            "resident_mib": memory_mib("VmRSS"),
            "cpu_seconds": time.process_time(),
            "imported": [name for name in LOOKED_FOR if name in sys.modules],
        }
        print(json.dumps(loaded), file=answers, flush=True)
        for line in sys.stdin:
            call: Call = json.loads(line)
            known = forget_peak() if call["anew"] else True
            scorer.score(call["texts"])
            print(json.dumps(memory_mib("VmHWM") if known else None), file=answers, flush=True)


def _load(order: Order) -> Any:
    found = order["contestant"]
    if order["longest"] is None:
        # With every hash checked, and nothing of the bench imported.
        from pars_export.predictor import Predictor

        return Predictor.load(found["folder"], found["what"], order["threads"])
    from pars_bench.predictor.contestants import Contestant

    return Contestant(**found).open(order["threads"], order["longest"])


if __name__ == "__main__":
    main()
