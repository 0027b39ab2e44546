"""What an int8 engine adds to its products: the nodes that round their inputs and scale results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pars_bench.predictor.rates import session_of

if TYPE_CHECKING:
    import onnx


def roundings_name(folder: str) -> str:
    """Name of the measurement, beside those of contestants and rates."""
    return f"rounding of {folder} alone"


class _Part(NamedTuple):
    """Nodes between some tensors, and how often an engine has the like."""

    inputs: tuple[str, str]
    """Values, and the zero of every token or the scale of every token."""
    outputs: tuple[str, ...]
    width: int
    """Numbers a token of the values."""
    rounds: bool
    """Whether it rounds an input; else it scales a product's results."""


class Roundings:
    """All such nodes of one engine, out of its own file, by onnxruntime.

    Args:
        file: the engine's ONNX file, as `pars_export.int8.store_int8` writes it.
        threads: cores to use.
    """

    def __init__(self, file: Path, threads: int) -> None:
        import onnx

        model = onnx.load(str(file))
        constants = {each.name: each for each in model.graph.initializer}
        counts: Counter[tuple[object, ...]] = Counter()
        self._parts = []
        for part in _parts(model, constants):
            nodes = _between(model, part)
            like = (*sorted(node.op_type for node in nodes), part.width)
            if not counts[like]:
                session = session_of(_model(model, part, nodes, constants), threads)
                self._parts.append((like, part, session))
            counts[like] += 1
        self._counts = counts

    def of(self, length: int, batch: int) -> Callable[[], None]:
        """A call that rounds as a batch of texts of one length needs it."""
        rng = np.random.default_rng(0)
        runs = []
        for like, part, session in self._parts:
            values, beside = part.inputs
            feed: dict[str, NDArray[np.generic]] = {
                values: rng.standard_normal((batch, length, part.width), "f4"),
                beside: np.full(batch * length, 128, dtype=np.uint8),
            }
            if not part.rounds:
                feed = {
                    values: feed[values].reshape(-1, part.width),
                    beside: np.ones((batch * length, 1), dtype=np.float32),
                }
            runs.append((self._counts[like], session, feed))

        def call() -> None:
            for count, session, feed in runs:
                for _ in range(count):
                    session.run(None, feed)

        return call


def _parts(model: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> list[_Part]:
    """One for each input that is rounded, and one for each product."""
    made = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMulIntegerToFloat":
            continue
        whole, weight = node.input[0], constants[node.input[1]]
        rows, columns = weight.dims
        base = whole.removesuffix(".whole")
        zeros, scale = made[whole].input[2], f"{base}.scale"
        rounding = _Part((base.removesuffix(".int8"), zeros), (whole, scale), int(rows), True)
        if rounding not in found:
            found.append(rounding)
        (scaled,) = (n for n in model.graph.node if node.output[0] in n.input)
        last = next((n for n in model.graph.node if _adds(n, scaled, constants)), scaled)
        found.append(_Part((node.output[0], scale), (last.output[0],), int(columns), False))
    return found


def _adds(node: onnx.NodeProto, scaled: onnx.NodeProto, constants: Container[str]) -> bool:
    return bool(
        node.op_type == "Add" and node.input[0] == scaled.output[0] and node.input[1] in constants
    )


def _between(model: onnx.ModelProto, part: _Part) -> list[onnx.NodeProto]:
    """The nodes from a part's inputs to its outputs, in their order."""
    made = {name: node for node in model.graph.node for name in node.output}
    wanted, needed = list(part.outputs), set()
    while wanted:
        name = wanted.pop()
        if name in made and name not in part.inputs and name not in needed:
            needed.add(name)
            wanted += made[name].input
    return [node for node in model.graph.node if needed.intersection(node.output)]


def _model(
    model: onnx.ModelProto,
    part: _Part,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """A model of these nodes alone."""
    from onnx import TensorProto, helper

    used = {name for node in nodes for name in node.input}
    whole = {part.inputs[1], part.outputs[0]} if part.rounds else ()
    given, made = (
        [
            helper.make_tensor_value_info(
                name, TensorProto.UINT8 if name in whole else TensorProto.FLOAT, None
            )
            for name in names
        ]
        for names in (part.inputs, part.outputs)
    )
    graph = helper.make_graph(
        nodes, "rounding", given, made, [each for name, each in constants.items() if name in used]
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
