"""Where a call of the OpenVINO engine spends its time: its own nodes, as its profile has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_bench.predictor.contestants import Contestant
from pars_bench.predictor.parts import Calls, shared_out
from pars_bench.predictor.report import Parts
from pars_export.runtimes.openvino_engine import OPENVINO, PLAN, core_of

_KINDS = {
    "FullyConnected": "products",
    **dict.fromkeys(("MatMul", "ScaledDotProductAttention", "Subgraph"), "attention"),
    **dict.fromkeys(("MVN", "Softmax", "Gelu", "Erf", "Tanh", "Relu"), "functions"),
}
"""Kind of node to one of `PARTS`; all others are the rest. Of an encoder of BERT's form OpenVINO
makes subgraphs of attention's products and the softmax between them alone."""


class Profiled(Calls):
    """The engine of a folder once more, as its runtime has it, but profiled.

    OpenVINO's profile tells the mean of each node over all runs, in whole microseconds of each run,
    which are cut off: the share of a small node is rather too small.

    Args:
        contestant: whose runtime is `openvino`.
        threads: cores to use.
        longest: tokens of the longest text.
    """

    def __init__(self, contestant: Contestant, threads: int, longest: int) -> None:
        manifest = contestant.manifest(longest)
        described = manifest.engines[OPENVINO]
        file = Path(contestant.folder) / str(described["file"])
        core = core_of(file, described, manifest, threads, more={"PERF_COUNT": True})
        super().__init__(contestant, core, PLAN, threads, longest)
        self._request = core.request
        self._warm: NDArray[np.float64] | None = None
        """Seconds of each node in the first call, which only warms up."""

    def score(self, texts: Sequence[str]) -> None:
        """One call, always of the same shape."""
        super().score(texts)
        if self._warm is None:
            self._warm = self._seconds()

    def parts(self, seconds: float) -> Parts:
        """Where a call spends ``seconds``, which it takes without a profile."""
        assert self._warm is not None
        calls = len(self.outside) - 1
        nodes = np.maximum(self._seconds() - self._warm, 0.0) / calls
        kinds = [_KINDS.get(node.node_type, "rest") for node in self._request.profiling_info]
        found = shared_out(kinds, nodes, self.outside, seconds)
        runs = self.core.runs // len(self.outside)
        return {**found, "nodes": int(np.count_nonzero(nodes)) * runs}

    def _seconds(self) -> NDArray[np.float64]:
        """Of each node in all runs."""
        taken = [node.real_time.total_seconds() for node in self._request.profiling_info]
        return self.core.runs * np.array(taken)
