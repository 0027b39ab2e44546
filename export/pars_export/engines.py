"""The engines that `pars export --to` writes: what each is, promises, and how it is made."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pars_export.errors import ConfigError, PredictorError
from pars_export.parity import EXACT, Bound

if TYPE_CHECKING:
    from pars_export.network import RankerNetwork

ONNX = "model.onnx"


@dataclass(frozen=True)
class Source:
    """What engines are made from."""

    network: RankerNetwork
    """The ranker in float32, as `model.safetensors` holds it."""
    onnx: Path
    """The same as `model.onnx`."""
    ids: Sequence[Sequence[int]]
    """Token ids of real prompts."""
    max_length: int
    """Most token ids of a text."""


@dataclass(frozen=True)
class Engine:
    """One kind of engine."""

    file: str
    """Its file in the predictor folder."""
    bound: Bound
    """What it is held to."""
    write: Callable[[Source, Path], Mapping[str, object]]
    """Writes the file; returns what the manifest says of it."""
    package: str
    """Package that writes it, and that runs it for the comparison."""


def _bf16(source: Source, path: Path) -> Mapping[str, object]:
    from pars_export.bf16 import store_bf16

    store_bf16(source.onnx, path)
    return {"weights": "bf16", "computes": "float32"}


def _int8(source: Source, path: Path) -> Mapping[str, object]:
    from pars_export.int8 import store_int8

    store_int8(source.onnx, path, source.ids)
    return {"weights": "int8", "computes": "int8"}


# Beside `torch` and `onnx`, which every predictor folder of an encoder has. Rounding to eight bits
# makes a step of what float arithmetic in another order changes, hence the wider bound of batches.
ENGINES: dict[str, Engine] = {
    "onnx-bf16": Engine("model-bf16.onnx", Bound(0.1, 0.99, 1e-3), _bf16, "onnxruntime"),
    "onnx-int8": Engine("model-int8.onnx", Bound(0.2, 0.99, 0.01), _int8, "onnxruntime"),
}
NAMES = ("onnx", *ENGINES)


def parse_names(text: str) -> list[str]:
    """The engines of a list with commas, each once, `onnx` left out for it is always written.

    Raises:
        ConfigError: an engine that is unknown.
        PredictorError: one whose package is not installed.
    """
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"--to: there is no engine {name!r}; choose of {', '.join(NAMES)}.")
        package = ENGINES[name].package if name in ENGINES else "onnxruntime"
        if importlib.util.find_spec(package) is None:
            raise PredictorError(f"--to {name}: the package {package} must be installed for it.")
    return [name for name in names if name in ENGINES]


__all__ = ["ENGINES", "EXACT", "NAMES", "ONNX", "Engine", "Source", "parse_names"]
