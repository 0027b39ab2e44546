"""The ONNX model with its weights in bfloat16: half the file, the same arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_SMALLEST = 1024  # a bias or a norm's weight saves nothing and costs accuracy


def store_bf16(source: Path, target: Path) -> None:
    """Store the weights of ``source`` in bfloat16.

    onnxruntime widens them once, when it loads them, and computes in float32 as before: it has no
    bfloat16 matrix product on a CPU.
    """
    model = onnx.load(str(source))
    kept: list[onnx.TensorProto] = []
    widened: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALLEST:
            kept.append(tensor)
            continue
        name = f"{tensor.name}.bf16"
        raw = to_bf16(numpy_helper.to_array(tensor)).tobytes()
        kept.append(helper.make_tensor(name, TensorProto.BFLOAT16, tensor.dims, raw, raw=True))
        widened.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*widened, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.save(model, str(target))


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of finite values in bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    return ((bits + 0x7FFF + odd) >> 16).astype("<u2")
