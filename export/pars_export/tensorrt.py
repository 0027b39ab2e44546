"""A TensorRT engine from an ONNX file, with `tensorrt` or with `tensorrt_rtx`.

Both have one interface. `tensorrt` tries kernels on the GPU that it builds for, so it needs that
GPU; `tensorrt_rtx` builds ahead of time for the compute capabilities it is given, on any machine.
Precision lives in the graph (strongly typed networks are all that both still know), so a half or
int8 engine is a half or int8 ONNX file, built the same way.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pars_export.batches import BatchPlan
from pars_export.errors import ConfigError, PredictorError

INPUTS = ("input_ids", "attention_mask")
FACTS = "facts"
"""Third input of a ranker that reads facts beside the text."""
OUTPUT = "scores"
PRECISIONS = ("fp16", "fp32", "int8")
_STEP = 16  # tokens; a profile ends at a multiple of this
_QUANTILES = (0.5, 0.9)
_RTX_CAPABILITIES = ("8.6", "8.9", "12.0")  # GeForce and workstation GPUs since Ampere


@dataclass(frozen=True)
class Profile:
    """Shapes (rows, tokens) that one optimisation profile is for."""

    opt: tuple[int, int]
    """The shape that kernels are chosen by."""
    max: tuple[int, int]
    """The largest one; the smallest is (1, 1)."""

    def to_json(self) -> dict[str, list[int]]:
        """As it stands in the manifest."""
        return {"opt": list(self.opt), "max": list(self.max)}


@dataclass(frozen=True)
class BuildOptions:
    """What may differ from one engine to another."""

    precision: str = "fp16"
    """`fp16`, `fp32` or `int8`."""
    version_compatible: bool = False
    """tensorrt only: whether later versions of its major version may run it, at some cost in
    speed."""
    hardware: str = "none"
    """tensorrt only. `none`: the GPU that builds it; `ampere_plus` or `same_compute_capability`:
    others too."""
    capabilities: tuple[str, ...] = ()
    """tensorrt_rtx only: compute capabilities to build for, such as "8.9"."""
    timing_cache: Path | None = None
    """tensorrt only: file of kernel timings, read and written, so that the next build is short."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}."
            )
        if self.hardware not in ("none", "ampere_plus", "same_compute_capability"):
            raise ConfigError(
                f"hardware is {self.hardware!r}; choose none, ampere_plus or "
                "same_compute_capability."
            )


