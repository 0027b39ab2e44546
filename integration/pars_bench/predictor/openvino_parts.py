"""Where a call of the OpenVINO engine spends its time: its own nodes, as its profile has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_bench.predictor.contestants import Contestant
from pars_bench.predictor.parts import shared_out
from pars_bench.predictor.report import Parts
from pars_bench.predictor.speed import clock_of
from pars_export.runtimes.encoded import Core, encoded_scorer
from pars_export.runtimes.openvino_engine import ENGINE, PLAN, core_of

_KINDS = {
    "FullyConnected": "products",
    **dict.fromkeys(("MatMul", "ScaledDotProductAttention", "Subgraph"), "attention"),
    **dict.fromkeys(("MVN", "Softmax", "Gelu", "Erf", "Tanh", "Relu"), "functions"),
}
"""Kind of node to one of `PARTS`; all others are the rest. OpenVINO makes a subgraph of attention's
products and the softmax between them, and of nothing else in an encoder of BERT's form."""


class _Timed:
    """A core, and the seconds of its runs."""

    survives_fork = False
    runs = 0
    seconds = 0.0
    """In all runs."""

    def __init__(self, core: Core, threads: int) -> None:
        self._core, self._clock = core, clock_of(threads)

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        start = self._clock()
        scores = self._core(input_ids, attention_mask, facts)
        self.seconds += self._clock() - start
        self.runs += 1
        return scores


class Profiled:
    """The engine of a folder once more, as its runtime has it, but profiled.

    Args:
        contestant: whose runtime is `openvino`.
        threads: cores to use.
        longest: tokens of the longest text.
    """

    def __init__(self, contestant: Contestant, threads: int, longest: int) -> None:
        folder, manifest = Path(contestant.folder), contestant.manifest(longest)
        described = manifest.engines[ENGINE]
        file = folder / str(described["file"])
        core = core_of(file, described, manifest, threads, more={"PERF_COUNT": True})
        self._request = core.request
        self._core = _Timed(core, threads)
        self._scorer = encoded_scorer(folder, manifest, self._core, PLAN)
        self._clock = clock_of(threads)
        self._outside: list[float] = []
        self._warm: NDArray[np.float64] | None = None
        """Seconds of each node in the first call, which only warms up."""

    def score(self, texts: Sequence[str]) -> None:
        """One call, always of the same shape."""
        start, before = self._clock(), self._core.seconds
        self._scorer.score(texts)
        self._outside.append(self._clock() - start - (self._core.seconds - before))
        if self._warm is None:
            self._warm = self._seconds()

    def parts(self, seconds: float) -> Parts:
        """Where a call spends ``seconds``, which it takes without a profile."""
        assert self._warm is not None
        nodes = (self._seconds() - self._warm) / (len(self._outside) - 1)
        ran = np.flatnonzero(nodes > 0)  # others were fused with one that did
        types = [node.node_type for node in self._request.profiling_info]
        kinds = [_KINDS.get(types[place], "rest") for place in ran]
        return shared_out(kinds, nodes[ran], self._outside, seconds)

    def _seconds(self) -> NDArray[np.float64]:
        """Of each node in all runs, whose mean is what the profile tells."""
        taken = [node.real_time.total_seconds() for node in self._request.profiling_info]
        return self._core.runs * np.array(taken)
