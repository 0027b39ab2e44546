"""What an int8 engine adds to its products: the nodes that round their inputs and scale results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pars_bench.predictor.rates import session_of
from pars_export.errors import InputError

if TYPE_CHECKING:
    import onnx


def roundings_name(folder: str) -> str:
    """Name of the measurement, beside those of contestants and rates."""
    return f"rounding of {folder} alone"


class Roundings:
    """All such nodes of one engine, out of its own file, in one call of onnxruntime.

    Args:
        file: the engine's ONNX file, as `pars_export.int8.store_int8` writes it.
        threads: cores to use.

    Attributes:
        nodes: the nodes, in the engine's order.
    """

    def __init__(self, file: Path, threads: int) -> None:
        import onnx
        from onnx import TensorProto, helper

        model = onnx.load(str(file))
        constants = {each.name: each for each in model.graph.initializer}
        self._widths: dict[str, int] = {}
        """Numbers a token of each tensor that is given or made; 0 for one that is a vector."""
        self._given: set[str] = set()
        self._made: set[str] = set()
        for product in model.graph.node:
            if product.op_type == "MatMulIntegerToFloat":
                self._take(model, product, [int(size) for size in constants[product.input[1]].dims])
        if not self._made:
            raise InputError(f"{file}: no products in int8; export the engine again.")
        self._whole = {name for name in self._given if not self._widths[name]}
        self._whole |= {name for name in self._made if name.endswith(".whole")}
        self.nodes = _between(model, self._given, self._made)
        used = {name for node in self.nodes for name in node.input}
        given, made = (
            [
                helper.make_tensor_value_info(
                    name, TensorProto.UINT8 if name in self._whole else TensorProto.FLOAT, None
                )
                for name in sorted(names)
            ]
            for names in (self._given, self._made)
        )
        kept = [each for name, each in constants.items() if name in used]
        graph = helper.make_graph(self.nodes, "rounding", given, made, kept)
        opsets = model.opset_import
        alone = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
        self._session = session_of(alone, threads)

    def _take(self, model: onnx.ModelProto, product: onnx.NodeProto, size: list[int]) -> None:
        """Note what rounds the input of a product, and what scales its results."""
        rows, columns = size
        whole, result = product.input[0], product.output[0]
        (quantize,) = (node for node in model.graph.node if whole in node.output)
        source, zeros = whole.removesuffix(".int8.whole"), quantize.input[2]
        self._given |= {source, zeros, result}
        (scale,) = (node for node in model.graph.node if result in node.input)
        shift = next((n for n in model.graph.node if scale.output[0] in n.input), None)
        last = shift if shift is not None and shift.op_type == "Add" else scale
        self._made |= {whole, last.output[0]}
        self._widths |= {source: rows, zeros: 0, result: columns}
        self._widths |= {whole: rows, last.output[0]: columns}

    def of(self, length: int, batch: int) -> Callable[[], None]:
        """A call that rounds as a batch of texts of one length needs it."""
        import onnxruntime

        rng = np.random.default_rng(0)
        binding = self._session.io_binding()
        kept = []
        for name in sorted(self._given):
            width = self._widths[name]
            shape = (batch * length, width) if width else (batch * length,)
            value = (
                np.zeros(shape, dtype=np.uint8)
                if name in self._whole
                else rng.standard_normal(shape, "f4")
            )
            kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(value))
            binding.bind_ortvalue_input(name, kept[-1])
        # What an engine makes goes where something was before: no memory is asked for.
        for name in sorted(self._made):
            kind = np.uint8 if name in self._whole else np.float32
            shape = (batch * length, self._widths[name])
            kept.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind))
            binding.bind_ortvalue_output(name, kept[-1])

        def call(_: object = kept) -> None:
            self._session.run_with_iobinding(binding)

        return call


def _between(model: onnx.ModelProto, given: set[str], made: set[str]) -> list[onnx.NodeProto]:
    """The nodes from some tensors to others, in their order."""
    makers = {name: node for node in model.graph.node for name in node.output}
    wanted, needed = sorted(made), set()
    while wanted:
        name = wanted.pop()
        if name in makers and name not in given and name not in needed:
            needed.add(name)
            wanted += makers[name].input
    return [node for node in model.graph.node if needed.intersection(node.output)]