def profiles_for(
    lengths: Sequence[int], max_length: int, plan: BatchPlan | None = None
) -> list[Profile]:
    """Profiles of a distribution of text lengths in tokens: short, usual and longest texts.

    Each is at its best for a full micro-batch of its longest texts.
    """
    plan = plan or BatchPlan()
    ends = [int(np.quantile(lengths, each)) for each in _QUANTILES] if len(lengths) else []
    edges = {min(max_length, -(-end // _STEP) * _STEP) for end in ends} | {max_length}
    return [
        Profile(opt=(max(1, min(plan.rows, plan.tokens // edge)), edge), max=(plan.rows, edge))
        for edge in sorted(edges)
    ]


def build_engine(
    library: str,
    graph: Path,
    target: Path,
    profiles: Sequence[Profile],
    options: BuildOptions | None = None,
    facts: int = 0,
) -> Mapping[str, object]:
    """Build ``graph`` with ``library`` (`tensorrt` or `tensorrt_rtx`) into the file ``target``.

    Args:
        library: which of the two.
        graph: the ONNX file.
        target: the engine's file.
        profiles: shapes of token ids that it is for.
        options: what may differ.
        facts: numbers per prompt of the input `FACTS`; 0 where the graph has none.

    Returns:
        What the manifest says of the engine: what it was built with and what it can run.

    Raises:
        ConfigError: an option that the library does not have.
        PredictorError: the library is missing or cannot start, or refuses the graph; in its words.
    """
    options = options or BuildOptions()
    check_known(library, options)
    trt = import_library(library)
    logger = _logger(trt)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:
        raise PredictorError(
            f"{library} {trt.__version__} cannot start here ({logger.first or error}); it builds "
            "on a machine with an NVIDIA GPU."
        ) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reason = parser.get_error(0).desc() if parser.num_errors else logger.first
        raise PredictorError(f"{graph}: {library} {trt.__version__} refuses it ({_line(reason)}).")
    config = builder.create_builder_config()
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for name in INPUTS:
            shapes.set_shape(name, (1, 1), profile.opt, profile.max)
        if facts:
            rows = (1, profile.opt[0], profile.max[0])
            shapes.set_shape(FACTS, *((each, facts) for each in rows))
        config.add_optimization_profile(shapes)
    _apply(trt, config, options)
    if options.version_compatible:
        _load_lean_runtime()
    built_for = _target(trt, library, config, options)
    # In tensorrt_rtx a timing cache changes nothing, and to use one needs a GPU.
    timings = options.timing_cache if library == "tensorrt" else None
    cache: Any = None if timings is None else _timing_cache(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PredictorError(
            f"{graph}: {library} {trt.__version__} cannot build it ({_line(logger.first)})."
        )
    target.write_bytes(bytes(plan))
    if timings is not None:
        timings.write_bytes(bytes(cache.serialize()))
    return {
        "library": library,
        "version": str(trt.__version__),
        "precision": options.precision,
        **built_for,
        "hardware": options.hardware,
        "version_compatible": options.version_compatible,
        "profiles": [profile.to_json() for profile in profiles],
    }


def import_library(library: str) -> Any:
    """`tensorrt` or `tensorrt_rtx`.

    Raises:
        PredictorError: it is not installed, or its own libraries are missing.
    """
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:
        raise PredictorError(
            f"The package {library} cannot be imported ({_line(str(error))}); install it for "
            "this engine."
        ) from error


def check_known(library: str, options: BuildOptions) -> None:
    """Refuse options that the library does not have.

    Raises:
        ConfigError: naming them.
    """
    # tensorrt_rtx takes them and does nothing, or says so in its log only.
    wanted = [
        name
        for name, given in (
            ("--version-compatible", options.version_compatible),
            ("--hardware", options.hardware != "none"),
        )
        if given
    ]
    if library == "tensorrt_rtx" and wanted:
        raise ConfigError(
            f"tensorrt_rtx has no {' and no '.join(wanted)}: its engines run on the release that "
            "built them and on the compute capabilities they were built for; leave it out, or "
            "build with tensorrt."
        )


def check_used(engines: Collection[str], options: BuildOptions) -> None:
    """Refuse options that none of an export's engines heeds.

    Raises:
        ConfigError: naming the first.
    """
    here, anywhere = ("tensorrt",), ("tensorrt-rtx",)
    for name, given, users in (
        ("--precision", options.precision != BuildOptions.precision, here + anywhere),
        ("--version-compatible", options.version_compatible, here),
        ("--hardware", options.hardware != BuildOptions.hardware, here),
        ("--compute-capability", options.capabilities, anywhere),
        ("--timing-cache", options.timing_cache is not None, here),
    ):
        if given and not set(users) & set(engines):
            raise ConfigError(
                f"{name} is for the engine {' or '.join(users)}, and --to names "
                f"{', '.join(engines) or 'none but onnx'}; leave it out, or add the engine to --to."
            )


def _apply(trt: Any, config: Any, options: BuildOptions) -> None:
    if options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # its products keep ten bits only
    if options.version_compatible:
        # The engine then carries the runtime of its version, for later versions to execute.
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    level = getattr(trt.HardwareCompatibilityLevel, options.hardware.upper())
    if options.hardware != "none":
        config.hardware_compatibility_level = level


def _load_lean_runtime() -> None:
    """Load the runtime that an engine for later versions brings, where a package has it.

    The builder asks the dynamic loader for it, which looks into no Python package; without it the
    builder says which library it misses.
    """
    with suppress(ImportError):
        importlib.import_module("tensorrt_lean_libs")


def _target(trt: Any, library: str, config: Any, options: BuildOptions) -> dict[str, object]:
    """Set the compute capabilities to build for; return them, and the GPU where one takes part."""
    if library != "tensorrt_rtx":
        from pars_export.runtimes.cuda import Cuda

        device = Cuda()
        return {"capabilities": [device.capability()], "gpu": device.name()}
    wanted = options.capabilities or _RTX_CAPABILITIES
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        name = f"SM{capability.replace('.', '')}"
        if name not in known:
            raise ConfigError(
                f"tensorrt_rtx {trt.__version__} does not build for compute capability "
                f"{capability}; it knows {', '.join(sorted(known))}."
            )
        config.set_compute_capability(known[name], index)
    return {"capabilities": list(wanted)}


def _timing_cache(config: Any, path: Path) -> Any:
    """The timings of the file ``path``; none where it is not there or TensorRT cannot read it."""
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise PredictorError(
            f"{path}: TensorRT does not take these timings, which may be of another GPU; name "
            "another file for the timing cache."
        )
    return cache


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the library has no types
        """Keeps the first error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.first = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR and not self.first:
                self.first = message

    return Logger()


def _line(text: str) -> str:
    return (text.splitlines() or ["no reason given"])[0][:300]
