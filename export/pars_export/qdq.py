"""The ONNX model with Q/DQ pairs around its matrix products: int8 as TensorRT reads it.

Scales are constants, taken from prompts, so a score does not depend on the batch. Channels of large
activations are evened out first, and what follows an activation function stays float: one scale for
all tokens fits it worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from pars_export.gptq import LARGEST, paired_scales, round_weight
from pars_export.int8 import FLOOR, observe, products, smoothing, weights_of


def store_qdq(
    source: Path,
    target: Path,
    ids: Sequence[Sequence[int]],
    facts: NDArray[np.float32] | None = None,
) -> None:
    """Write the Q/DQ form of ``source``, with scales and rounding for the prompts ``ids``."""
    model = onnx.load(str(source))
    seen = observe(model, ids, facts)
    stored = weights_of(model)
    weights = {
        node.output[0]: numpy_helper.to_array(stored[node.input[1]]).astype(np.float64)
        for node in products(model)
    }
    fed: dict[str, list[str]] = {}
    for node in products(model):
        if node.input[0] in seen and seen[node.input[0]].least < -FLOOR:
            fed.setdefault(node.input[0], []).append(node.output[0])
    factors = {
        name: smoothing(seen[name], [weights[output] for output in outputs])
        for name, outputs in fed.items()
    }
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: ArrayLike, kind: type[np.generic] = np.float32) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype=kind), name)
        model.graph.initializer.append(tensor)
        return name

    zero = constant("qdq.zero", 0, np.int8)
    paired: dict[str, str] = {}
    for node in model.graph.node:
        name = node.input[0] if node.input else ""
        if node.output[0] not in weights or name not in factors:
            nodes.append(node)
            continue
        factor, output = factors[name], node.output[0]
        if name not in paired:
            largest = float((seen[name].largest / factor).max())
            scale = constant(f"{name}.scale", largest / LARGEST)
            even = constant(f"{name}.factor", 1 / factor)
            paired[name] = f"{name}.dq"
            nodes += [
                helper.make_node("Mul", [name, even], [f"{name}.even"]),
                helper.make_node("QuantizeLinear", [f"{name}.even", scale, zero], [f"{name}.q"]),
                helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [f"{name}.dq"]),
            ]
        weight = weights[output] * factor[:, None]
        gram = seen[name].gram / np.outer(factor, factor)
        # In pairs, which TensorRT does not need, so that any CPU can compare the graph exactly.
        scales = paired_scales(weight, gram)
        rounded = round_weight(weight, gram, scales, paired=True)
        whole = constant(f"{output}.weight", rounded, np.int8)
        column = constant(f"{output}.scales", scales)
        zeros = constant(f"{output}.zeros", np.zeros(len(scales)), np.int8)
        nodes += [
            helper.make_node(
                "DequantizeLinear", [whole, column, zeros], [f"{output}.weight.dq"], axis=1
            ),
            helper.make_node("MatMul", [paired[name], f"{output}.weight.dq"], [output]),
        ]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    onnx.save(model, str(target))
