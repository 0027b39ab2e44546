"""A runtime's scores and latency, in a process of its own: `python scored_apart.py DIR RUNTIME`.

NVIDIA's libraries read their environment once, so a runtime that needs another one needs a process.
The prompts come as JSON on the standard input; scores go out as a line of JSON, then the latency.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

from pars_bench.predictor.speed import take_turns
from pars_export import Predictor
from pars_export.parity import builtin_texts


def latencies(predictors: Mapping[str, Predictor]) -> str:
    """A line for each batch: median milliseconds of a call in each predictor, taking turns."""
    lines = []
    texts = builtin_texts()
    for batch in (1, 16, 64):
        calls = {n: partial(each.score, texts[:batch]) for n, each in predictors.items()}
        found = take_turns(calls, rounds=3)
        shown = [f"{n} {1e3 * median(found[n]['seconds']):.3f} ms" for n in predictors]
        lines.append(f"batch {batch}: {', '.join(shown)}")
    return "\n".join(lines)


def beside_torch(folder: Path, runtime: str, predictor: Predictor) -> str:
    """`latencies` of a runtime and of the reference that it is compared with."""
    return latencies({"torch on the CPU": Predictor.load(folder, "torch"), runtime: predictor})


def main(folder: str, runtime: str) -> None:
    """Score and tell."""
    predictor = Predictor.load(folder, runtime)
    print(json.dumps(predictor.score(json.load(sys.stdin)).tolist()))
    print(beside_torch(Path(folder), runtime, predictor))


if __name__ == "__main__":
    main(*sys.argv[1:])
