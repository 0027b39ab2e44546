"""The ONNX model with its matrix products in int8, and scores that do not depend on the batch.

Activations are rounded as they come, with a scale for each token: dynamic quantisation as
onnxruntime's own tools write it takes one scale over the whole batch, padding included, so that a
prompt's score depends on its neighbours. Three steps keep the order of the scores:

- Channels with large activations are divided by a factor that the weights are multiplied by
  (SmoothQuant, Xiao et al. 2022).
- What an activation function bounds from below is shifted to start at zero, and so uses all of
  0 to 255; the shift is taken off the result as a constant.
- Weights are rounded with regard to real inputs (`pars_export.gptq`), and so that two products fit
  into sixteen bits. An x86 CPU without dot-product instructions (AVX2) adds them there and cuts off
  what is larger: an engine would score otherwise, and wrongly, than where it was compared.

GELU is computed in its tanh form (`pars_export.gelu`), in layers left in float32 too. Standard
operators and two of onnxruntime's own (MatMulIntegerToFloat, FastGelu); unsigned activations times
signed weights is the product that x86 and Arm CPUs are fast at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from pars_export.even_values import even_values
from pars_export.gelu import by_tanh
from pars_export.gptq import LARGEST, column_scales, paired_scales, round_weight
from pars_export.ort import onnxruntime
from pars_export.parity import CALIBRATION, evenly

_SMOOTHING = 0.5  # share of a channel's range that goes to the weights; the paper's
FLOOR = 0.1701
"""Below every value of GELU, whose least is -0.16997 (of its tanh form -0.17004)."""
_SMALLEST_TABLE = 1024  # embeddings of fewer entries stay float


@dataclass
class Seen:
    """What some prompts told of one tensor that weights are multiplied with."""

    gram: NDArray[np.float64]
    largest: NDArray[np.float64]
    """Of each channel's absolute value."""
    least: float = 0.0
    joined: bool = False
    """Whether its rows are the tokens of all texts, as `pars_export.token_rows` makes them."""


def store_int8(
    source: Path,
    target: Path,
    ids: Sequence[Sequence[int]],
    facts: NDArray[np.float32] | None = None,
) -> None:
    """Write the int8 form of ``source``, rounded for the prompts ``ids`` (and their ``facts``)."""
    model = onnx.load(str(source))
    rewrite(model, observe(model, ids, facts))
    onnx.save(model, str(target))


def rewrite(model: onnx.ModelProto, seen: Mapping[str, Seen], spared: Collection[str] = ()) -> None:
    """Put a model's products into int8, in place.

    Args:
        model: in float32.
        seen: what `observe` saw of it.
        spared: names of the results of products that stay in float32.
    """
    by_tanh(model.graph)
    _Rewriter(model, seen, spared).run()


def weights_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The matrices among the model's constants, by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}


def products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The matrix products with weights."""
    weights = weights_of(model)
    return [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]


def observe(
    model: onnx.ModelProto,
    ids: Sequence[Sequence[int]],
    facts: NDArray[np.float32] | None = None,
) -> dict[str, Seen]:
    """Run the prompts one by one and sum up every product's input with a row for each token."""
    names = list(dict.fromkeys(node.input[0] for node in products(model)))
    tapped = copied(model)
    for name in names:
        tapped.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = plain_session(tapped)
    joined = _of_tokens(session, names, None if facts is None else facts.shape[1])
    seen: dict[str, Seen] = {}
    for feed in feeds(ids, facts):
        for name, found in zip(joined, session.run(list(joined), feed), strict=True):
            values = found.reshape(-1, found.shape[-1]).astype(np.float64)
            gram, largest = values.T @ values, np.abs(values).max(axis=0)
            if name in seen:
                gram += seen[name].gram
                largest = np.maximum(largest, seen[name].largest)
            least = min(float(values.min()), seen[name].least if name in seen else 0.0)
            seen[name] = Seen(gram, largest, least, joined[name])
    return seen


