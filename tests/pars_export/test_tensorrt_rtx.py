"""TensorRT without a GPU: the real parser, builder and settings of TensorRT-RTX, and its names."""

from __future__ import annotations

import dataclasses
import inspect
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from minilm_predictor import UNTRAINED, minilm_network, write_minilm_predictor

from pars_export import ConfigError, Predictor, PredictorError, build, export_prompts
from pars_export.artifact import folder_sha256, read_manifest, write_predictor
from pars_export.build import add_engines
from pars_export.built_here import remember
from pars_export.engines import BY_PRECISION, ENGINES
from pars_export.export_prompts import ExportPrompts, Sample
from pars_export.files import sha256_file
from pars_export.onnx import OPSET, export_half
from pars_export.parity import Bound, builtin_texts, demonstration_texts
from pars_export.runtimes.tensorrt import Context, Engine, Runtime, profiles_of
from pars_export.tensorrt import (
    BuildOptions,
    Profile,
    _apply,
    _logger,
    _timing_cache,
    build_engine,
    profiles_for,
)

# There are packages for Linux on x86-64, where this must fail without it, and for Windows.
if sys.platform != "linux" or platform.machine() != "x86_64":
    pytest.importorskip("tensorrt_rtx")
import tensorrt_rtx as trt

RTX = ENGINES["tensorrt-rtx"].file
LOOSE = Bound(1.0, 0.5, 0.05)
"""Random weights on 32 channels average out less of the rounding than a trained encoder."""
DEPRECATED = pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
"""TensorRT-RTX warns that a timing cache does nothing for it; its own settings still take one."""


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(exported: Path, tmp_path: Path, own_cache: Path) -> Path:
    shutil.copytree(exported, tmp_path / "predictor")
    return tmp_path / "predictor"


@pytest.fixture
def config() -> Any:
    return trt.Builder(_logger(trt)).create_builder_config()


def _profile(rows: int, tokens: int) -> Profile:
    return Profile((rows, tokens), (rows, tokens))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_real_builder_takes_the_graph_of_every_precision(
    folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BY_PRECISION, "int8", LOOSE)
    monkeypatch.setattr(export_prompts, "enough", list)  # LOOSE is for these texts
    options = BuildOptions(precision=precision, capabilities=("8.9",))
    manifest = add_engines(folder, ["tensorrt-rtx"], builtin_texts(), options=options)
    engine = manifest.engines["tensorrt-rtx"]
    assert engine["precision"] == precision
    assert engine["library"] == "tensorrt_rtx"
    assert engine["capabilities"] == ["8.9"]
    assert engine["hardware"] == "none"
    assert engine["opset"] == OPSET
    parity = engine["graph_parity"]
    assert isinstance(parity, Mapping)
    assert parity["batch_diff"] <= parity["batch_bound"]
    assert (folder / RTX).stat().st_size > 10_000
    assert profiles_of("", engine)[-1][1] == 64
    assert "parity" not in engine, "no GPU has run it"
    assert not list(folder.glob("*.graph.onnx"))


def test_a_graph_that_tensorrt_does_not_know_is_refused_in_its_words(
    folder: Path, tmp_path: Path
) -> None:
    from pars_export.int8 import store_int8

    store_int8(folder / "model.onnx", tmp_path / "int8.onnx", [[2, 5, 6, 3]] * 4)
    with pytest.raises(PredictorError, match=r"int8\.onnx: tensorrt_rtx .* refuses it \(.+\)"):
        build_engine("tensorrt_rtx", tmp_path / "int8.onnx", tmp_path / "e", [_profile(4, 16)])
    assert not (tmp_path / "e").exists()


def test_the_real_builder_takes_the_real_encoder(tmp_path: Path) -> None:
    export_half(minilm_network(), tmp_path / "minilm.onnx")
    found = build_engine(
        "tensorrt_rtx",
        tmp_path / "minilm.onnx",
        tmp_path / "engine",
        profiles_for([20] * 9 + [100], 128),
        BuildOptions(capabilities=("8.9",)),
    )
    assert found["profiles"] == [
        {"opt": [64, 32], "max": [64, 32]},
        {"opt": [16, 128], "max": [64, 128]},
    ]
    assert 20e6 < (tmp_path / "engine").stat().st_size < 80e6, "22 million weights in half"


