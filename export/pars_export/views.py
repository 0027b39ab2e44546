"""Views of an exported graph with constant sizes, not with sizes that are looked up in every run.

A tracing exporter writes a view such as (batch, length, heads, channels) as a chain of nodes that
look up batch and length and join them to the rest, in every layer and every run. `Reshape` can say
the same by itself: a 0 keeps the size that its input has at that place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from pars_export.graph import constants, inputs_of

_Nodes: TypeAlias = Mapping[str, onnx.NodeProto]
_Constants: TypeAlias = Mapping[str, NDArray[np.generic]]


def keep_sizes(model: onnx.ModelProto) -> None:
    """Rewrite every view of a model whose leading sizes are looked up, in place.

    They are looked up in a tensor before the view's input and taken for the input's own, as they
    are wherever an encoder parts its heads; the comparison of scores that follows an export refuses
    a model of which that is not true.
    """
    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    known = constants(graph)
    for node in graph.node:
        if node.op_type == "Reshape" and (sizes := _sizes(node, made, known)) is not None:
            name = f"{node.output[0]}.sizes"
            graph.initializer.append(numpy_helper.from_array(np.array(sizes, dtype=np.int64), name))
            node.input[1] = name
    _drop_unused(graph)


def _sizes(view: onnx.NodeProto, made: _Nodes, known: _Constants) -> list[int] | None:
    """Constant sizes of a view; None where they cannot be told."""
    joined = made.get(view.input[1])
    if joined is None or joined.op_type != "Concat":
        return None
    sizes = []
    for place, name in enumerate(joined.input):
        size = 0 if _looked_up(name, made, known) == place else _number(known.get(name))
        if size is None:
            return None
        sizes.append(size)
    return sizes


def _looked_up(name: str, made: _Nodes, known: _Constants) -> int | None:
    """The axis of some tensor whose size a joined one is."""
    for kind in ("Unsqueeze", "Gather", "Shape"):
        node = made.get(name)
        if node is None or node.op_type != kind:
            return None
        if kind == "Gather":
            axis = _number(known.get(node.input[1]))
        name = node.input[0]
    return axis


def _number(value: NDArray[np.generic] | None) -> int | None:
    """A constant of one number."""
    return int(value.item()) if value is not None and value.size == 1 else None


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leave out nodes of which nothing hangs on."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(inputs_of(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
