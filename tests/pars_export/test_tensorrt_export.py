"""What an export leaves of a TensorRT engine, kept or refused; on the real builder where one runs.

TensorRT itself builds on a GPU: here TensorRT-RTX's builder stands in for it, and a recording GPU
for the one that its engine runs on, whose scores are those of the test.
"""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from recording_gpu import Gpu

from pars_export import ConfigError, Predictor, PredictorError, runtimes
from pars_export.artifact import folder_sha256
from pars_export.build import add_engines
from pars_export.built_here import check_built_here
from pars_export.engines import BY_PRECISION, ENGINES
from pars_export.parity import PROMPTS, Bound, builtin_texts
from pars_export.runtimes.onnxruntime_engines import OnnxCore
from pars_export.tensorrt import BuildOptions

if sys.platform != "linux" or platform.machine() != "x86_64":
    pytest.importorskip("tensorrt_rtx")

TEXTS = builtin_texts()
RTX = ENGINES["tensorrt-rtx"].file
FP32 = BuildOptions("fp32", capabilities=("8.9",))
OPTIONS = {"tensorrt": BuildOptions("fp32"), "tensorrt-rtx": FP32}
"""Of either library, for the recording GPU."""


@pytest.fixture
def built_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines that were built here are remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pars" / "engines"


@pytest.fixture
def folder(exported: Path, tmp_path: Path, built_here: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "predictor")


@pytest.fixture
def gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """It scores as the model does; tests may say otherwise."""
    gpu = Gpu(OnnxCore(folder / "model.onnx", 1))
    gpu.put_in_place(monkeypatch)
    return gpu


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_is_compared_itself_where_a_gpu_can_run_it(
    folder: Path, built_here: Path, gpu: Gpu, name: str
) -> None:
    manifest = add_engines(folder, [name], TEXTS, options=OPTIONS[name])
    engine: Any = manifest.engines[name]
    assert engine["graph_parity"]["prompts"] == engine["parity"]["prompts"] == PROMPTS
    assert engine["parity"]["max_abs_diff"] <= engine["parity"]["bound"]
    assert engine.get("gpu") == ("NVIDIA L4" if name == "tensorrt" else None)
    assert gpu.batches > PROMPTS / 64
    check_built_here(folder, manifest.files[ENGINES[name].file].sha256)
    assert len(list(built_here.iterdir())) == 1
    wanted = Predictor.load(folder, "torch").score(TEXTS)
    found = runtimes.load(name, folder, manifest, 1).score(TEXTS)
    assert_allclose(found, wanted, atol=1e-4)