def test_int8_of_the_real_encoder_keeps_the_order_of_a_head_that_nobody_trained(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BY_PRECISION, "int8", UNTRAINED)
    monkeypatch.setattr(build, "builtin_texts", lambda: builtin_texts()[::8])
    made_by, compared_on = demonstration_texts()  # some of them, for time
    prompts = ExportPrompts(
        Sample(made_by[::4], {"shipped": 32}), Sample(compared_on[::5], {"shipped": 100})
    )
    options = BuildOptions("int8", capabilities=("8.9",))
    folder = write_minilm_predictor(
        tmp_path / "predictor", texts=prompts, to=["tensorrt-rtx"], options=options
    )
    engine: Any = read_manifest(folder).engines["tensorrt-rtx"]
    assert (engine["made_by"], engine["compared_on"]) == ({"shipped": 32}, {"shipped": 100})
    parity = engine["graph_parity"]
    assert parity["prompts"] == 100
    assert UNTRAINED.tau == parity["tau_bound"] <= parity["tau"] < 1
    assert 0 < parity["max_abs_diff"] <= parity["bound"]
    assert parity["batch_diff"] <= parity["batch_bound"]
    assert (folder / RTX).stat().st_size > 10e6
    assert not list(folder.glob("*.graph.onnx"))


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"precision is 'fp8'; choose one of fp16, fp32, int8"):
        BuildOptions(precision="fp8")
    with pytest.raises(ConfigError, match="hardware is 'any'"):
        BuildOptions(hardware="any")
    with pytest.raises(PredictorError, match="package nosuch_trt cannot be imported"):
        build_engine("nosuch_trt", Path("a"), Path("b"), [])


def test_a_gpu_that_tensorrt_rtx_does_not_build_for_is_named(folder: Path, tmp_path: Path) -> None:
    options = BuildOptions(capabilities=("9.0",))
    with pytest.raises(ConfigError, match=r"does not build for compute capability 9\.0"):
        build_engine(
            "tensorrt_rtx", folder / "model.onnx", tmp_path / "e", [_profile(4, 16)], options
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (BuildOptions(version_compatible=True), "has no --version-compatible: its engines run on"),
        (BuildOptions(hardware="ampere_plus"), "has no --hardware: its engines run on"),
    ],
)
def test_an_option_that_tensorrt_rtx_passes_over_is_refused(
    options: BuildOptions, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_engine("tensorrt_rtx", tmp_path / "no.onnx", tmp_path / "e", [], options)


def test_a_build_without_a_gpu_leaves_a_timing_cache_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "timings").write_bytes(b"of tensorrt")
    options = BuildOptions("fp32", capabilities=("8.9",), timing_cache=tmp_path / "timings")
    profiles = [_profile(4, 16)]
    build_engine("tensorrt_rtx", folder / "model.onnx", tmp_path / "e", profiles, options)
    assert (tmp_path / "timings").read_bytes() == b"of tensorrt"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("compatible", [False, True])
def test_flags_of_the_real_settings(config: Any, precision: str, compatible: bool) -> None:
    assert config.get_flag(trt.BuilderFlag.TF32), "TensorRT's default"
    _apply(trt, config, BuildOptions(precision, compatible))
    assert config.get_flag(trt.BuilderFlag.TF32) == (precision != "fp32")
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE) == compatible
    assert not config.get_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)


@pytest.mark.parametrize("hardware", ["none", "ampere_plus", "same_compute_capability"])
def test_levels_of_hardware_go_by_their_real_names(hardware: str) -> None:
    config = SimpleNamespace()  # the real settings of tensorrt_rtx pass over a level
    _apply(trt, config, BuildOptions("fp16", hardware=hardware))
    found = getattr(config, "hardware_compatibility_level", trt.HardwareCompatibilityLevel.NONE)
    assert found.name.lower() == hardware


