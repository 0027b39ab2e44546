"""TensorRT engines on the current GPU, without torch: named tensors on a stream of its own.

What can be checked before anything is run is checked: the library's version, the GPU's compute
capability and model, the engine's tensors and profile shapes, each against the manifest.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.errors import PredictorError
from pars_export.runtimes.cuda import Cuda, Device
from pars_export.runtimes.encoded import EncodedScorer, encoded_scorer
from pars_export.tensorrt import FACTS, INPUTS, OUTPUT, import_library

log = logging.getLogger("pars")

_GRAPHS = 16
"""Shapes that get a CUDA graph and a context of their own; each context holds GPU memory."""
_COMMON = 3
"""Times that a shape must come before it counts as a common one."""


class Context(Protocol):
    """What is used of TensorRT's IExecutionContext."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Choose the profile that shapes are set for."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the profile allows the shape."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor lies on the GPU."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Ask for a run on the stream."""


class Engine(Protocol):
    """What is used of TensorRT's ICudaEngine."""

    num_io_tensors: int
    num_optimization_profiles: int

    def get_tensor_name(self, index: int) -> str:
        """Name of an input or output."""

    def get_tensor_dtype(self, name: str) -> Any:
        """Its type, an enumerator of TensorRT with a `name`."""

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        """Least, best and largest shape."""

    def create_execution_context(self) -> Context:
        """A context; None where the GPU's memory does not suffice."""


