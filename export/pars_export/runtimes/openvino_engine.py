"""OpenVINO on the CPU: products in bfloat16, by the matrix units of CPUs that have them (AMX)."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.batches import BatchPlan
from pars_export.cpu import bfloat16_by, multiplies_bfloat16
from pars_export.errors import PredictorError, RuntimeUnusableError
from pars_export.forks import ProcessLock
from pars_export.onnx_file import check_self_contained
from pars_export.runtimes import cannot_import, version_of
from pars_export.runtimes.encoded import (
    EncodedScorer,
    check_named,
    encoded_scorer,
    positions_of,
)
from pars_export.runtimes.following import FollowingThread

OPENVINO = "openvino"
STEP = 16
"""Batches are as wide as a multiple of it. A text's numbers are then added up in one order in any
batch; within other widths they fall into the vector registers otherwise, and bfloat16 makes a step
of what that changes."""
PLAN = BatchPlan(tokens=1024, step=STEP)
"""From 512 to 4,096 tokens together the demonstration's prompts take the same time."""
BFLOAT16, FLOAT32 = "bfloat16", "float32"
_HINTS = {BFLOAT16: "bf16", FLOAT32: "f32"}
_INPUTS = {"input_ids": ("i64", 2), "attention_mask": ("i64", 2)}
_FACTS = {"facts": ("f32", 2)}
_OUTPUTS = {"scores": ("f32", 1)}
_PACKAGE, _TELEMETRY = "openvino", "openvino_telemetry"
_THREAD = "pars-openvino"
"""Name of the threads that compute. Their helpers are the process's, of every engine."""
_HWLOC = "HWLOC_THISSYSTEM"
_importing = ProcessLock()


def openvino() -> Any:
    """The package, without the telemetry that would tell its makers of its first import.

    Where a program has imported either of the two already, that stays as it is.
    """
    with _importing.lock:
        if _PACKAGE in sys.modules or _TELEMETRY in sys.modules:
            return importlib.import_module(_PACKAGE)
        # So Python takes it for one that is not installed, and OpenVINO does without.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            return importlib.import_module(_PACKAGE)
        finally:
            del sys.modules[_TELEMETRY]


def precision_here() -> str:
    """What an engine computes in that is made on this CPU: `bfloat16` where it multiplies that."""
    return BFLOAT16 if multiplies_bfloat16() else FLOAT32


def precision_of(path: Path, described: Mapping[str, object]) -> str:
    """What an engine computes in here, by its file and what a manifest says of it.

    That is what it was compared in; but float32 where this CPU has no products of bfloat16, which
    it would have to take apart.

    Raises:
        PredictorError: the manifest names no such precision.
    """
    computes = described.get("computes")
    if not isinstance(computes, str) or computes not in _HINTS:
        raise PredictorError(
            f"{path}: by its manifest it computes in {computes!r}; expected "
            f"{' or '.join(_HINTS)}; export the predictor again."
        )
    return precision_here() if computes == BFLOAT16 else FLOAT32


def compared_in(described: Mapping[str, object]) -> Mapping[str, object]:
    """What decides here how an engine rounds: OpenVINO's version, and the instructions it uses.

    Args:
        described: what the manifest says of the engine.
    """
    bfloat16 = described.get("computes") == BFLOAT16 and precision_here() == BFLOAT16
    # oneDNN, which computes, keeps to what this variable names.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower()
    return {
        "package": _PACKAGE,
        "version": version_of(_PACKAGE) or "unknown",
        "instructions": (limit or bfloat16_by()) if bfloat16 else FLOAT32,
    }


