"""The engines that `pars export --to` writes: what each is, promises, and how it is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_export.errors import ConfigError, PredictorError
from pars_export.parity import EXACT, Bound
from pars_export.runtimes import is_installed, named, openvino_engine
from pars_export.tensorrt import BuildOptions

if TYPE_CHECKING:
    from pars_export.artifact import Manifest
    from pars_export.batches import BatchPlan
    from pars_export.network import RankerNetwork
    from pars_export.runtimes.encoded import Core

ONNX = "model.onnx"


@dataclass(frozen=True)
class Source:
    """What engines are made from."""

    network: RankerNetwork
    """The ranker in float32, as `model.safetensors` holds it."""
    onnx: Path
    """The same as `model.onnx`."""
    ids: Sequence[Sequence[int]]
    """Token ids of prompts."""
    max_length: int
    """Most token ids of a text."""
    options: BuildOptions = field(default_factory=BuildOptions)
    """Of TensorRT engines."""
    facts: NDArray[np.float32] | None = None
    """What stands beside the prompts of ``ids``, (n, width), where the ranker reads facts."""
    made_by: Mapping[str, int] = field(default_factory=dict)
    """Number of the prompts of ``ids`` by kind, for the manifest."""


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
    """Package that writes it, or that it is compared by."""
    graph: str | None = None
    """The ONNX file that is compared first, for an engine that only a GPU can run; it is removed
    afterwards."""
    again: Callable[[Source, Path], Iterator[Mapping[str, object]]] | None = None
    """Writes the file anew while it is beyond its bound, nearer to float32 and slower each time;
    gives what the manifest says of it beside what `write` gave."""
    load: Callable[[Path, Mapping[str, object], Manifest, int], Core | None] | None = None
    """Loads the engine to be compared, by its file, what the manifest says of it, the manifest and
    a number of threads; gives None where no GPU here can run it. An engine without one is an ONNX
    file for onnxruntime."""
    compared_in: Callable[[Mapping[str, object]], Mapping[str, object]] | None = None
    """What an engine that is loaded so is compared by here, of what the manifest says of it."""
    plan: BatchPlan | None = None
    """Batches of one that is loaded so, where they are not the usual ones."""

    def bound_for(self, options: BuildOptions) -> Bound:
        """What the engine is held to."""
        return self.bound if self.graph is None else BY_PRECISION[options.precision]


def _bf16(source: Source, path: Path) -> Mapping[str, object]:
    from pars_export.bf16 import store_bf16

    store_bf16(source.onnx, path)
    return {"weights": "bf16", "computes": "float32", **_opsets(path)}


def _openvino(source: Source, path: Path) -> Mapping[str, object]:
    from pars_export.bf16 import store_bf16
    from pars_export.onnx import export_summed

    export_summed(source.network, path)
    store_bf16(path, path)
    return {"weights": "bf16", "computes": openvino_engine.precision_here(), **_opsets(path)}


def _int8(source: Source, path: Path) -> Mapping[str, object]:
    from pars_export.int8 import store_int8

    store_int8(source.onnx, path, source.ids, source.facts)
    made_by = dict(source.made_by)
    return {"weights": "int8", "computes": "int8", "made_by": made_by, **_opsets(path)}


def _int8_sparing(source: Source, path: Path) -> Iterator[Mapping[str, object]]:
    from pars_export.spared import store_sparing

    for layers in store_sparing(source.onnx, path, source.ids, source.facts):
        yield {"float_layers": layers}


def _opsets(path: Path) -> Mapping[str, object]:
    """Versions of the operators of an ONNX file: of the standard's, and of others by domain."""
    import onnx

    found = {each.domain: each.version for each in onnx.load(path).opset_import}
    others = {domain: version for domain, version in found.items() if domain}
    return {"opset": found[""], **({"other_opsets": others} if others else {})}


def _tensorrt(library: str) -> Callable[[Source, Path], Mapping[str, object]]:
    def write(source: Source, path: Path) -> Mapping[str, object]:
        from pars_export.tensorrt import build_engine, profiles_for

        graph = path.with_suffix(".graph.onnx")
        _graph(source, graph)
        profiles = profiles_for([len(each) for each in source.ids], source.max_length)
        facts = 0 if source.facts is None else source.facts.shape[1]
        found = build_engine(library, graph, path, profiles, source.options, facts)
        return {**found, "made_by": dict(source.made_by), **_opsets(graph)}

    return write


