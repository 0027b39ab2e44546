"""Graphs that nvidia-modelopt makes of a ranker's float32 graph, on a CPU.

Each function may spoil ``source``, its input file: ``quantize()`` writes into it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from pars_export.batches import padded
from pars_export.errors import PredictorError

METHODS = ("max", "entropy")
"""How the scale of an activation is taken from what it was on the prompts."""
AUTOCAST_PROMPTS = 8
"""Prompts that AutoCast's own reference run sees: it keeps every activation of its one batch."""

Ids = Sequence[Sequence[int]]
Write = Callable[[Path, Path], None]
"""Writes a graph, from ``source`` to ``target``."""


def installed_version() -> str:
    """The version of nvidia-modelopt.

    Raises:
        PredictorError: it, or something that its ONNX tools need, is not installed.
    """
    try:
        import modelopt.onnx.autocast
        import modelopt.onnx.quantization  # noqa: F401  # that both can be imported

        return version("nvidia-modelopt")
    except ImportError as error:
        raise PredictorError(
            f"The ONNX tools of nvidia-modelopt cannot be imported ({error}); run `make modelopt`, "
            "which installs requirements/modelopt.txt into an environment of its own."
        ) from error


def int8_graphs(ids: Ids, pad_id: int, floating: Collection[str]) -> Iterator[tuple[str, Write]]:
    """(name, writer) of each int8 graph.

    Args:
        ids: token ids of the prompts that scales are taken from.
        pad_id: token id of padding.
        floating: nodes that stay float32 where the products are to be the same as ours.
    """
    placements: dict[str, dict[str, list[str]]] = {
        "default placement": {},
        "MatMul only": {"op_types_to_quantize": ["MatMul"]},
        "the same products as ours": {
            "op_types_to_quantize": ["MatMul"],
            "nodes_to_exclude": exclusions(floating),
        },
    }
    for name, placement in placements.items():
        for method in METHODS:
            yield f"{name}, {method}", partial(_quantize, ids, pad_id, method, placement)


def exclusions(names: Collection[str]) -> list[str]:
    """Patterns of these names and no others; modelopt reads them as of how a name begins."""
    return [f"{re.escape(name)}$" for name in sorted(names)]


def fp16_graphs(ids: Ids, pad_id: int) -> Iterator[tuple[str, Write]]:
    """(name, writer) of each fp16 graph; arguments as of `int8_graphs`."""
    yield "AutoCast", partial(_autocast, ids, pad_id)
    yield "`convert_to_f16`", _convert


def int8_products(path: Path) -> set[str]:
    """Outputs of the matrix products of two dequantised tensors."""
    graph = onnx.load(str(path), load_external_data=False).graph
    whole = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return {n.output[0] for n in graph.node if n.op_type == "MatMul" and whole.issuperset(n.input)}


def float_products(model: Path, rounded: Collection[str]) -> list[str]:
    """Names of the nodes of ``model`` that multiply matrices, but for those with these outputs."""
    graph = onnx.load(str(model), load_external_data=False).graph
    return [n.name for n in graph.node if n.op_type == "MatMul" and n.output[0] not in rounded]


def infinite_constants(path: Path) -> int:
    """How many constants of a graph hold a number that is not finite."""
    graph = onnx.load(str(path), load_external_data=False).graph
    tensors = [
        *graph.initializer,
        *(a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute),
    ]
    values = (numpy_helper.to_array(each) for each in tensors)
    return sum(each.dtype.kind == "f" and not np.isfinite(each).all() for each in values)


class Prompts:
    """Prompts for onnxruntime's calibration, each by itself, as this project's own sees them."""

    def __init__(self, ids: Ids, pad_id: int) -> None:
        self._feeds = [_feed([each], pad_id) for each in ids]
        self.rewind()

    def get_first(self) -> dict[str, NDArray[np.int64]]:
        """The first prompt."""
        return self._feeds[0]

    def get_next(self) -> dict[str, NDArray[np.int64]] | None:
        """The next prompt; None after the last."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Begin again."""
        self._left = iter(self._feeds)


def _feed(ids: Ids, pad_id: int) -> dict[str, NDArray[np.int64]]:
    input_ids, attention_mask = padded(list(ids), pad_id)
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _quantize(
    ids: Ids, pad_id: int, method: str, placement: dict[str, Any], source: Path, target: Path
) -> None:
    from modelopt.onnx.quantization import quantize

    with _told("quantize()"):
        quantize(
            str(source),
            quantize_mode="int8",
            calibration_method=method,
            calibration_data_reader=Prompts(ids, pad_id),
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",  # as in our graph: what is not int8 stays float32
            output_path=str(target),
            **placement,
        )


def _autocast(ids: Ids, pad_id: int, source: Path, target: Path) -> None:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    data = target.with_suffix(".npz")
    np.savez(data, **_feed(ids[:AUTOCAST_PROMPTS], pad_id))  # type: ignore[arg-type]
    with _told("AutoCast"):
        model = convert_to_mixed_precision(
            str(source),
            low_precision_type="fp16",
            keep_io_types=True,
            calibration_data=str(data),
            providers=["cpu"],
        )
    onnx.save(model, str(target))


def _convert(source: Path, target: Path) -> None:
    from modelopt.onnx.autocast import convert_to_f16

    with _told("convert_to_f16()"):
        model = convert_to_f16(onnx.load(str(source)), keep_io_types=True)
    onnx.save(model, str(target))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Keep what modelopt prints, thousands of lines, off the terminal; say which tool failed."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # modelopt's errors share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise PredictorError(f"nvidia-modelopt's {what} fails on this graph ({reason}).") from error
