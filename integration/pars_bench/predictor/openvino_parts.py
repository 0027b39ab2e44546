"""Where a call of the OpenVINO engine spends its time: its own nodes, as its profile has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_bench.predictor.contestants import Contestant
from pars_bench.predictor.report import PARTS, Parts
from pars_bench.predictor.speed import clock_of
from pars_export.runtimes.encoded import encoded_scorer
from pars_export.runtimes.openvino_engine import ENGINE, PLAN, OpenVinoCore, precision_of

_KINDS = {
    "FullyConnected": "products",
    **dict.fromkeys(("MatMul", "ScaledDotProductAttention", "Subgraph"), "attention"),
    **dict.fromkeys(("MVN", "Softmax", "Gelu", "Erf", "Tanh", "Relu"), "functions"),
}
"""Kind of node to one of `PARTS`; all others are the rest."""


class _Core(OpenVinoCore):
    """The engine with a profile of every run."""

    seconds = 0.0
    """In all runs, reading their profiles included."""

    def __init__(self, contestant: Contestant, threads: int, longest: int) -> None:
        folder, manifest = Path(contestant.folder), contestant.manifest(longest)
        described = manifest.engines[ENGINE]
        super().__init__(
            folder / str(described["file"]),
            threads,
            precision_of(described),
            manifest.input.max_length,
            more={"PERF_COUNT": True},
        )
        self._clock = clock_of(threads)
        self.kinds: list[str] = []
        """Of the nodes."""
        self.runs: list[list[float]] = []
        """Of each: seconds of each node."""

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        start = self._clock()
        scores = super().__call__(input_ids, attention_mask, facts)
        nodes = self._request.profiling_info
        self.kinds = [node.node_type for node in nodes]
        self.runs.append([node.real_time.total_seconds() for node in nodes])
        self.seconds += self._clock() - start
        return scores


class Profiled:
    """The engine of a folder once more, as its runtime has it, but profiled.

    Args:
        contestant: whose runtime is `openvino`.
        threads: cores to use.
        longest: tokens of the longest text.
    """

    def __init__(self, contestant: Contestant, threads: int, longest: int) -> None:
        self._core = _Core(contestant, threads, longest)
        manifest = contestant.manifest(longest)
        self._scorer = encoded_scorer(Path(contestant.folder), manifest, self._core, PLAN)
        self._clock = clock_of(threads)
        self._outside: list[float] = []

    def score(self, texts: Sequence[str]) -> None:
        """One call, always of the same shape."""
        start, before = self._clock(), self._core.seconds
        self._scorer.score(texts)
        self._outside.append(self._clock() - start - (self._core.seconds - before))

    def parts(self, seconds: float) -> Parts:
        """Where a call spends ``seconds``, which it takes without a profile."""
        # The first call only warms up. A call may be several runs.
        taken = np.array(self._core.runs).reshape(len(self._outside), -1)[1:]
        outside = min(float(np.median(self._outside[1:])), 0.99 * seconds)
        # A profile's clock runs on while others have the CPU: the lower calls are less disturbed.
        nodes = np.percentile(taken, 25, axis=0)
        slower = float(nodes.sum()) / (seconds - outside)
        nodes /= slower * seconds
        shares = dict.fromkeys(PARTS, 0.0)
        runs = len(nodes) // len(self._core.kinds)
        for kind, node in zip(self._core.kinds * runs, nodes, strict=True):
            shares[_KINDS.get(kind, "rest")] += float(node)
        shares["outside"] = outside / seconds
        return {"shares": shares, "nodes": len(nodes), "surplus": 0.0, "slower": slower}