def test_an_engine_that_no_gpu_here_fits_is_compared_by_its_graph(folder: Path, gpu: Gpu) -> None:
    options = BuildOptions("fp32", capabilities=("12.0",))
    engine = add_engines(folder, ["tensorrt-rtx"], TEXTS, options=options).engines["tensorrt-rtx"]
    assert "graph_parity" in engine
    assert "parity" not in engine
    assert gpu.batches == 0


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_that_scores_otherwise_on_its_gpu_leaves_nothing(
    folder: Path, built_here: Path, gpu: Gpu, name: str
) -> None:
    right, before = gpu.score, folder_sha256(folder)

    def wrong(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(right(ids, mask) + np.float32(1), np.float32)

    gpu.score = wrong
    with pytest.raises(PredictorError, match=f"The {name} engine's scores differ .* by up to 1"):
        add_engines(folder, [name], TEXTS, options=OPTIONS[name])
    assert gpu.batches
    assert folder_sha256(folder) == before
    assert not list(built_here.parent.rglob("*"))


@pytest.mark.parametrize(
    ("precision", "bound"),
    [
        ("fp32", Bound(1.0, 1.1, 1.0)),
        # As it is but for the difference: 32 channels that nobody trained do not keep the order.
        ("int8", replace(BY_PRECISION["int8"], difference=10.0)),
    ],
)
def test_a_graph_beyond_its_bound_leaves_nothing(
    folder: Path, built_here: Path, monkeypatch: pytest.MonkeyPatch, precision: str, bound: Bound
) -> None:
    monkeypatch.setitem(BY_PRECISION, precision, bound)
    before = folder_sha256(folder)
    wanted = rf"orders .* otherwise .* at least {bound.tau} is wanted"
    with pytest.raises(PredictorError, match=wanted):
        add_engines(folder, ["tensorrt-rtx"], TEXTS, options=replace(FP32, precision=precision))
    assert folder_sha256(folder) == before
    assert not (folder / RTX).exists()
    assert not list(built_here.parent.rglob("*"))


def test_an_engine_that_cannot_be_noted_leaves_the_folder_as_it_was(
    folder: Path, built_here: Path
) -> None:
    built_here.parent.mkdir(parents=True)
    built_here.write_text("a file where the notes would be")
    before = folder_sha256(folder)
    with pytest.raises(OSError, match=str(built_here)):
        add_engines(folder, ["tensorrt-rtx"], TEXTS, options=FP32)
    assert folder_sha256(folder) == before
    assert not (folder / RTX).exists()


def test_what_a_library_does_not_have_is_refused_before_anything_is_built(
    folder: Path, built_here: Path, gpu: Gpu
) -> None:
    options = BuildOptions("fp32", version_compatible=True)
    with pytest.raises(ConfigError, match="tensorrt_rtx has no --version-compatible"):
        add_engines(folder, ["tensorrt", "tensorrt-rtx"], TEXTS, options=options)
    assert gpu.batches == 0


TIMINGS = BuildOptions(timing_cache=Path("timings"))
TENSORRT = "tensorrt, and --to names"


@pytest.mark.parametrize(
    ("to", "options", "sentence"),
    [
        (["tensorrt"], FP32, "--compute-capability is for the engine tensorrt-rtx, and --to names"),
        (["tensorrt-rtx"], TIMINGS, f"--timing-cache is for the engine {TENSORRT} tensorrt-rtx;"),
        ([], TIMINGS, f"--timing-cache is for the engine {TENSORRT} none but onnx;"),
        (["onnx-bf16"], BuildOptions("fp32"), "--precision .* tensorrt or tensorrt-rtx, and"),
        (
            ["onnx-bf16"],
            BuildOptions(hardware="ampere_plus"),
            f"--hardware .*{TENSORRT} onnx-bf16;",
        ),
        ([], BuildOptions(version_compatible=True), f"--version-compatible .*{TENSORRT}"),
    ],
)
def test_what_no_engine_heeds_is_refused_before_anything_is_built(
    folder: Path, gpu: Gpu, to: list[str], options: BuildOptions, sentence: str
) -> None:
    before = folder_sha256(folder)
    with pytest.raises(ConfigError, match=sentence):
        add_engines(folder, to, TEXTS, options=options)
    assert folder_sha256(folder) == before
    assert gpu.batches == 0


def test_an_option_of_one_of_two_libraries_is_taken(folder: Path, gpu: Gpu) -> None:
    options = replace(FP32, capabilities=("8.9", "12.0"))
    engines: Any = add_engines(folder, ["tensorrt", "tensorrt-rtx"], TEXTS, options=options).engines
    assert engines["tensorrt"]["capabilities"] == [gpu.device.capability()]
    assert engines["tensorrt-rtx"]["capabilities"] == ["8.9", "12.0"]


def test_the_runtime_for_later_versions_is_loaded_for_the_builder_and_missed_by_its_name(
    folder: Path, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "tensorrt_lean_libs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)
    options = replace(OPTIONS["tensorrt"], version_compatible=True)
    with pytest.raises(PredictorError, match=r"cannot build it \(.*libnvinfer_lean\.so"):
        add_engines(folder, ["tensorrt"], TEXTS, options=options)
    assert sys.modules.pop("tensorrt_lean_libs").__file__ == str(package / "__init__.py")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"library": "tensorrt", "version_compatible": True}, "of 'tensorrt' where one of"),
        ({}, "it changed while it was loaded"),
    ],
)
def test_an_engine_is_what_was_checked(
    folder: Path, gpu: Gpu, changed: dict[str, object], message: str
) -> None:
    manifest = add_engines(folder, ["tensorrt-rtx"], TEXTS, options=FP32)
    described = {**manifest.engines["tensorrt-rtx"], **changed}
    if not changed:
        (folder / RTX).write_bytes((folder / RTX).read_bytes() + b"more")
    engines = {**manifest.engines, "tensorrt-rtx": described}
    with pytest.raises(PredictorError, match=message):
        runtimes.load("tensorrt-rtx", folder, replace(manifest, engines=engines), 1)


def test_only_the_engine_that_was_built_here_is_remembered(folder: Path, built_here: Path) -> None:
    add_engines(folder, ["tensorrt-rtx"], TEXTS, options=FP32)
    shutil.rmtree(built_here)  # as on another machine
    add_engines(folder, ["onnx-bf16"], TEXTS)
    assert not built_here.exists()
    with pytest.raises(PredictorError, match="was not built on this machine"):
        Predictor.load(folder, "tensorrt-rtx")
