"""How fast this machine multiplies matrices and moves memory: what every floor is worked out from.

Measured by several libraries in turn, and the fastest counts: a floor that one library does not
reach is still a floor.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pars_export.cpu import BFLOAT16_FLAGS, cpu_flags, multiplies_bfloat16

SIZE = 1024
"""Rows and columns: large enough for full speed, small enough for some milliseconds."""
_COPIED = 64 << 20
"""Bytes that are copied: more than a cache holds."""

OPERATIONS = 2 * SIZE**3
UNITS: Mapping[str, tuple[str, int]] = {
    "float32, numpy": ("float32", OPERATIONS),
    "float32, onnxruntime": ("float32", OPERATIONS),
    "float32, torch": ("float32", OPERATIONS),
    "bfloat16, torch": ("bfloat16", OPERATIONS),
    "int8, onnxruntime": ("int8", OPERATIONS),
    "int8, torch": ("int8", OPERATIONS),
    "memory, copy": ("memory", 2 * _COPIED),
}
"""Name of a measurement to what it is a rate of, and how much of that one call does. A report lacks
those of libraries that were not installed, and bfloat16 where the CPU does not multiply it."""


VECTORS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", *BFLOAT16_FLAGS)
"""Flags of /proc/cpuinfo that decide how fast products are; `asimddp` is of Arm's."""
DOT_PRODUCTS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp")
"""Those with dot products of bytes."""


def vector_instructions() -> list[str]:
    """The CPU's `VECTORS`; none where the system does not tell."""
    return [each for each in VECTORS if each in cpu_flags()]


def rate_calls(threads: int) -> dict[str, Callable[[], object]]:
    """One call for each of `UNITS` whose library is installed."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))
    product = np.empty_like(left)
    whole = rng.integers(0, 255, (SIZE, SIZE), dtype=np.uint8)
    weight = rng.integers(-64, 64, (SIZE, SIZE), dtype=np.int8)
    source = np.ones(_COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    floats, integers = product_session([right], threads), product_session([weight], threads)
    calls: dict[str, Callable[[], object]] = {
        "float32, numpy": lambda: np.matmul(left, right, out=product),
        "float32, onnxruntime": lambda: floats.run(None, {"a": left}),
        "int8, onnxruntime": lambda: integers.run(None, {"a": whole}),
        "memory, copy": lambda: np.copyto(target, source),
    }
    if importlib.util.find_spec("torch") is not None:
        calls |= _torch_products(left, right, weight, threads)
    return calls


def _torch_products(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    weight: NDArray[np.int8],
    threads: int,
) -> dict[str, Callable[[], object]]:
    import torch

    first, second, whole = (torch.from_numpy(each) for each in (left, right, weight))

    def alone(product: Callable[..., object], *given: object, **out: object) -> Callable[[], None]:
        def call() -> None:
            torch.set_num_threads(threads)  # it is the process's, and others may have changed it
            product(*given, **out)

        return call

    calls: dict[str, Callable[[], object]] = {
        "float32, torch": alone(torch.mm, first, second, out=torch.empty_like(first)),
        # The only product of bytes that torch has outside a quantised model.
        "int8, torch": alone(
            torch._int_mm, whole, whole, out=torch.empty(whole.shape, dtype=torch.int32)
        ),
    }
    if multiplies_bfloat16():
        half = first.bfloat16(), second.bfloat16()
        calls["bfloat16, torch"] = alone(torch.mm, *half, out=torch.empty_like(half[0]))
    return calls


def product_session(weights: Sequence[NDArray[np.generic]], threads: int) -> Any:
    """Products of an input `a` (m, k) with constant ``weights`` (k, n), one after the other.

    onnxruntime packs a weight once, as it does a model's. Float32 weights take float32; an int8
    weight, which has to be the only one, takes uint8 around 128 and gives int32.
    """
    from onnx import TensorProto, helper, numpy_helper

    from pars_export.ort import onnxruntime

    whole = weights[0].dtype == np.int8
    names = [f"b{place}" for place in range(len(weights))]
    constants = [
        numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)
    ]
    middle = []
    if whole:
        constants.append(numpy_helper.from_array(np.array(128, dtype=np.uint8), "middle"))
        middle = ["middle"]
    outputs = [f"y{place}" for place in range(len(weights))]
    graph = helper.make_graph(
        [
            helper.make_node(
                "MatMulInteger" if whole else "MatMul", [given, name, *middle], [output]
            )
            for given, name, output in zip(["a", *outputs[:-1]], names, outputs, strict=True)
        ],
        "products",
        [
            helper.make_tensor_value_info(
                "a", TensorProto.UINT8 if whole else TensorProto.FLOAT, ["m", len(weights[0])]
            )
        ],
        [
            helper.make_tensor_value_info(
                outputs[-1],
                TensorProto.INT32 if whole else TensorProto.FLOAT,
                ["m", weights[-1].shape[1]],
            )
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