class Runtime(Protocol):
    """What is used of TensorRT's Runtime."""

    engine_host_code_allowed: bool
    """Whether an engine's own runtime may be executed, which is code of this process."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        """The engine; None where it cannot be loaded."""


@dataclass(frozen=True)
class _Ready:
    context: Context
    graph: int


class TensorRtCore:
    """One engine with the buffers for its largest shape.

    Args:
        name: of the engine's file, for errors.
        engine: the engine.
        profiles: largest shape (rows, tokens) of each of its profiles, in its order.
        device: the GPU.
        facts: numbers per prompt that it reads beside the ids; 0 for none.

    Raises:
        PredictorError: the engine has other tensors or profiles than these.
    """

    survives_fork = False  # a CUDA context cannot be used in a forked child

    def __init__(
        self,
        name: str,
        engine: Engine,
        profiles: list[tuple[int, int]],
        device: Device,
        facts: int = 0,
    ) -> None:
        self._name = name
        self._engine = engine
        self._profiles = profiles
        self._device = device
        self._facts = facts
        self._check()
        self._stream = device.stream()
        rows = max(each[0] for each in profiles)
        ids = max(each[0] * each[1] for each in profiles) * np.dtype(np.int64).itemsize
        self._sizes = dict.fromkeys(INPUTS, ids) | {OUTPUT: rows * 4}
        if facts:
            self._sizes[FACTS] = rows * facts * 4
        self._host = {each: device.pinned(size) for each, size in self._sizes.items()}
        self._memory = {each: device.memory(size) for each, size in self._sizes.items()}
        self._contexts = [self._context(index) for index in range(len(profiles))]
        self._graphs: dict[tuple[int, int], _Ready] = {}
        self._seen: Counter[tuple[int, int]] = Counter()
        self._captures = True

    def _check(self) -> None:
        names = [
            self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
        ]
        types = {name: self._engine.get_tensor_dtype(name).name for name in names}
        wanted = dict.fromkeys(INPUTS, "INT64") | {OUTPUT: "FLOAT"}
        if self._facts:
            wanted[FACTS] = "FLOAT"
        if types != wanted:
            raise PredictorError(
                f"{self._name}: the engine's tensors are {types}; expected {wanted}."
            )
        found = [
            tuple(self._engine.get_tensor_profile_shape(INPUTS[0], index)[2])
            for index in range(self._engine.num_optimization_profiles)
        ]
        if found != self._profiles:
            raise PredictorError(
                f"{self._name}: the engine's profiles end at {found}, and the manifest says "
                f"{self._profiles}; export the engine again."
            )

    def _context(self, profile: int) -> Context:
        context = self._engine.create_execution_context()
        if context is None:
            raise PredictorError(
                f"{self._name}: TensorRT gives no execution context; is the GPU's memory taken?"
            )
        self._demand(
            context.set_optimization_profile_async(profile, self._stream), "choosing a profile"
        )
        for name, address in self._memory.items():
            self._demand(context.set_tensor_address(name, address), f"placing {name}")
        self._device.wait(self._stream)
        return context

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        """Scores (n,) of ids (n, t), and of facts (n, width) where the ranker reads them.

        Raises:
            PredictorError: a shape beyond every profile, or a call that fails.
        """
        shape = (int(input_ids.shape[0]), int(input_ids.shape[1]))
        profile = self._profile(shape)
        for name, values in zip(INPUTS, (input_ids, attention_mask), strict=True):
            self._part(name, values.size * 8).view(np.int64)[:] = values.ravel()
        if facts is not None:
            self._part(FACTS, facts.size * 4).view(np.float32)[:] = facts.ravel()
        ready = self._graphs.get(shape)
        if ready is not None:
            self._device.launch(ready.graph, self._stream)
        else:
            self._run(self._contexts[profile], shape)
        self._device.wait(self._stream)
        scores: NDArray[np.float32] = self._part(OUTPUT, shape[0] * 4).view(np.float32).copy()
        self._seen[shape] += 1
        if ready is None and self._seen[shape] == _COMMON and len(self._graphs) < _GRAPHS:
            self._try_capture(profile, shape)
        return scores

    def _try_capture(self, profile: int, shape: tuple[int, int]) -> None:
        """Record a common shape, until that fails once: scores do not hang on it, only their speed.

        It takes memory of the GPU beyond what loading took, which an engine beside it may have.
        """
        if not self._captures:
            return
        try:
            self._capture(profile, shape)
        except PredictorError as error:
            self._captures = False
            log.warning(f"{error} No more shapes get a CUDA graph; scoring goes on without.")

    def _profile(self, shape: tuple[int, int]) -> int:
        for index, (rows, tokens) in enumerate(self._profiles):
            if shape[0] <= rows and shape[1] <= tokens:
                return index
        raise PredictorError(
            f"{self._name}: a batch of {shape} ids is beyond its largest profile "
            f"{self._profiles[-1]}; export the engine again with longer prompts."
        )

    def _part(self, name: str, size: int) -> NDArray[np.uint8]:
        return self._host[name][:size]

    def _run(self, context: Context, shape: tuple[int, int]) -> None:
        """Ask the stream for copies in, the engine and the copy out."""
        size = shape[0] * shape[1] * 8
        for name in INPUTS:
            self._demand(context.set_input_shape(name, shape), f"the shape {shape} of {name}")
            self._device.upload(self._memory[name], self._part(name, size), self._stream)
        if self._facts:
            beside = (shape[0], self._facts)
            self._demand(context.set_input_shape(FACTS, beside), f"the shape {beside} of {FACTS}")
            part = self._part(FACTS, beside[0] * beside[1] * 4)
            self._device.upload(self._memory[FACTS], part, self._stream)
        self._demand(context.execute_async_v3(self._stream), f"a batch of {shape} ids")
        self._device.download(self._part(OUTPUT, shape[0] * 4), self._memory[OUTPUT], self._stream)

    def _capture(self, profile: int, shape: tuple[int, int]) -> None:
        """Record the calls for a common shape: from then on it costs one launch.

        A graph holds the shape that its context had, so it gets a context of its own; and TensorRT
        wants one run outside the recording after a shape was set.
        """
        context = self._context(profile)
        self._run(context, shape)
        self._device.wait(self._stream)
        self._device.begin_capture(self._stream)
        try:
            self._run(context, shape)
        finally:
            graph = self._device.end_capture(self._stream)
        self._graphs[shape] = _Ready(context, graph)

    def _demand(self, worked: bool, what: str) -> None:
        if not worked:
            raise PredictorError(f"{self._name}: TensorRT failed at {what}.")


def check_fits(
    where: str, engine: Mapping[str, object], version: str, capability: str, gpu: str
) -> None:
    """Whether an engine can run on this version of its library and on this GPU.

    Args:
        where: the engine's file, for the error.
        engine: what the manifest says of it.
        version: of the library that is installed.
        capability: the GPU's compute capability.
        gpu: name of the GPU's model.

    Raises:
        PredictorError: naming what the engine was built for and what is here.
    """
    built = str(engine.get("version"))
    if built != version and not (_carries_runtime(engine) and _is_later(version, built)):
        raise PredictorError(
            f"{where}: built with {engine.get('library')} {built}, and {version} is installed; "
            "export the engine again, or install the version that it was built with."
        )
    built_for = engine.get("capabilities")
    capabilities = [str(each) for each in built_for] if isinstance(built_for, list) else []
    if capability not in capabilities and not (
        engine.get("hardware") == "ampere_plus"
        and _since_ampere(where, [capability, *capabilities])
    ):
        raise PredictorError(
            f"{where}: built for GPUs of compute capability "
            f"{', '.join(capabilities) or 'unknown'}, and this one has {capability}; export the "
            "engine on this machine."
        )
    built_on = engine.get("gpu")  # engines of earlier exports and of tensorrt_rtx name none
    if engine.get("hardware") == "none" and built_on not in (None, gpu):
        raise PredictorError(
            f"{where}: built for the GPU {built_on} alone, and this one is {gpu}; export the "
            "engine on this machine, or on the other with --hardware same_compute_capability."
        )


def _since_ampere(where: str, capabilities: Sequence[str]) -> bool:
    """Whether all of these GPUs are of Ampere's generation or a later one.

    Raises:
        PredictorError: one is no compute capability.
    """
    for each in capabilities:
        if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", each):
            raise PredictorError(
                f"{where}: by its manifest it was built for the compute capability {each!r}; "
                "expected numbers such as 8.9; export the engine again."
            )
    return all(float(each) >= 8.0 for each in capabilities)


def _carries_runtime(engine: Mapping[str, object]) -> bool:
    # tensorrt_rtx has no such engines, whatever a manifest says.
    return engine.get("library") == "tensorrt" and engine.get("version_compatible") is True


def _is_later(version: str, built: str) -> bool:
    """Whether ``version`` is a later one of the same major version."""
    found, wanted = ([int(n) for n in re.findall(r"[0-9]{1,9}", each)] for each in (version, built))
    return found[:1] == wanted[:1] and found > wanted


def profiles_of(where: str, engine: Mapping[str, object]) -> list[tuple[int, int]]:
    """Largest shape of each profile, as the manifest says.

    Raises:
        PredictorError: it says nothing of that form.
    """
    try:
        found = [tuple(map(int, each["max"])) for each in engine["profiles"]]  # type: ignore[attr-defined]
        profiles = [(rows, tokens) for rows, tokens in found]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PredictorError(
            f"{where}: its manifest tells no profiles; export the engine again."
        ) from error
    if not profiles:
        raise PredictorError(f"{where}: its manifest tells no profiles; export the engine again.")
    return profiles


def load(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The scorer of a TensorRT engine."""
    del threads
    return _load("tensorrt", folder, manifest)


