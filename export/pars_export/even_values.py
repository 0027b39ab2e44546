"""Channels of what attention gives, evened out where its values are made: at no cost in a run.

What attention gives is a mean of values, channel by channel, so a factor that a channel is divided
by can be taken off the weights that make the values (as SmoothQuant does with a normalisation's,
Xiao et al. 2022).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from pars_export.graph import inputs_of


def even_values(graph: onnx.GraphProto, factors: Mapping[str, NDArray[np.float64]]) -> set[str]:
    """Divide channels of tensors by factors, in place, where a tensor is what attention gives.

    Args:
        graph: in float32.
        factors: of each channel of a tensor, by the tensor's name.

    Returns:
        Names of those for which that was done.
    """
    path = _Path(graph)
    done = set()
    for name, factor in factors.items():
        found = path.to_values(name, len(factor))
        if found is None:
            continue
        for node, place in found:
            tensor = path.constants[node.input[place]]
            even = (numpy_helper.to_array(tensor) / factor).astype(np.float32)
            node.input[place] = f"{node.output[0]}.even"
            graph.initializer.append(numpy_helper.from_array(even, node.input[place]))
        done.add(name)
    return done


_BACK = (("Reshape", 0), ("Transpose", 0), ("MatMul", 1), ("Transpose", 0), ("Reshape", 0))
"""Operators from what attention gives to its values, and the input of each that leads there."""


class _Path:
    """From what attention gives back to what makes its values."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._made = {name: node for node in graph.node for name in node.output}
        self._reads = Counter(name for node in graph.node for name in inputs_of(node))
        self._reads.update(each.name for each in graph.output)

    def to_values(self, name: str, width: int) -> list[tuple[onnx.NodeProto, int]] | None:
        """The product and the sum that make values, and which input of each is the constant.

        None where ``name`` is not what attention gives, where values have no bias, or where one of
        these tensors is read elsewhere, too.
        """
        for operator, place in _BACK:
            if (node := self._only(name, operator)) is None:
                return None
            name = node.input[place]
        found = []
        for operator in ("Add", "MatMul"):
            if (node := self._only(name, operator)) is None:
                return None
            known = [place for place, each in enumerate(node.input) if each in self.constants]
            if len(known) != 1 or list(self.constants[node.input[known[0]]].dims[-1:]) != [width]:
                return None
            if operator == "MatMul" and known != [1]:
                return None
            found.append((node, known[0]))
            name = node.input[1 - known[0]]
        return found

    def _only(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None where it is another operator or has many readers."""
        node = self._made.get(name)
        fits = node is not None and node.op_type == operator and self._reads[name] == 1
        return node if fits else None