@DEPRECATED
@pytest.mark.parametrize("content", [None, b"", b"no timing cache", b"\0" * 5000])
def test_a_timing_cache_that_is_not_there_or_damaged_is_an_empty_one(
    config: Any, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "timings"
    empty = bytes(config.create_timing_cache(b"").serialize())
    if content is not None:
        path.write_bytes(content)
    cache = _timing_cache(config, path)
    assert config.get_timing_cache() is not None
    assert bytes(cache.serialize()) == empty
    path.write_bytes(empty)
    assert bytes(_timing_cache(config, path).serialize()) == empty


@pytest.mark.parametrize("cache", [None, "of another GPU"])
def test_a_timing_cache_that_is_not_taken_is_refused(tmp_path: Path, cache: str | None) -> None:
    config = SimpleNamespace(
        create_timing_cache=lambda content: cache,
        set_timing_cache=lambda cache, ignore_mismatch: ignore_mismatch,
    )
    with pytest.raises(PredictorError, match=r"timings: TensorRT does not take these timings"):
        _timing_cache(config, tmp_path / "timings")


def _methods(protocol: type) -> dict[str, list[str]]:
    """Names of a protocol's methods, and of the parameters of each."""
    return {
        name: list(inspect.signature(method).parameters)[1:]
        for name, method in vars(protocol).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("ours", "real", "count"),
    [
        (Context, trt.IExecutionContext, 4),
        (Engine, trt.ICudaEngine, 6),
        (Runtime, trt.Runtime, 2),
    ],
)
def test_the_real_classes_have_what_is_asked_of_them(ours: type, real: type, count: int) -> None:
    methods, attributes = _methods(ours), inspect.get_annotations(ours)
    assert len(methods) + len(attributes) == count
    for name in attributes:
        assert isinstance(vars(real)[name], property), name
    for name, parameters in methods.items():
        for parameter in parameters:
            assert re.search(rf"\b{parameter}: ", getattr(real, name).__doc__), (name, parameter)


def test_an_engine_may_bring_its_own_runtime_only_when_it_is_told() -> None:
    runtime = trt.Runtime(_logger(trt))
    assert not runtime.engine_host_code_allowed
    runtime.engine_host_code_allowed = True
    assert runtime.engine_host_code_allowed


def test_types_of_tensors_go_by_their_real_names() -> None:
    assert {"INT64", "FLOAT"} <= set(trt.DataType.__members__)


BUILT = {
    "library": "tensorrt_rtx",
    "version": trt.__version__,
    "capabilities": ["8.9"],
    "hardware": "none",
    "version_compatible": False,
    "profiles": [{"opt": [2, 8], "max": [8, 16]}],
}


def _with_engine(exported: Path, out: Path) -> Path:
    """A predictor folder from elsewhere: it names an engine, and its hashes fit."""
    manifest = read_manifest(exported)
    engines = {**manifest.engines, "tensorrt-rtx": {**BUILT, "file": RTX}}
    files: dict[str, Path | str | bytes] = {name: exported / name for name in manifest.files}
    write_predictor(
        out, dataclasses.replace(manifest, engines=engines), {**files, RTX: b"no engine"}
    )
    return out


@pytest.mark.usefixtures("own_cache")
def test_an_engine_runs_only_when_built_here_or_pinned(exported: Path, tmp_path: Path) -> None:
    folder = _with_engine(exported, tmp_path / "foreign")
    assert Predictor.load(folder).runtime == "onnx", "a GPU is only used by name"
    with pytest.raises(PredictorError, match=rf"{RTX}: this engine was not built on this machine"):
        Predictor.load(folder, runtime="tensorrt-rtx")
    # Past that check, what is missing here is the GPU, or what CUDA's bindings need for it.
    gone_further = "cuda-bindings|of CUDA failed|cannot load it on this GPU|is installed"
    with pytest.raises(PredictorError, match=gone_further):
        Predictor.load(folder, runtime="tensorrt-rtx", sha256=folder_sha256(folder))
    remember(sha256_file(folder / RTX))
    with pytest.raises(PredictorError, match=gone_further):
        Predictor.load(folder, runtime="tensorrt-rtx")
