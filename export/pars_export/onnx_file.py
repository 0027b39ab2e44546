"""Checks on an ONNX file without the onnx package: that all it computes with is inside it.

A runtime opens whatever file a tensor's external data or an `EPContext` node names, and a few bytes
of loops or of functions that call functions keep it busy for ever, so this is looked at before any
runtime sees the model. The file is walked as protocol buffers (onnx.proto3);
field numbers are fixed for ever by that format. What readers of protocol buffers take differently
is refused, for another reader might find there what this one does not.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from pars_export.errors import PredictorError

# Message type -> field number -> message type of the field, for every way down to a tensor that a
# graph of ours has.
_DOWN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph"},
    "Graph": {1: "Node", 5: "Tensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph"},
    "Tensor": {},
}
# The other ways.
_FOREIGN: dict[tuple[str, int], str] = {
    ("Model", 20): "a graph for training",
    ("Model", 25): "functions of its own",
    ("Graph", 15): "sparse weights",
    ("Attribute", 22): "sparse weights",
    ("Attribute", 23): "sparse weights",
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of Tensor
_OP_TYPE = 4  # field of Node
_LOOPS = (b"Loop", b"Scan", b"SequenceMap")
_GRAPH, _OPSETS = 7, 8  # fields of Model
_COMPILED = b"EPContext"
"""Operator of a compiled engine, machine code, which onnxruntime's TensorRT reads from a file."""
_MAX_DEPTH = 64
_LARGEST_KEY = 2**32 - 1
"""Of a field. Readers in C++ drop the bits above, and take the rest for the key of another."""

_OUTSIDE = (
    "its weights lie in another file (external data), which is refused; export it as one file"
)
_ENGINE = (
    "it holds a compiled engine (a node EPContext), which is refused; export the predictor again"
)


def check_self_contained(path: Path) -> None:
    """Refuse a file that is no ONNX model, one that makes a runtime open other files, or loops.

    Raises:
        PredictorError: naming the file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            fields = {number for number, _, _ in _fields(data, 0, len(data))}
            fault = _fault(data, 0, len(data), "Model", 0) if _GRAPH in fields else None
    except (OSError, ValueError) as error:
        raise PredictorError(f"{path}: not an ONNX model that can be read ({error}).") from error
    if not {_GRAPH, _OPSETS} <= fields:
        raise PredictorError(f"{path}: not an ONNX model; export the predictor again.")
    if fault is not None:
        raise PredictorError(f"{path}: {fault}.")


def _fault(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> str | None:
    """Why the message of that kind is refused; None for a sound one."""
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    for number, low, high in _fields(data, start, end):
        if kind == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and low)):
            return _OUTSIDE
        if kind == "Node" and number == _OP_TYPE and data[low:high] == _COMPILED:
            return _ENGINE
        if kind == "Node" and number == _OP_TYPE and data[low:high] in _LOOPS:
            return (
                f"it holds a loop (a node {data[low:high].decode()}), which no export of ours does"
            )
        if (kind, number) in _FOREIGN:
            return f"it holds {_FOREIGN[kind, number]}, which no export of ours does"
        below = _DOWN[kind].get(number)
        if below is not None and high >= 0:
            found = _fault(data, low, high, below, depth + 1)
            if found is not None:
                return found
    return None


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number of each field with its start and end, or with its value and -1 for a number."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if not number or key > _LARGEST_KEY:
            raise ValueError(f"a field's number is {number} before byte {at}, which none can have")
        if wire == 0:
            value, at = _varint(data, at, end)
            yield number, value, -1
            continue
        if wire == 2:
            size, at = _varint(data, at, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of wire type {wire} at byte {at}")
        if at + size > end:
            raise ValueError(f"it ends within a field, at byte {end}")
        if wire == 2:
            yield number, at, at + size
        at += size


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise ValueError(f"a broken number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
