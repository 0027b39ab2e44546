"""A fresh process that loads one contestant, scores some prompts and says what it took.

Started with `python -m pars_bench.predictor.loading`, the contestant as JSON in the input. Whoever
starts it has the clock: the first line comes when it could score, the second after it has scored.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TypedDict

from pars_bench.environment import memory_mib

LOOKED_FOR = ("torch", "transformers", "onnxruntime", "onnx", "scipy")
"""Packages whose import costs more than loading a predictor should."""


class Loaded(TypedDict):
    """First line."""

    resident_mib: float | None
    """Memory in use when it could score."""
    cpu_seconds: float
    """Of this process until then, from its start."""
    imported: list[str]
    """Those of `LOOKED_FOR` that were imported."""


def main() -> None:
    """Load, tell, score, tell."""
    order = json.loads(sys.stdin.readline())
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        if order["contestant"]["baseline"]:
            from pars_bench.predictor.contestants import Contestant

            scorer = Contestant(**order["contestant"]).open(1, order["longest"])
        else:
            # As a user would, with every hash checked.
            from pars_export.predictor import Predictor

            found = order["contestant"]
            scorer = Predictor.load(found["folder"], found["what"])  # type: ignore[assignment]
        loaded: Loaded = {
            "resident_mib": memory_mib("VmRSS"),
            "cpu_seconds": time.process_time(),
            "imported": [name for name in LOOKED_FOR if name in sys.modules],
        }
        print(json.dumps(loaded), file=answers, flush=True)
        scorer.score(order["texts"])
        scorer.score([" ".join(order["texts"])])
        print(json.dumps({"peak_mib": memory_mib("VmHWM")}), file=answers, flush=True)


if __name__ == "__main__":
    main()
