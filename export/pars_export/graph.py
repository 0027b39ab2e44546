"""What those who rewrite an exported graph need to know of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """All constants of a graph by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensor = helper.get_node_attr_value(node, "value")
            found[node.output[0]] = numpy_helper.to_array(tensor)
    return found


def name_once(graph: onnx.GraphProto) -> None:
    """Have those read a stored constant itself that read it by another name, in place.

    The exporter gives the weights of layers that share them, and constants that happen to be equal,
    to all readers but the first through `Identity`. The nodes stay, for a branch may read them.
    """
    stored = {tensor.name for tensor in graph.initializer}
    named = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in stored
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = named.get(name, name)


def inputs_of(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, also those that its branches take from the graph around them."""
    yield from node.input
    for branch in branches_of(node):
        for each in branch.node:
            yield from inputs_of(each)
        yield from (output.name for output in branch.output)


def branches_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Graphs within a node, as `If` has."""
    return [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]
