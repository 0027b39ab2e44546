"""TensorRT-RTX's real parser and builder, which need no GPU, and the runtime's calls in order.

What runs an engine cannot exist without a GPU: `RecordingDevice` and `RecordingEngine` stand in
for it and do no more than note what is asked of them. `make test-gpu` runs the real ones.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pars_bench.predictor.speed import take_turns
from pars_export import ConfigError, Predictor, PredictorError
from pars_export.artifact import folder_sha256, read_manifest, write_predictor
from pars_export.build import add_engines
from pars_export.engines import BY_PRECISION, ENGINES
from pars_export.parity import Bound, builtin_texts
from pars_export.runtimes.tensorrt import TensorRtCore, check_fits, profiles_of
from pars_export.tensorrt import INPUTS, BuildOptions, Profile, build_engine, profiles_for

RTX = ENGINES["tensorrt-rtx"].file
LOOSE = Bound(1.0, 0.5, 0.05)
"""Random weights on 32 channels average out less of the rounding than a trained encoder."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "predictor")
    return tmp_path / "predictor"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_real_builder_takes_the_graph_of_every_precision(
    folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(BY_PRECISION, "int8", LOOSE)
    options = BuildOptions(precision=precision, capabilities=("8.9",))
    manifest = add_engines(folder, ["tensorrt-rtx"], builtin_texts(), options=options)
    engine = manifest.engines["tensorrt-rtx"]
    assert engine["precision"] == precision
    assert engine["library"] == "tensorrt_rtx"
    assert engine["capabilities"] == ["8.9"]
    assert engine["hardware"] == "none"
    parity = engine["graph_parity"]
    assert isinstance(parity, Mapping)
    assert parity["batch_diff"] <= parity["batch_bound"]
    assert (folder / RTX).stat().st_size > 10_000
    assert profiles_of("", engine)[-1][1] == 64
    assert not list(folder.glob("*.graph.onnx"))


def test_a_graph_that_tensorrt_does_not_know_is_refused_in_its_words(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    from pars_export.int8 import store_int8

    store_int8(folder / "model.onnx", tmp_path / "int8.onnx", [[2, 5, 6, 3]] * 4)
    with pytest.raises(PredictorError, match=r"int8\.onnx: tensorrt_rtx .* refuses it \(.+\)"):
        build_engine("tensorrt_rtx", tmp_path / "int8.onnx", tmp_path / "e", [_profile(4, 16)])
    assert not (tmp_path / "e").exists()


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"precision is 'fp8'; choose one of fp16, fp32, int8"):
        BuildOptions(precision="fp8")
    with pytest.raises(ConfigError, match="hardware is 'any'"):
        BuildOptions(hardware="any")
    with pytest.raises(PredictorError, match="package nosuch_trt cannot be imported"):
        build_engine("nosuch_trt", Path("a"), Path("b"), [])


def test_a_gpu_that_tensorrt_rtx_does_not_build_for_is_named(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = BuildOptions(capabilities=("9.0",))
    with pytest.raises(ConfigError, match=r"does not build for compute capability 9\.0"):
        build_engine(
            "tensorrt_rtx", folder / "model.onnx", tmp_path / "e", [_profile(4, 16)], options
        )


def test_profiles_follow_the_lengths_of_texts() -> None:
    found = profiles_for([10] * 60 + [40] * 30 + [120] * 10, 128)
    assert [each.max for each in found] == [(64, 16), (64, 48), (64, 128)]
    assert [each.opt for each in found] == [(64, 16), (42, 48), (16, 128)]
    assert profiles_for([], 50) == [Profile((40, 50), (64, 50))]


def _profile(rows: int, tokens: int) -> Profile:
    return Profile((rows, tokens), (rows, tokens))


class RecordingDevice:
    """Notes what is asked of it; memory is numpy's, and a run scores the sum of the ids."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.memories: dict[int, NDArray[np.uint8]] = {}
        self.graphs: list[list[Any]] = []
        self.recording: list[Any] | None = None

    def capability(self) -> str:
        return "8.9"

    def stream(self) -> int:
        return 7

    def pinned(self, size: int) -> NDArray[np.uint8]:
        return np.zeros(size, np.uint8)

    def memory(self, size: int) -> int:
        self.memories[len(self.memories) + 1] = np.zeros(size, np.uint8)
        return len(self.memories)

    def do(self, call: Any) -> None:
        if self.recording is None:
            call()
        else:
            self.recording.append(call)

    def upload(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        assert stream == 7
        self.calls.append(("upload", source.nbytes))
        memory = self.memories[target]
        self.do(lambda: memory.__setitem__(slice(source.nbytes), source))

    def download(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        self.calls.append(("download", target.nbytes))
        memory = self.memories[source]
        self.do(lambda: target.__setitem__(slice(None), memory[: target.nbytes]))

    def wait(self, stream: int) -> None:
        self.calls.append(("wait",))

    def begin_capture(self, stream: int) -> None:
        self.recording = []

    def end_capture(self, stream: int) -> int:
        assert self.recording is not None
        self.graphs.append(self.recording)
        self.recording = None
        self.calls.append(("captured",))
        return len(self.graphs) - 1

    def launch(self, graph: int, stream: int) -> None:
        self.calls.append(("launch", graph))
        for call in self.graphs[graph]:
            call()


class RecordingContext:
    def __init__(self, device: RecordingDevice, shapes: list[tuple[int, int]]) -> None:
        self.device, self.limits = device, shapes
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.profile = -1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return stream_handle == 7

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        limit = self.limits[self.profile]
        return shape[0] <= limit[0] and shape[1] <= limit[1]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory in self.device.memories

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.device.calls.append(("execute", self.profile, self.shapes["input_ids"]))
        rows, tokens = self.shapes["input_ids"]

        def run() -> None:
            ids, mask = (
                self.device.memories[self.addresses[name]][: rows * tokens * 8]
                .view(np.int64)
                .reshape(rows, tokens)
                for name in INPUTS
            )
            scores = (ids * mask).sum(axis=1).astype(np.float32)
            memory = self.device.memories[self.addresses["scores"]]
            memory[: rows * 4] = scores.view(np.uint8)

        self.device.do(run)
        return stream_handle == 7


class RecordingEngine:
    def __init__(self, device: RecordingDevice, profiles: list[tuple[int, int]]) -> None:
        self.device, self.profiles = device, profiles
        self.tensors = {"input_ids": "INT64", "attention_mask": "INT64", "scores": "FLOAT"}
        self.num_io_tensors = 3
        self.num_optimization_profiles = len(profiles)
        self.contexts: list[RecordingContext] = []

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(1, 1), self.profiles[profile_index], self.profiles[profile_index]]

    def create_execution_context(self) -> RecordingContext:
        self.contexts.append(RecordingContext(self.device, self.profiles))
        return self.contexts[-1]


PROFILES = [(8, 16), (4, 64)]


@pytest.fixture
def device() -> RecordingDevice:
    return RecordingDevice()


@pytest.fixture
def engine(device: RecordingDevice) -> RecordingEngine:
    return RecordingEngine(device, PROFILES)


def _batch(rows: int, tokens: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 99, (rows, tokens)), rng.integers(0, 2, (rows, tokens))


def test_a_batch_is_copied_run_and_copied_back_on_one_stream(
    device: RecordingDevice, engine: RecordingEngine
) -> None:
    core = TensorRtCore("e", engine, PROFILES, device)
    device.calls.clear()
    ids, mask = _batch(3, 20)
    assert_array_equal(core(ids, mask), (ids * mask).sum(axis=1))
    size = 3 * 20 * 8
    assert device.calls == [
        ("upload", size),
        ("upload", size),
        ("execute", 1, (3, 20)),
        ("download", 12),
        ("wait",),
    ]


def test_a_common_shape_gets_a_graph_and_a_context_of_its_own(
    device: RecordingDevice, engine: RecordingEngine
) -> None:
    core = TensorRtCore("e", engine, PROFILES, device)
    for seed in range(6):
        device.calls.clear()
        ids, mask = _batch(2, 8, seed)
        assert_array_equal(core(ids, mask), (ids * mask).sum(axis=1))
        if seed == 2:
            # The run that is the answer, then one for TensorRT to settle the shape, then recorded.
            kinds = [call[0] for call in device.calls]
            assert kinds.count("execute") == 3
            assert kinds[-1] == "captured"
        if seed > 2:
            assert device.calls == [("launch", 0), ("wait",)]
    other, mask = _batch(5, 9)
    assert_array_equal(core(other, mask), (other * mask).sum(axis=1))
    assert len(engine.contexts) == len(PROFILES) + 1
    assert engine.contexts[-1].shapes["input_ids"] == (2, 8), "a graph's context keeps its shape"


def test_facts_are_a_third_input(device: RecordingDevice, engine: RecordingEngine) -> None:
    with pytest.raises(PredictorError, match="the engine's tensors are"):
        TensorRtCore("e", engine, PROFILES, device, facts=4)
    engine.tensors = {**engine.tensors, "facts": "FLOAT"}
    engine.num_io_tensors = 4
    core = TensorRtCore("e", engine, PROFILES, device, facts=4)
    device.calls.clear()
    ids, mask = _batch(3, 20)
    facts = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert_array_equal(core(ids, mask, facts), (ids * mask).sum(axis=1))
    uploads = [call for call in device.calls if call[0] == "upload"]
    assert uploads == [("upload", 3 * 20 * 8), ("upload", 3 * 20 * 8), ("upload", 3 * 4 * 4)]
    assert engine.contexts[1].shapes["facts"] == (3, 4)
    sent = device.memories[engine.contexts[1].addresses["facts"]][: facts.nbytes]
    assert_array_equal(sent.view(np.float32), facts.ravel())


def test_a_batch_beyond_every_profile_is_refused(
    device: RecordingDevice, engine: RecordingEngine
) -> None:
    core = TensorRtCore("e", engine, PROFILES, device)
    for shape in ((9, 4), (5, 17), (1, 65)):
        with pytest.raises(PredictorError, match="beyond its largest profile"):
            core(*_batch(*shape))


def test_an_engine_of_other_tensors_or_profiles_is_refused(
    device: RecordingDevice, engine: RecordingEngine
) -> None:
    with pytest.raises(PredictorError, match=r"profiles end at .*; export the engine again"):
        TensorRtCore("e", engine, [(8, 16)], device)
    engine.tensors["scores"] = "HALF"
    with pytest.raises(PredictorError, match=r"tensors are .*HALF.*; expected"):
        TensorRtCore("e", engine, PROFILES, device)


def test_a_call_that_fails_is_named(
    device: RecordingDevice, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = TensorRtCore("e.engine", engine, PROFILES, device)
    monkeypatch.setattr(RecordingContext, "execute_async_v3", lambda *_: False)
    with pytest.raises(PredictorError, match=r"e\.engine: TensorRT failed at a batch of \(1, 2\)"):
        core(*_batch(1, 2))
    monkeypatch.setattr(engine, "create_execution_context", lambda: None)
    with pytest.raises(PredictorError, match="no execution context"):
        TensorRtCore("e", engine, PROFILES, device)


BUILT = {
    "library": "tensorrt",
    "version": "11.4.0.106",
    "capabilities": ["8.9"],
    "hardware": "none",
    "version_compatible": False,
    "profiles": [{"opt": [2, 8], "max": [8, 16]}],
}


@pytest.mark.parametrize(
    ("changes", "version", "capability", "sentence"),
    [
        ({}, "11.4.0.106", "8.9", None),
        ({}, "11.5.0.1", "8.9", "built with tensorrt 11.4.0.106, and 11.5.0.1 is installed"),
        ({"version_compatible": True}, "11.5.0.1", "8.9", None),
        ({"version_compatible": True}, "12.0.0.1", "8.9", "12.0.0.1 is installed"),
        ({}, "11.4.0.106", "9.0", "compute capability 8.9, and this one has 9.0"),
        ({"hardware": "ampere_plus"}, "11.4.0.106", "9.0", None),
        ({"hardware": "ampere_plus"}, "11.4.0.106", "7.5", "this one has 7.5"),
        ({"hardware": "same_compute_capability"}, "11.4.0.106", "8.9", None),
        ({"capabilities": None}, "11.4.0.106", "8.9", "this one has 8.9"),
    ],
)
def test_an_engine_for_another_gpu_or_version_is_refused(
    changes: dict[str, object], version: str, capability: str, sentence: str | None
) -> None:
    described = {**BUILT, **changes}
    if sentence is None:
        check_fits("e", described, version, capability)
        return
    with pytest.raises(PredictorError, match=sentence):
        check_fits("e", described, version, capability)


@pytest.mark.parametrize("profiles", [None, [], [{}], [{"max": [1]}], [{"max": ["a", 2]}], 3])
def test_profiles_of_another_form_are_refused(profiles: object) -> None:
    assert profiles_of("e", BUILT) == [(8, 16)]
    with pytest.raises(PredictorError, match="e: its manifest tells no profiles"):
        profiles_of("e", {**BUILT, "profiles": profiles})


def _with_engine(exported: Path, out: Path) -> Path:
    """A predictor folder from elsewhere: it names an engine, and its hashes fit."""
    manifest = read_manifest(exported)
    engines = {**manifest.engines, "tensorrt-rtx": {**BUILT, "file": RTX}}
    files: dict[str, Path | str | bytes] = {name: exported / name for name in manifest.files}
    write_predictor(
        out, dataclasses.replace(manifest, engines=engines), {**files, RTX: b"no engine"}
    )
    return out


def test_an_engine_runs_only_when_built_here_or_pinned(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from pars_export.built_here import remember

    folder = _with_engine(exported, tmp_path / "foreign")
    assert Predictor.load(folder).runtime == "onnx", "a GPU is only used by name"
    with pytest.raises(PredictorError, match=rf"{RTX}: this engine was not built on this machine"):
        Predictor.load(folder, runtime="tensorrt-rtx")
    # Past that check, what is missing here is the GPU, or what CUDA's bindings need for it.
    gone_further = "cuda-bindings|of CUDA failed|cannot load it on this GPU|is installed"
    with pytest.raises(PredictorError, match=gone_further):
        Predictor.load(folder, runtime="tensorrt-rtx", sha256=folder_sha256(folder))
    remember(folder / RTX)
    with pytest.raises(PredictorError, match=gone_further):
        Predictor.load(folder, runtime="tensorrt-rtx")


def latencies(predictors: Mapping[str, Predictor]) -> str:
    """A line for each batch: median milliseconds of a call in each predictor, taking turns."""
    lines = []
    texts = builtin_texts()
    for batch in (1, 16, 64):
        calls = {n: partial(each.score, texts[:batch]) for n, each in predictors.items()}
        found = take_turns(calls, rounds=3)
        shown = [f"{n} {1e3 * median(found[n]['seconds']):.3f} ms" for n in predictors]
        lines.append(f"batch {batch}: {', '.join(shown)}")
    return "\n".join(lines)


def test_what_make_test_gpu_says_of_latency_without_a_gpu(exported: Path) -> None:
    lines = latencies({name: Predictor.load(exported, name) for name in ("onnx", "torch")})
    pattern = r"batch \d+: onnx (\d+\.\d+) ms, torch (\d+\.\d+) ms"
    found = [re.fullmatch(pattern, line) for line in lines.splitlines()]
    assert len(found) == 3
    assert all(each and min(map(float, each.groups())) > 0 for each in found)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_real_gpu_scores_as_the_reference(
    folder: Path, name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name.replace("-", "_"))
    from pars_export.runtimes.cuda import Cuda

    monkeypatch.setitem(BY_PRECISION, "int8", LOOSE)
    options = BuildOptions(precision=precision)
    if name == "tensorrt-rtx":
        options = dataclasses.replace(options, capabilities=(Cuda().capability(),))
    texts = builtin_texts()
    add_engines(folder, [name], texts, options=options)
    reference = Predictor.load(folder, runtime="torch")
    wanted = reference.score(texts)
    predictor = Predictor.load(folder, runtime=name)
    bound = ENGINES[name].bound_for(options)
    for _ in range(5):  # the common shapes go through CUDA graphs from the fourth time on
        found = predictor.score(texts)
        assert_allclose(found, wanted, rtol=0, atol=bound.difference * float(wanted.std()))
    alone = np.concatenate([predictor.score([text]) for text in texts])
    assert_allclose(alone, found, rtol=0, atol=bound.batch * float(wanted.std()))
    print(f"{name}, {precision}\n{latencies({'torch on the CPU': reference, name: predictor})}")