def _of_tokens(
    session: onnxruntime.InferenceSession, names: Sequence[str], facts: int | None
) -> dict[str, bool]:
    """Names of the tensors with a row for each token, to whether those of all texts are joined."""
    texts, length = 2, 3
    feed = {name: np.ones((texts, length), np.int64) for name in ("input_ids", "attention_mask")}
    if facts is not None:
        feed["facts"] = np.zeros((texts, facts), np.float32)
    found = zip(names, session.run(names, feed), strict=True)
    return {
        name: value.ndim == 2
        for name, value in found
        if value.size == texts * length * value.shape[-1]
    }


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def plain_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A model on one core of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feeds(
    ids: Sequence[Sequence[int]], facts: NDArray[np.float32] | None = None
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Inputs of a model for prompts, each by itself; evenly taken, `CALIBRATION` at most."""
    for row in evenly(len(ids), CALIBRATION):
        text = np.array([ids[row]], dtype=np.int64)
        feed: dict[str, NDArray[np.generic]] = {
            "input_ids": text,
            "attention_mask": np.ones_like(text),
        }
        if facts is not None:
            feed["facts"] = facts[[row]]
        yield feed


@dataclass(frozen=True)
class _Rounded:
    """Names of one input's tensors after rounding."""

    whole: str
    """uint8, (tokens, k)."""
    scale: str
    """float, (tokens, 1)."""
    zero: str
    """uint8, the whole number of a zero."""
    smooth: NDArray[np.float64] | None
    """Factor (k,) that its channels were divided by; None where it was shifted instead."""


class _Rewriter:
    """Replaces nodes of a model, in their order."""

    def __init__(
        self, model: onnx.ModelProto, seen: Mapping[str, Seen], spared: Collection[str]
    ) -> None:
        self._model = model
        self._spared = spared
        self._seen = seen
        self._weights = weights_of(model)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._rounded: dict[str, _Rounded] = {}
        self._shared: set[str] = set()
        # One input may feed several products (query, key and value), which then share its factor.
        self._fed: dict[str, list[NDArray[np.float64]]] = {}
        for node in products(model):
            # Of one vector a prompt there is nothing to gain.
            if node.input[0] not in seen or node.output[0] in spared:
                continue
            self._fed.setdefault(node.input[0], []).append(self._weight(node.input[1]))
        self._factors = {
            name: smoothing(seen[name], weights)
            for name, weights in self._fed.items()
            if seen[name].least < -FLOOR
        }
        self._even = even_values(model.graph, self._factors)
        self._weights = weights_of(model)

    def run(self) -> None:
        """Rewrite the model in place."""
        graph = self._model.graph
        for node in graph.node:
            spared = node.output[0] in self._spared
            if node.op_type == "MatMul" and node.input[0] in self._fed and not spared:
                self._product(node)
            elif node.op_type == "Gather" and self._is_table(node.input[0]):
                self._lookup(node)
            else:
                self._nodes.append(node)
        tensors = [*graph.initializer, *self._constants.values()]
        used = {name for node in self._nodes for name in node.input}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(tensor for tensor in tensors if tensor.name in used)
        self._model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    def _weight(self, name: str) -> NDArray[np.float64]:
        return numpy_helper.to_array(self._weights[name]).astype(np.float64)

    def _is_table(self, name: str) -> bool:
        tensor = self._weights.get(name)
        return tensor is not None and int(np.prod(tensor.dims)) >= _SMALLEST_TABLE

    def _constant(self, name: str, value: ArrayLike, kind: type[np.generic] = np.float32) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(value, dtype=kind), name)
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _round_input(self, name: str) -> _Rounded:
        """Round a tensor (..., k) to whole numbers with a scale for each token."""
        if name in self._rounded:
            return self._rounded[name]
        seen, at = self._seen[name], f"{name}.int8"
        flat = name
        if not seen.joined:
            width = len(seen.largest)
            rows = self._constant(f"int8.tokens{width}", [-1, width], np.int64)
            flat = self._add("Reshape", [name, rows], at)
        smooth = self._factors.get(name)
        if smooth is None:
            # Rounding cuts off what little may lie below zero then.
            floor = self._constant("int8.floor", FLOOR)
            flat = size = self._add("Add", [flat, floor], f"{at}.moved")
            steps, zero = 255.0, 0
        else:
            steps, zero = float(LARGEST), 128
            if name not in self._even:
                factor = self._constant(f"{at}.factor", 1 / smooth)
                flat = self._add("Mul", [flat, factor], f"{at}.smooth")
            size = self._add("Abs", [flat], f"{at}.size")
        top = self._add("ReduceMax", [size], f"{at}.top", axes=[-1], keepdims=0)
        steps_name = self._constant(f"int8.steps{zero}", steps)
        top = self._add("Max", [top, self._constant("int8.tiny", 1e-12)], f"{at}.largest")
        scales = self._add("Div", [top, steps_name], f"{at}.scales")
        # One pass over the tensor: scaling, rounding, moving to the middle and narrowing.
        whole = self._add(
            "QuantizeLinear", [flat, scales, self._zeros(zero)], f"{at}.whole", axis=0
        )
        column = self._constant("int8.column", [1], np.int64)
        scale = self._add("Unsqueeze", [scales, column], f"{at}.scale")
        self._rounded[name] = _Rounded(whole, scale, self._zero(zero), smooth)
        return self._rounded[name]

    def _product(self, node: onnx.NodeProto) -> None:
        name, output = node.input[0], node.output[0]
        rounded, weight, gram = (
            self._round_input(name),
            self._weight(node.input[1]),
            self._seen[name].gram,
        )
        if rounded.smooth is not None:
            weight = weight * rounded.smooth[:, None]
            gram = gram / np.outer(rounded.smooth, rounded.smooth)
        scales = paired_scales(weight, gram)
        whole = round_weight(weight, gram, scales, paired=True)
        product = helper.make_node(
            "MatMulIntegerToFloat",
            [
                rounded.whole,
                self._constant(f"{output}.weight", whole, np.int8),
                self._constant("int8.one", 1.0),
                self._constant(f"{output}.scales", scales),
                rounded.zero,
            ],
            [f"{output}.product"],
            domain="com.microsoft",
        )
        self._nodes.append(product)
        found = self._add("Mul", [f"{output}.product", rounded.scale], f"{output}.scaled")
        if rounded.smooth is None:
            shift = -FLOOR * (whole.astype(np.float64) * scales).sum(axis=0)
            shift_name = self._constant(f"{output}.shift", shift)
            found = self._add("Add", [found, shift_name], f"{output}.shifted")
        if self._seen[name].joined:
            self._nodes[-1].output[0] = output
        else:
            self._add("Reshape", [found, self._shape(len(scales))], output)

    # What all layers share.

    def _once(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        if output not in self._shared:
            self._shared.add(output)
            self._add(kind, inputs, output, **attributes)
        return output

    def _zero(self, zero: int) -> str:
        return self._constant(f"int8.zero{zero}", zero, np.uint8)

    def _zeros(self, zero: int) -> str:
        """The zero of every token, (tokens,)."""
        sizes = self._once("Shape", ["input_ids"], "int8.sizes")
        count = self._once("ReduceProd", [sizes], "int8.count", keepdims=1)
        return self._once("Expand", [self._zero(zero), count], f"int8.zeros{zero}")

    def _shape(self, width: int) -> str:
        """(batch, length, width)."""
        sizes = self._once("Shape", ["input_ids"], "int8.sizes")
        channels = self._constant(f"int8.width{width}", [width], np.int64)
        return self._once("Concat", [sizes, channels], f"int8.shape{width}", axis=0)

    def _lookup(self, node: onnx.NodeProto) -> None:
        """An embedding, stored in eight bits with a scale a row."""
        table, output = self._weight(node.input[0]), node.output[0]
        scales = column_scales(table.T)
        whole = np.rint(table / scales[:, None])
        names = [
            self._constant(f"{output}.table", whole, np.int8),
            self._constant(f"{output}.scales", scales[:, None]),
        ]
        rows, row_scales = (
            self._add("Gather", [each, node.input[1]], f"{each}.rows", axis=0) for each in names
        )
        wide = self._add("Cast", [rows], f"{output}.wide", to=TensorProto.FLOAT)
        self._add("Mul", [wide, row_scales], output)


def smoothing(seen: Seen, weights: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Factor (k,) of each channel: ranges of activations and weights become alike."""
    largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    factor = np.maximum(seen.largest, 1e-3) ** _SMOOTHING
    factor /= np.maximum(largest, 1e-3) ** (1 - _SMOOTHING)
    middle = np.exp(np.log(factor).mean())
    found: NDArray[np.float64] = factor / middle
    return found