class OpenVinoCore:
    """One compiled model.

    Attributes:
        request: OpenVINO's own object that runs it.
        survives_fork: whether a forked child may load it again. The threads of several are the
            process's, and a child lacks them.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        precision: str,
        widest: int,
        facts: int = 0,
        more: Mapping[str, object] | None = None,
    ) -> None:
        """Compile a model.

        Args:
            path: the ONNX file.
            threads: cores to use.
            precision: `bfloat16` or `float32`.
            widest: most tokens that a batch may be wide.
            facts: numbers that it reads beside the text.
            more: properties of OpenVINO beside ours.

        Raises:
            RuntimeUnusableError: OpenVINO cannot be imported, or cannot load the file.
            PredictorError: naming the file.
        """
        library = _package()
        check_self_contained(path)
        self._path, self._widest = path, widest
        self.survives_fork = threads == 1
        properties = {**properties_of(precision, threads), **(more or {})}
        # The process was seen to die of a signal to a main thread that had used matrix units, under
        # Python's faulthandler, which gives that thread a stack for signals. So another computes.
        self._thread = FollowingThread(_THREAD, helped=threads > 1)
        try:
            core = self._thread.run(cpu_core, library)
            model = self._thread.run(_read, path)
            _check_signature(path, model, facts)
            compiled = self._thread.run(core.compile_model, model, "CPU", properties)
            self.request = compiled.create_infer_request()
        except RuntimeError as error:
            raise RuntimeUnusableError(
                f"{path}: openvino {library.__version__} cannot load it ({_cause(error)}); "
                "choose another runtime."
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
            found = self._thread.run(self.request.infer, feed)
            scores = np.asarray(found["scores"], dtype=np.float32)
        except RuntimeError as error:
            raise PredictorError(
                f"{self._path}: openvino failed on a batch of {input_ids.shape} ids "
                f"({_cause(error)})."
            ) from error
        if scores.shape != input_ids.shape[:1]:
            raise PredictorError(
                f"{self._path}: the model gave scores of shape {scores.shape} for "
                f"{len(input_ids)} prompts."
            )
        return scores

    def _widened(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (n, t) with zeros, masked tokens, up to a multiple of `STEP` or to the widest."""
        texts, width = rows.shape
        wanted = min(_up(width), self._widest)
        if wanted <= width:
            return rows
        wider = np.zeros((texts, wanted), dtype=np.int64)
        wider[:, :width] = rows
        return wider


def _package() -> Any:
    try:
        return openvino()
    except (ImportError, OSError) as error:
        raise cannot_import(_PACKAGE, error) from error


def properties_of(precision: str, threads: int) -> dict[str, object]:
    """OpenVINO's properties of a model that is to compute as these engines do.

    Args:
        precision: `bfloat16` or `float32`.
        threads: cores to use.
    """
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_HYPER_THREADING": True,  # else two threads of one core count as one
        "ENABLE_CPU_PINNING": False,  # where it runs is for the caller to say
    }


def cpu_core(library: Any) -> Any:
    """OpenVINO's own object that compiles, whose threads stay where they are.

    Its scheduler (TBB) would bind each thread that computes to the CPUs that the process had when
    it was first asked for anything. It does so through hwloc, which binds nobody when it was told
    then that it looks at another system.
    """
    core = library.Core()
    with _importing.lock:
        before = os.environ.get(_HWLOC)
        os.environ[_HWLOC] = "0"
        try:
            core.get_property("CPU", "FULL_DEVICE_NAME")
        finally:
            del os.environ[_HWLOC]
            if before is not None:
                os.environ[_HWLOC] = before
    return core


def _up(tokens: int) -> int:
    """The next multiple of `STEP`."""
    return -(-tokens // STEP) * STEP


def _read(path: Path) -> Any:
    """The model of a file, read as ONNX and nothing else.

    `Core.read_model` tells formats by content: one file may be ONNX to `check_self_contained` and
    OpenVINO's own format to it, whose weights lie in a second file.

    Raises:
        RuntimeError: OpenVINO cannot read it.
    """
    manager = openvino().frontend.FrontEndManager()
    try:
        front = manager.load_by_framework("onnx")
        return front.convert(front.load(str(path)))
    except Exception as error:  # those of a front end share no other base class
        raise RuntimeError(str(error)) from error


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
    path: Path,
    described: Mapping[str, object],
    manifest: Manifest,
    threads: int,
    more: Mapping[str, object] | None = None,
) -> OpenVinoCore:
    """The engine of a file in a predictor's folder.

    Args:
        path: the file.
        described: what the manifest says of the engine.
        manifest: of the predictor.
        threads: cores to use.
        more: as in `OpenVinoCore`.

    Raises:
        PredictorError: it cannot be read, or does not run here.
    """
    longest, positions = manifest.input.max_length, positions_of(path.parent)
    # Where an encoder has too few positions, the widest batch is one of another width.
    fits = positions is None or _up(longest) <= positions
    widest = _up(longest) if fits else longest
    precision = precision_of(path, described)
    return OpenVinoCore(path, threads, precision, widest, manifest.facts.width, more)


def load(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The engine that a predictor folder holds."""
    check_named(folder, manifest)
    described = manifest.engines[OPENVINO]
    core = core_of(folder / str(described["file"]), described, manifest, threads)
    return encoded_scorer(folder, manifest, core, PLAN)
