"""OpenVINO on the CPU: products in bfloat16, by the matrix units of CPUs that have them (AMX)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.batches import BatchPlan
from pars_export.errors import PredictorError
from pars_export.onnx_file import check_self_contained
from pars_export.runtimes.encoded import EncodedScorer, encoded_scorer

ENGINE = "openvino"
STEP = 16
"""Batches are as wide as a multiple of it. A text's numbers are then added up in one order in any
batch; within other widths they fall into the vector registers otherwise, and bfloat16 makes a step
of what that changes."""
PLAN = BatchPlan(tokens=1024, step=STEP)
BFLOAT16, FLOAT32 = "bfloat16", "float32"
_HINTS = {BFLOAT16: "bf16", FLOAT32: "f32"}
_INPUTS = {"input_ids": ("i64", 2), "attention_mask": ("i64", 2)}
_FACTS = {"facts": ("f32", 2)}
_OUTPUTS = {"scores": ("f32", 1)}
_TELEMETRY = "openvino_telemetry"


def openvino() -> Any:
    """The package, without the telemetry that would tell its makers of every import."""
    with _kept_out(_TELEMETRY):
        return importlib.import_module("openvino")


@contextmanager
def _kept_out(package: str) -> Iterator[None]:
    """Have a package taken for one that is not installed, unless somebody has it already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # as Python's import system has it
    try:
        yield
    finally:
        del sys.modules[package]


def precision_here() -> str:
    """What this CPU computes in: `bfloat16` where it multiplies such numbers, else `float32`."""
    capabilities = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return BFLOAT16 if "BF16" in capabilities else FLOAT32


def precision_of(described: Mapping[str, object]) -> str:
    """What an engine computes in here, by what a manifest says of it.

    That is what it was compared in; float32 where this CPU has no products of bfloat16, for in
    software a score would take a hundred times as long.

    Raises:
        PredictorError: the manifest names no such precision.
    """
    computes = described.get("computes")
    if computes not in _HINTS:
        raise PredictorError(
            f"its engine {ENGINE!r} computes in {computes!r}; expected {' or '.join(_HINTS)}."
        )
    return precision_here() if computes == BFLOAT16 else FLOAT32


class OpenVinoCore:
    """One compiled model."""

    survives_fork = True  # a child that loads its own has nothing of the parent's threads

    def __init__(
        self,
        path: Path,
        threads: int,
        precision: str,
        longest: int,
        facts: int = 0,
        more: Mapping[str, object] | None = None,
    ) -> None:
        """Compile a model.

        Args:
            path: the ONNX file.
            threads: cores to use.
            precision: `bfloat16` or `float32`.
            longest: most tokens of a text.
            facts: numbers that it reads beside the text.
            more: properties of OpenVINO beside ours.

        Raises:
            PredictorError: naming the file.
        """
        check_self_contained(path)
        self._path, self._longest = path, longest
        properties = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_HYPER_THREADING": True,  # else two threads of one core count as one
            "ENABLE_CPU_PINNING": False,  # where it runs is for the caller to say
            **(more or {}),
        }
        try:
            model = openvino().Core().read_model(str(path))
            _check_signature(path, model, facts)
            compiled = openvino().Core().compile_model(model, "CPU", properties)
            self._request = compiled.create_infer_request()
        except RuntimeError as error:
            version = openvino().__version__
            raise PredictorError(
                f"{path}: openvino {version} cannot load it ({_cause(error)})."
            ) from error

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        """Scores (n,) of ids (n, t), and of facts (n, width) where the ranker reads them."""
        feed: dict[str, NDArray[np.generic]] = {
            "input_ids": self._widened(input_ids),
            "attention_mask": self._widened(attention_mask),
        }
        if facts is not None:
            feed["facts"] = facts
        try:
            found = self._request.infer(feed)["scores"]
        except RuntimeError as error:
            raise PredictorError(
                f"{self._path}: openvino failed on a batch of {input_ids.shape} ids "
                f"({_cause(error)})."
            ) from error
        scores = np.array(found, dtype=np.float32)  # its own memory is written again at each call
        if scores.shape != input_ids.shape[:1]:
            raise PredictorError(
                f"{self._path}: the model gave scores of shape {scores.shape} for "
                f"{len(input_ids)} prompts."
            )
        return scores

    def _widened(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (n, t) with zeros after them, to a multiple of `STEP` or to the longest text."""
        texts, width = rows.shape
        wanted = min(-(-width // STEP) * STEP, self._longest)
        if wanted <= width:
            return rows
        wider = np.zeros((texts, wanted), dtype=np.int64)
        wider[:, :width] = rows
        return wider


def _check_signature(path: Path, model: Any, facts: int) -> None:
    for what, ports, wanted in (
        ("inputs", model.inputs, _INPUTS | (_FACTS if facts else {})),
        ("outputs", model.outputs, _OUTPUTS),
    ):
        found = {
            port.get_any_name(): (port.get_element_type().get_type_name(), len(port.partial_shape))
            for port in ports
        }
        if found != wanted:
            raise PredictorError(f"{path}: the model's {what} are {found}; expected {wanted}.")
    if facts:
        width = model.input("facts").partial_shape[1]
        if not width.is_static or width.get_length() != facts:
            raise PredictorError(
                f"{path}: the model's facts are {width} numbers a prompt, and the manifest's make "
                f"{facts}; export the predictor again."
            )


def _cause(error: RuntimeError) -> str:
    """The last line of an error, which says why; those before it say where in OpenVINO."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]


def core_of(
    path: Path, described: Mapping[str, object], manifest: Manifest, threads: int = 1
) -> OpenVinoCore:
    """The engine of a file, by what a manifest says of it and of its predictor."""
    try:
        precision = precision_of(described)
    except PredictorError as error:
        raise PredictorError(f"{path}: {error}") from error
    longest, facts = manifest.input.max_length, manifest.facts.width
    return OpenVinoCore(path, threads, precision, longest, facts)


def load(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The engine that a predictor folder holds."""
    described = manifest.engines[ENGINE]
    core = core_of(folder / str(described["file"]), described, manifest, threads)
    return encoded_scorer(folder, manifest, core, PLAN)