def load_rtx(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The scorer of a TensorRT-RTX engine."""
    del threads
    return _load("tensorrt-rtx", folder, manifest)


def _load(name: str, folder: Path, manifest: Manifest) -> EncodedScorer:
    described = manifest.engines[name]
    path = folder / str(described["file"])
    expected = manifest.files[path.name].sha256
    core = load_core(
        name.replace("-", "_"), path, described, manifest.facts.width, expected=expected
    )
    return encoded_scorer(folder, manifest, core)


def load_core(
    library: str,
    path: Path,
    described: Mapping[str, object],
    facts: int = 0,
    device: Device | None = None,
    expected: str | None = None,
) -> TensorRtCore:
    """The engine of a file that was built on this machine or pinned: its code is executed.

    Args:
        library: `tensorrt` or `tensorrt_rtx`.
        path: the file.
        described: what the manifest says of it.
        facts: numbers per prompt that it reads beside the ids; 0 for none.
        device: the GPU; by default the current one.
        expected: sha256 of the file; none where it was written just now.

    Raises:
        PredictorError: the library or the GPU is missing or is not what the engine is for, or the
            file has changed since it was checked.
    """
    if described.get("library") != library:
        raise PredictorError(
            f"{path}: the manifest calls it an engine of {described.get('library')!r} where one of "
            f"{library!r} was expected; export the engine again."
        )
    profiles = profiles_of(str(path), described)
    trt = import_library(library)
    device = device or Cuda()
    version = str(trt.__version__)
    check_fits(str(path), described, version, device.capability(), device.name())
    runtime: Runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    runtime.engine_host_code_allowed = _carries_runtime(described)
    plan = path.read_bytes()
    if expected is not None and hashlib.sha256(plan).hexdigest() != expected:
        raise PredictorError(f"{path}: it changed while it was loaded; export the engine again.")
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise PredictorError(
            f"{path}: {library} {trt.__version__} cannot load it on this GPU; export it again here."
        )
    return TensorRtCore(str(path), engine, profiles, device, facts)


def device_for(described: Mapping[str, object]) -> Device | None:
    """The current GPU, where there is one and an engine just built here was built for it."""
    try:
        device = Cuda()
        version = str(described["version"])
        check_fits("", described, version, device.capability(), device.name())
    except PredictorError:
        return None
    return device
