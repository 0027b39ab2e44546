"""Where a call of an engine spends its time: its own nodes, as onnxruntime's profile has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_bench.predictor.contestants import Contestant
from pars_bench.predictor.report import PARTS, Parts
from pars_bench.predictor.speed import clock_of
from pars_export.batches import BatchPlan
from pars_export.errors import ParsError
from pars_export.runtimes.encoded import Core, encoded_scorer

if TYPE_CHECKING:
    import onnx

OPTIMISED = "optimised.onnx"
MOST_EVENTS = 1_000_000
"""That a profile of onnxruntime holds; it drops all that come later."""
PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat"}
"""With weights where an input is a constant matrix, else attention's own."""
FUNCTIONS = {
    *("Softmax", "LayerNormalization", "SkipLayerNormalization"),
    *("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "Erf", "Tanh", "Relu"),
}
ROUNDING = {
    *("Abs", "Add", "Concat", "Div", "Expand", "Max", "Mul", "QuantizeLinear"),
    *("ReduceMax", "ReduceProd", "Reshape", "Shape", "Unsqueeze"),
}
"""Where one of their tensors has a name that `pars_export.int8` gives."""
PLAIN = {
    *("Add", "Cast", "Concat", "Div", "Equal", "Expand", "Flatten", "Gather", "GatherElements"),
    *("Identity", "Mul", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Sub", "Transpose"),
    *("Unsqueeze", "Where"),
}
"""They move, or take element by element, what they are given, also a constant matrix."""


def part_of(node: onnx.NodeProto, matrices: set[str]) -> str:
    """Which of `PARTS` a node belongs to: `rest` where it is none of the others.

    An operator that is not known here and has a constant matrix, as a fused one may, counts as a
    product with weights: so a bound by what is no product is rather too low than too high.

    Args:
        node: of the graph as onnxruntime runs it.
        matrices: names of the constants with two dimensions.
    """
    if node.op_type in PRODUCTS:
        return "products" if matrices.intersection(node.input) else "attention"
    if node.op_type in FUNCTIONS:
        return "functions"
    marked = any(
        name.startswith("int8.") or ".int8" in name or name.endswith(".scaled")
        for name in (*node.input, *node.output)
    )
    if marked and node.op_type in ROUNDING:
        return "rounding"
    weighted = node.op_type not in PLAIN and matrices.intersection(node.input)
    return "products" if weighted else "rest"


class Timed:
    """A core, its runs and their seconds."""

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
        """Scores (n,), as the core gives them."""
        start = self._clock()
        scores = self._core(input_ids, attention_mask, facts)
        self.seconds += self._clock() - start
        self.runs += 1
        return scores


class Calls:
    """Calls of an engine with a profile, and what they take beside its runs.

    Args:
        contestant: whose engine it is.
        core: the engine.
        plan: batches that its runtime makes.
        threads: cores that it uses.
        longest: tokens of the longest text.
    """

    def __init__(
        self, contestant: Contestant, core: Core, plan: BatchPlan, threads: int, longest: int
    ) -> None:
        self.core = Timed(core, threads)
        folder, manifest = Path(contestant.folder), contestant.manifest(longest)
        self._scorer = encoded_scorer(folder, manifest, self.core, plan)
        self._clock = clock_of(threads)
        self.outside: list[float] = []
        """Seconds of each call that were not its runs'."""

    def score(self, texts: Sequence[str]) -> None:
        """One call, always of the same shape."""
        start, before = self._clock(), self.core.seconds
        self._scorer.score(texts)
        self.outside.append(self._clock() - start - (self.core.seconds - before))


class _Core:
    """An engine's session as its runtime opens it, with a profile of every run."""

    survives_fork = False

    def __init__(self, file: Path, threads: int, folder: Path) -> None:
        from pars_export.ort import onnxruntime
        from pars_export.runtimes.onnxruntime_engines import CPU, session_options

        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(folder / OPTIMISED)
        self.session = onnxruntime.InferenceSession(str(file), options, providers=[CPU])

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        assert facts is None
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        (scores,) = self.session.run(["scores"], feed)
        return np.asarray(scores)


class Profiled(Calls):
    """An engine of a folder once more, as its runtime has it, but profiled.

    Args:
        contestant: whose runtime is one of onnxruntime's.
        threads: cores to use.
        longest: tokens of the longest text.
        folder: an empty one, for what onnxruntime writes.
    """

    def __init__(self, contestant: Contestant, threads: int, longest: int, folder: Path) -> None:
        from pars_export.runtimes.onnxruntime_engines import CPU_PLAN

        own, manifest = Path(contestant.folder), contestant.manifest(longest)
        file = own / str(manifest.engines[contestant.what]["file"])
        profiled = _Core(file, threads, folder)
        super().__init__(contestant, profiled, CPU_PLAN, threads, longest)
        self._session, self._graph = profiled.session, folder / OPTIMISED

    def most(self, texts: Sequence[str], samples: int) -> int:
        """Calls that each sample may have, beside its first, for a profile that is half full.

        Makes a call to see what it adds to the profile.
        """
        import onnx

        before = self.core.runs
        self.score(texts)
        # Each run has two events more, of its own.
        nodes = len(onnx.load(str(self._graph)).graph.node)
        events = (self.core.runs - before) * (nodes + 2)
        return max(1, (MOST_EVENTS // 2 // events - 1) // samples - 1)

    def parts(self, seconds: float) -> Parts:
        """Where a call spends ``seconds``, which it takes without a profile; ends the profile."""
        import onnx

        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        if len(events) >= MOST_EVENTS:
            raise ParsError(
                f"onnxruntime's profile is full: it holds {MOST_EVENTS:,} events, and what came "
                "later is lost; run with fewer --rounds."
            )
        graph = onnx.load(str(self._graph)).graph
        matrices = {each.name for each in graph.initializer if len(each.dims) == 2}
        found = [event for event in events if event["name"].endswith("_kernel_time")]
        operators = [event["args"]["op_name"] for event in found]
        if operators != [node.op_type for node in graph.node] * self.core.runs:
            raise ParsError("onnxruntime's profile is of other nodes than the graph that it wrote.")
        # The first call only warms up. A call may be several runs.
        calls = len(self.outside)
        taken = np.array([event["dur"] for event in found]).reshape(calls, -1)[1:] / 1e6
        # A profile's clock runs on while others have the CPU: the lower calls are less disturbed.
        nodes = np.percentile(taken, 25, axis=0)
        kinds = [part_of(node, matrices) for node in graph.node] * (self.core.runs // calls)
        # What it notes of a node takes as long for a small one as for a large one.
        return shared_out(kinds, nodes, self.outside, seconds, surplus=float(nodes.min()))


def shared_out(
    kinds: Sequence[str],
    nodes: NDArray[np.float64],
    outside: Sequence[float],
    seconds: float,
    surplus: float = 0.0,
) -> Parts:
    """Where a call spends its time, by a profile of its nodes.

    Args:
        kinds: which of `PARTS` each node belongs to, (n,).
        nodes: seconds of each in a call, (n,).
        outside: seconds beside all nodes, of each call with a profile; the first only warmed up.
        seconds: of a call without a profile.
        surplus: seconds that the profile itself took at each node.
    """
    beside = min(float(np.median(outside[1:])), 0.99 * seconds)
    own = nodes - surplus
    slower = float(own.sum()) / (seconds - beside)
    shares = dict.fromkeys(PARTS, 0.0)
    for kind, node in zip(kinds, own / (slower * seconds), strict=True):
        shares[kind] += float(node)
    shares["outside"] = beside / seconds
    return {"shares": shares, "nodes": len(nodes), "surplus": surplus, "slower": slower}
