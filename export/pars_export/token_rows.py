"""An exported graph in which the tokens of all texts are the rows of one matrix.

Linear layers, normalisation and activation functions take each token by itself. Of texts in a
tensor (batch, length, width) a runtime computes them as well, but not as fast: onnxruntime adds a
bias within the product only where that is one of matrices (ONNX's `Gemm`). Attention alone needs
the texts apart, and its views say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pars_export.graph import branches_of, constants

_BY_ELEMENT = {
    *("Add", "Cast", "Clip", "Div", "Erf", "Gelu", "Max", "Min", "Mul", "Pow", "Relu", "Sigmoid"),
    *("Sqrt", "Sub", "Tanh"),
}
_SIZES = "rows.sizes"
"""Batch and length, looked up once a run."""


class _OtherGraphError(Exception):
    """The graph is not one of those that this is for."""


def join_texts(model: onnx.ModelProto, pooled: int = 1) -> None:
    """Rewrite a model in place, from its first normalisation to what pools its tokens.

    Args:
        model: the exported graph.
        pooled: how many of its layers are pooled.

    A graph whose layers are of another form stays as it is: one that does not normalise its
    embeddings, that branches, or whose views of attention were not given constant sizes before
    (`pars_export.views`).
    """
    graph = model.graph
    try:
        nodes, made = _Joined(graph).rewritten(pooled)
    except _OtherGraphError:
        return
    used = {name for node in nodes for name in node.input}
    kept = [each for each in (*graph.initializer, *made) if each.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


class _Joined:
    """One graph, node after node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._known = constants(graph)
        self._widths: dict[str, int] = {}
        """Of tensors whose rows are tokens."""
        self._apart: dict[str, str] = {}
        """Those that are needed with their texts apart, by what they are called then."""
        self._parted = 0
        """How many of those were rows before."""
        self._attended = 0
        """Width of what attention gives, all heads together."""
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[str, onnx.TensorProto] = {}

    def rewritten(self, pooled: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Its nodes, and the constants that they need beside those it has."""
        self._nodes.append(helper.make_node("Shape", ["input_ids"], [_SIZES]))
        for node in self._graph.node:
            own = onnx.NodeProto()
            own.CopyFrom(node)
            self._take(own)
        # None but what is pooled goes on with its texts apart.
        if not self._attended or self._parted != pooled:
            raise _OtherGraphError
        return self._nodes, list(self._made.values())

    def _take(self, node: onnx.NodeProto) -> None:
        if branches_of(node):
            raise _OtherGraphError
        if not self._widths:
            self._nodes.append(node)
            if _normalises(node):
                self._begin(node)
        elif self._is_of_rows(node):
            self._nodes.append(node)
            self._widths[node.output[0]] = self._width_after(node)
        elif node.op_type == "Reshape" and node.input[0] in self._widths:
            self._part_heads(node)
        elif node.op_type == "Reshape" and self._sizes(node) == [0, 0, -1]:
            self._join_heads(node)
        else:
            self._leave(node)

    def _begin(self, node: onnx.NodeProto) -> None:
        """From a normalisation on, its result is one matrix."""
        output, scale = node.output[0], self._known.get(node.input[1])
        if scale is None or scale.ndim != 1:
            raise _OtherGraphError
        node.output[0] = self._apart[output] = f"{output}.apart"
        self._reshape(node.output[0], self._rows(scale.size), output)
        self._widths[output] = scale.size

    def _is_of_rows(self, node: onnx.NodeProto) -> bool:
        """Whether it takes rows by themselves and gives as many."""
        if node.op_type in _BY_ELEMENT:
            return self._all_rows(node)
        if not node.input or node.input[0] not in self._widths:
            return False
        if node.op_type == "MatMul":
            weight = self._known.get(node.input[1])
            return weight is not None and weight.ndim == 2
        return _normalises(node)

    def _all_rows(self, node: onnx.NodeProto) -> bool:
        """Whether each input is rows, or the same for all of them; and one is rows."""
        others = [name for name in node.input if name not in self._widths]
        known = [self._known.get(name) for name in others]
        return len(others) < len(node.input) and all(
            value is not None and value.ndim <= 1 for value in known
        )

    def _width_after(self, node: onnx.NodeProto) -> int:
        if node.op_type != "MatMul":
            sizes = [self._widths.get(name) or self._known[name].size for name in node.input]
            return max(sizes)
        rows, columns = self._known[node.input[1]].shape
        if rows != self._widths[node.input[0]]:
            raise _OtherGraphError
        return int(columns)

    def _part_heads(self, node: onnx.NodeProto) -> None:
        """A view (batch, length, heads, channels) of rows."""
        sizes = self._sizes(node)
        if sizes is None or len(sizes) != 4 or sizes[:2] != [0, 0]:
            raise _OtherGraphError
        self._attended = self._widths[node.input[0]]
        self._reshape(node.input[0], self._texts(*sizes[2:]), node.output[0])

    def _join_heads(self, node: onnx.NodeProto) -> None:
        """A view (batch, length, width) of what attention gives."""
        if not self._attended:
            raise _OtherGraphError
        self._reshape(node.input[0], self._rows(self._attended), node.output[0])
        self._widths[node.output[0]] = self._attended

    def _leave(self, node: onnx.NodeProto) -> None:
        """A node that needs the texts apart, or has nothing to do with rows."""
        for place, name in enumerate(node.input):
            if name not in self._widths:
                continue
            if name not in self._apart:
                self._parted += 1
                self._apart[name] = f"{name}.apart"
                self._reshape(name, self._texts(self._widths[name]), self._apart[name])
            node.input[place] = self._apart[name]
        self._nodes.append(node)

    def _texts(self, *sizes: int) -> str:
        """Name of the shape (batch, length, *sizes)."""
        given = "rows.last" + "x".join(map(str, sizes))
        shape = f"{given}.texts"
        if given not in self._made:
            self._constant(given, sizes)
            self._nodes.append(helper.make_node("Concat", [_SIZES, given], [shape], axis=0))
        return shape

    def _rows(self, width: int) -> str:
        """Name of the shape (batch * length, width)."""
        return self._constant(f"rows.of{width}", (-1, width))

    def _reshape(self, name: str, sizes: str, output: str) -> None:
        self._nodes.append(helper.make_node("Reshape", [name, sizes], [output]))

    def _constant(self, name: str, value: Sequence[int]) -> str:
        self._made[name] = numpy_helper.from_array(np.array(value, dtype=np.int64), name)
        return name

    def _sizes(self, node: onnx.NodeProto) -> list[int] | None:
        """Of a view; None where they are looked up."""
        sizes = self._known.get(node.input[1])
        return None if sizes is None else [int(size) for size in sizes]


def _normalises(node: onnx.NodeProto) -> bool:
    """Whether it normalises the last axis."""
    if node.op_type != "LayerNormalization":
        return False
    axis = next((each.i for each in node.attribute if each.name == "axis"), -1)
    return axis == -1
