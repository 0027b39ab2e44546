"""What computes scores: one small module per runtime, imported only when it is chosen.

Each module has ``load(folder, manifest, threads)``, which gives a `Scorer`; one that runs several
engines has a function of that kind for each.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.cpu import has_matrix_units
from pars_export.errors import ConfigError, PredictorError, RuntimeUnusableError


class Scorer(Protocol):
    """Texts to scores."""

    survives_fork: bool
    """Whether a forked child may load the runtime again."""

    def score(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Scores (n,); NaN only for a text that the predictor does not know."""


class FactScorer(Protocol):
    """Texts and what is known beside them to scores: the `Scorer` of a ranker that reads facts."""

    def score(self, texts: Sequence[str], facts: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Scores (n,) of texts with the numbers (n, width) of `FactSpec.of`."""


class _Load(Protocol):
    def __call__(self, folder: Path, manifest: Manifest, threads: int) -> Scorer: ...


@dataclass(frozen=True)
class Runtime:
    """Where a runtime is and what it needs."""

    module: str
    package: str | None
    """Package that must be installed for it."""
    kind: str
    """Kind of predictor that it runs."""
    engine: str | None = None
    """The predictor's engine that it runs, where that is not the runtime's own name."""
    function: str = "load"
    """The module's function that loads it."""
    auto: bool = True
    """Whether `auto` may take it; a GPU is only used when it is asked for by name."""
    native: bool = False
    """Whether its engine is machine code, which runs only when built here or pinned."""
    matrix_units: bool = False
    """Whether `auto` takes it only where the engine computes in bfloat16 and the CPU has matrix
    units for that."""
    as_compared: bool = False
    """Whether `auto` prefers others where the package is of another minor version than the one that
    the engine was compared by, for it decides what is rounded."""


_TRT = "pars_export.runtimes.tensorrt"
_ORT = "pars_export.runtimes.onnxruntime_engines"

LEAST = {"openvino": (2026, 4)}
"""Versions below which a package counts as not installed."""

# In order of preference: `auto` takes the first that the folder and the environment allow.
RUNTIMES: dict[str, Runtime] = {
    "openvino": Runtime(
        "pars_export.runtimes.openvino_engine",
        "openvino",
        "encoder",
        matrix_units=True,
        as_compared=True,
    ),
    "onnx-int8": Runtime(_ORT, "onnxruntime", "encoder", function="load_int8"),
    "onnx": Runtime(_ORT, "onnxruntime", "encoder"),
    "onnx-bf16": Runtime(_ORT, "onnxruntime", "encoder", function="load_bf16"),
    "torch": Runtime("pars_export.runtimes.torch_eager", "torch", "encoder"),
    "onnx-cuda": Runtime(_ORT, "onnxruntime", "encoder", "onnx", "load_cuda", auto=False),
    "onnx-tensorrt": Runtime(_ORT, "onnxruntime", "encoder", "onnx", "load_tensorrt", auto=False),
    "tensorrt": Runtime(_TRT, "tensorrt", "encoder", auto=False, native=True),
    "tensorrt-rtx": Runtime(
        _TRT, "tensorrt_rtx", "encoder", function="load_rtx", auto=False, native=True
    ),
    "student": Runtime("pars_export.runtimes.student", None, "student"),
    "table": Runtime("pars_export.runtimes.table", None, "table"),
    "length": Runtime("pars_export.runtimes.length", None, "length"),
}


def choose(name: str, folder: Path, manifest: Manifest) -> str:
    """The runtime to use: the first of `choices`."""
    return choices(name, folder, manifest)[0]


def choices(name: str, folder: Path, manifest: Manifest) -> list[str]:
    """The runtimes that may be used: ``name`` itself, or for `auto` all there are, the best first.

    Raises:
        ConfigError: no runtime of that name.
        PredictorError: the folder has no engine for it, or its package is not installed.
    """
    if name != "auto" and name not in RUNTIMES:
        raise ConfigError(
            f"There is no runtime {name!r}; choose one of auto, {', '.join(RUNTIMES)}."
        )
    present = [each for each in RUNTIMES if _present(each, manifest)]
    if name != "auto" and name not in present:
        raise PredictorError(
            f"{folder}: this predictor (kind {manifest.kind}) cannot run on {name!r}; it holds "
            f"{', '.join(present) or 'no engine that is known here'}."
        )
    wanted = [each for each in present if _suits(each, manifest)] if name == "auto" else [name]
    packages = {each: RUNTIMES[each].package for each in wanted}
    found = [each for each, package in packages.items() if package is None or is_installed(package)]
    if found:  # those of another version last
        return sorted(found, key=lambda each: compared_by_another(each, manifest) is not None)
    if not wanted:
        raise PredictorError(
            f"{folder}: it holds no engine that is known here; export the predictor again."
        )
    names = " or ".join(dict.fromkeys(named(str(package)) for package in packages.values()))
    raise PredictorError(f"{folder}: to run it {names} must be installed, which is missing.")


def is_installed(package: str) -> bool:
    """Whether a package is there, and no older than `LEAST`."""
    if importlib.util.find_spec(package) is None:
        return False
    version = version_of(package)
    return version is None or _minor(version) >= LEAST.get(package, ())


def version_of(package: str) -> str | None:
    """Of an installed package; None of one that was built by hand and so has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def compared_by_another(name: str, manifest: Manifest) -> str | None:
    """What stands against an engine that was compared by another minor version than is installed.

    None where nothing does, or where the manifest does not say, as of earlier exports.
    """
    runtime = RUNTIMES[name]
    if not runtime.as_compared or runtime.package is None:
        return None
    by = manifest.engines[runtime.engine or name].get("compared_in")
    then = by.get("version") if isinstance(by, Mapping) else None
    now = version_of(runtime.package)
    if not isinstance(then, str) or not _minor(then) or now is None or _minor(then) == _minor(now):
        return None
    return (
        f"its engine {name!r} was compared by {runtime.package} {then}, and {now} is installed, "
        "which may order prompts otherwise"
    )


def named(package: str) -> str:
    """A package with the version that is wanted of it."""
    least = LEAST.get(package)
    return f"{package} {'.'.join(map(str, least))} or newer" if least else package


def _suits(name: str, manifest: Manifest) -> bool:
    """Whether `auto` may take a runtime that the folder has."""
    runtime = RUNTIMES[name]
    if runtime.matrix_units:
        engine = manifest.engines[runtime.engine or name]
        return engine.get("computes") == "bfloat16" and has_matrix_units()
    return runtime.auto


def _present(name: str, manifest: Manifest) -> bool:
    runtime = RUNTIMES[name]
    if runtime.kind != manifest.kind:
        return False
    return manifest.kind != "encoder" or (runtime.engine or name) in manifest.engines


def load(name: str, folder: Path, manifest: Manifest, threads: int) -> Scorer:
    """Load the runtime of that name.

    Raises:
        RuntimeUnusableError: its package does not work here.
        PredictorError: the folder's engine cannot be loaded.
    """
    runtime = RUNTIMES[name]
    try:
        module = importlib.import_module(runtime.module)
    except (ImportError, OSError) as error:
        if runtime.package is None:
            raise
        raise cannot_import(runtime.package, error) from error
    return cast("_Load", getattr(module, runtime.function))(folder, manifest, threads)


def cannot_import(package: str, error: Exception) -> RuntimeUnusableError:
    """What to say of a package that is there and cannot be imported."""
    why = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return RuntimeUnusableError(
        f"The package {package} cannot be imported ({why}); install it anew, or choose another "
        "runtime."
    )