def _on_its_gpu(
    path: Path, described: Mapping[str, object], manifest: Manifest, threads: int
) -> Core:
    del threads
    from pars_export.runtimes.tensorrt import load_core

    return load_core("tensorrt", path, described, manifest.facts.width)


def _on_a_gpu_that_fits(
    path: Path, described: Mapping[str, object], manifest: Manifest, threads: int
) -> Core | None:
    del threads
    from pars_export.runtimes.tensorrt import device_for, load_core

    device = device_for(described)
    if device is None:
        return None
    return load_core("tensorrt_rtx", path, described, manifest.facts.width, device)


def remember_built(manifest: Manifest, names: Sequence[str]) -> None:
    """Note that these engines of a predictor were built here, where that is asked at load."""
    from pars_export.built_here import remember

    for name in names:
        if ENGINES[name].graph is not None:
            remember(manifest.files[ENGINES[name].file].sha256)


def _graph(source: Source, path: Path) -> None:
    """The ONNX file of a precision, for runtimes that take it from there."""
    if source.options.precision == "fp16":
        from pars_export.onnx import export_half

        export_half(source.network, path)
    elif source.options.precision == "int8":
        from pars_export.qdq import store_qdq

        store_qdq(source.onnx, path, source.ids, source.facts)
    else:
        shutil.copyfile(source.onnx, path)


# What a TensorRT engine and its graph are held to. The order in which a GPU adds up goes by the
# batch's shape, and rounding to few bits makes a step of what that changes: hence the wider bound
# of batches.
BY_PRECISION = {
    "fp32": EXACT,
    "fp16": Bound(0.05, 0.99, 0.01),
    "int8": Bound(0.2, 0.99, 0.01),
}

# Beside `torch` and `onnx`, which every predictor folder of an encoder has.
ENGINES: dict[str, Engine] = {
    "onnx-bf16": Engine("model-bf16.onnx", Bound(0.1, 0.99, 1e-3), _bf16, "onnxruntime"),
    "onnx-int8": Engine(
        "model-int8.onnx", Bound(0.2, 0.99, 1e-3), _int8, "onnxruntime", again=_int8_sparing
    ),
    openvino_engine.OPENVINO: Engine(
        "model-openvino.onnx",
        Bound(0.1, 0.99, 1e-3),
        _openvino,
        "openvino",
        load=openvino_engine.core_of,
        compared_in=openvino_engine.compared_in,
        plan=openvino_engine.PLAN,
    ),
    "tensorrt": Engine(
        "model.engine",
        EXACT,
        _tensorrt("tensorrt"),
        "tensorrt",
        "model.graph.onnx",
        load=_on_its_gpu,
    ),
    "tensorrt-rtx": Engine(
        "model-rtx.engine",
        EXACT,
        _tensorrt("tensorrt_rtx"),
        "tensorrt_rtx",
        "model-rtx.graph.onnx",
        load=_on_a_gpu_that_fits,
    ),
}
NAMES = ("onnx", *ENGINES)


def parse_names(text: str) -> list[str]:
    """The engines of a list with commas, each once, `onnx` left out for it is always written.

    Raises:
        ConfigError: an engine that is unknown, or none.
        PredictorError: one whose package is not installed.
    """
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ConfigError(f"--to names no engine; choose of {', '.join(NAMES)}.")
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"--to: there is no engine {name!r}; choose of {', '.join(NAMES)}.")
        package = ENGINES[name].package if name in ENGINES else "onnxruntime"
        if not is_installed(package):
            needed = named(package)
            raise PredictorError(f"--to {name}: the package {needed} must be installed for it.")
    return [name for name in names if name in ENGINES]


__all__ = [
    "BY_PRECISION",
    "ENGINES",
    "EXACT",
    "NAMES",
    "ONNX",
    "Engine",
    "Source",
    "parse_names",
    "remember_built",
]
