"""The TensorRT runtime's calls in order, on a recording GPU, and what an engine must fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from recording_gpu import SHAPES, RecordingContext, RecordingDevice, RecordingEngine

from pars_export import PredictorError
from pars_export.runtimes.tensorrt import (
    TensorRtCore,
    check_fits,
    device_for,
    load_core,
    profiles_of,
)
from pars_export.tensorrt import Profile, profiles_for


def test_profiles_follow_the_lengths_of_texts() -> None:
    found = profiles_for([10] * 60 + [40] * 30 + [120] * 10, 128)
    assert [each.max for each in found] == [(64, 16), (64, 48), (64, 128)]
    assert [each.opt for each in found] == [(64, 16), (42, 48), (16, 128)]
    assert profiles_for([], 50) == [Profile((40, 50), (64, 50))]


def _profile(rows: int, tokens: int) -> Profile:
    return Profile((rows, tokens), (rows, tokens))


@pytest.fixture
def device() -> RecordingDevice:
    return RecordingDevice()


@pytest.fixture
def engine(device: RecordingDevice) -> RecordingEngine:
    return RecordingEngine(device, SHAPES)


def _batch(rows: int, tokens: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 99, (rows, tokens)), rng.integers(0, 2, (rows, tokens))


def test_a_batch_is_copied_run_and_copied_back_on_one_stream(
    device: RecordingDevice, engine: RecordingEngine
) -> None:
    core = TensorRtCore("e", engine, SHAPES, device)
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
    core = TensorRtCore("e", engine, SHAPES, device)
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
    assert len(engine.contexts) == len(SHAPES) + 1
    assert engine.contexts[-1].shapes["input_ids"] == (2, 8), "a graph's context keeps its shape"


def test_a_shape_that_cannot_be_recorded_is_scored_as_ever(
    device: RecordingDevice,
    engine: RecordingEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = TensorRtCore("e.engine", engine, SHAPES, device)
    asked: list[None] = []
    # As where an engine beside it has taken the GPU's memory since.
    monkeypatch.setattr(engine, "create_execution_context", lambda: asked.append(None))
    for shape in [(2, 8)] * 6 + [(5, 9)] * 6:
        ids, mask = _batch(*shape, len(asked))
        assert_array_equal(core(ids, mask), (ids * mask).sum(axis=1))
    assert len(asked) == 1
    (told,) = caplog.messages
    assert "e.engine: TensorRT gives no execution context" in told
    assert "scoring goes on without" in told


def test_a_recording_that_fails_is_ended(
    device: RecordingDevice, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = TensorRtCore("e", engine, SHAPES, device)
    real = RecordingContext.execute_async_v3

    def fails(context: RecordingContext, stream: int) -> bool:
        return device.recording is None and real(context, stream)

    monkeypatch.setattr(RecordingContext, "execute_async_v3", fails)
    for seed in range(6):
        ids, mask = _batch(2, 8, seed)
        assert_array_equal(core(ids, mask), (ids * mask).sum(axis=1))
    assert device.recording is None
    assert [call[0] for call in device.calls].count("captured") == 1
    assert not any(call[0] == "launch" for call in device.calls)


def test_facts_are_a_third_input(device: RecordingDevice, engine: RecordingEngine) -> None:
    with pytest.raises(PredictorError, match="the engine's tensors are"):
        TensorRtCore("e", engine, SHAPES, device, facts=4)
    engine.tensors = {**engine.tensors, "facts": "FLOAT"}
    engine.num_io_tensors = 4
    core = TensorRtCore("e", engine, SHAPES, device, facts=4)
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
    core = TensorRtCore("e", engine, SHAPES, device)
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
        TensorRtCore("e", engine, SHAPES, device)


def test_a_call_that_fails_is_named(
    device: RecordingDevice, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = TensorRtCore("e.engine", engine, SHAPES, device)
    monkeypatch.setattr(RecordingContext, "execute_async_v3", lambda *_: False)
    with pytest.raises(PredictorError, match=r"e\.engine: TensorRT failed at a batch of \(1, 2\)"):
        core(*_batch(1, 2))
    monkeypatch.setattr(engine, "create_execution_context", lambda: None)
    with pytest.raises(PredictorError, match="no execution context"):
        TensorRtCore("e", engine, SHAPES, device)


BUILT = {
    "library": "tensorrt",
    "version": "11.4.0.106",
    "capabilities": ["8.9"],
    "hardware": "none",
    "version_compatible": False,
    "profiles": [{"opt": [2, 8], "max": [8, 16]}],
}
LATER = {"version_compatible": True}
"""An engine that later versions run."""


@pytest.mark.parametrize(
    ("changes", "version", "capability", "sentence"),
    [
        ({}, "11.4.0.106", "8.9", None),
        ({}, "11.5.0.1", "8.9", "built with tensorrt 11.4.0.106, and 11.5.0.1 is installed"),
        ({}, "11.3.9.200", "8.9", "built with tensorrt 11.4.0.106, and 11.3.9.200 is installed"),
        (LATER, "11.4.0.106", "8.9", None),
        (LATER, "11.5.0.1", "8.9", None),
        (LATER, "11.10.0.1", "8.9", None),
        (LATER, "11.4.0.99", "8.9", "built with tensorrt 11.4.0.106, and 11.4.0.99 is installed"),
        (LATER, "11.3.9.200", "8.9", "11.3.9.200 is installed"),
        (LATER, "12.0.0.1", "8.9", "12.0.0.1 is installed"),
        (LATER, "10.13.3.9", "8.9", "10.13.3.9 is installed"),
        ({**LATER, "version": None}, "11.5.0.1", "8.9", "built with tensorrt None"),
        ({**LATER, "library": "tensorrt_rtx"}, "11.5.0.1", "8.9", "built with tensorrt_rtx"),
        ({}, "11.4.0.106", "9.0", "compute capability 8.9, and this one has 9.0"),
        ({"hardware": "ampere_plus"}, "11.4.0.106", "9.0", None),
        ({"hardware": "ampere_plus"}, "11.4.0.106", "7.5", "this one has 7.5"),
        ({"hardware": "same_compute_capability"}, "11.4.0.106", "8.9", None),
        ({"capabilities": None}, "11.4.0.106", "8.9", "capability unknown, and this one has 8.9"),
        (
            {"capabilities": ["sm_89"]},
            "11.4.0.106",
            "8.9",
            "capability sm_89, and this one has 8.9",
        ),
        (
            {"capabilities": ["sm_89"], "hardware": "ampere_plus"},
            "11.4.0.106",
            "9.0",
            r"e: by its manifest .* capability 'sm_89'; expected numbers such as 8\.9; export",
        ),
        ({"capabilities": ["8.9", "sm_90"]}, "11.4.0.106", "8.9", None),
        ({**LATER, "version": "1" * 5000}, "11.4.0.106", "8.9", "11.4.0.106 is installed"),
    ],
)
def test_an_engine_for_another_gpu_or_version_is_refused(
    changes: dict[str, object], version: str, capability: str, sentence: str | None
) -> None:
    described = {**BUILT, **changes}
    if sentence is None:
        check_fits("e", described, version, capability, "NVIDIA L4")
        return
    with pytest.raises(PredictorError, match=sentence):
        check_fits("e", described, version, capability, "NVIDIA L4")


OTHER = {"gpu": "NVIDIA GeForce RTX 4090"}
"""An engine that was built on another GPU of the same compute capability."""


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),  # as earlier exports wrote it
        ({"gpu": "NVIDIA L4"}, True),
        ({**OTHER, "hardware": "same_compute_capability"}, True),
        ({**OTHER, "hardware": "ampere_plus"}, True),
        (OTHER, False),
        ({"gpu": 4}, False),
    ],
)
def test_an_engine_for_one_gpu_model_is_refused_on_another(
    device: RecordingDevice,
    runtime: RecordingRuntime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    fits: bool,
) -> None:
    described = {**BUILT, "version": "11.5.0.1", **changes}
    (tmp_path / "e").write_bytes(b"engine")
    monkeypatch.setattr("pars_export.runtimes.tensorrt.Cuda", lambda: device)
    assert (device_for(described) is device) == fits
    if fits:
        load_core("tensorrt", tmp_path / "e", described)
        return
    sentence = rf"e: built for the GPU {changes['gpu']} alone, and this one is NVIDIA L4; export"
    with pytest.raises(PredictorError, match=sentence):
        load_core("tensorrt", tmp_path / "e", described)


@pytest.mark.parametrize(
    "profiles",
    [None, [], [{}], [{"max": [1]}], [{"max": ["a", 2]}], [{"max": [float("inf"), 2]}], 3],
)
def test_profiles_of_another_form_are_refused(profiles: object) -> None:
    assert profiles_of("e", BUILT) == [(8, 16)]
    with pytest.raises(PredictorError, match="e: its manifest tells no profiles"):
        profiles_of("e", {**BUILT, "profiles": profiles})


class Severity:
    ERROR = 1

    def __init__(self, least: int) -> None:
        assert least == self.ERROR


class RecordingRuntime:
    """Loads a recording engine from any file, and tells whether its code might have been run."""

    def __init__(self, device: RecordingDevice, loads: bool = True) -> None:
        self.device, self.loads = device, loads
        self.engine_host_code_allowed: bool | None = None

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> RecordingEngine | None:
        assert serialized_engine == b"engine"
        return RecordingEngine(self.device, SHAPES[:1]) if self.loads else None


@pytest.fixture
def runtime(device: RecordingDevice, monkeypatch: pytest.MonkeyPatch) -> RecordingRuntime:
    """The runtime of a library of which version 11.5.0.1 is installed."""
    runtime = RecordingRuntime(device)
    library = SimpleNamespace(
        __version__="11.5.0.1",
        Logger=Severity,
        Runtime=lambda logger: runtime,
    )
    monkeypatch.setattr("pars_export.runtimes.tensorrt.import_library", lambda name: library)
    return runtime


@pytest.mark.parametrize(("changes", "allowed"), [({"version": "11.5.0.1"}, False), (LATER, True)])
def test_only_an_engine_for_later_versions_may_bring_its_own_runtime(
    device: RecordingDevice,
    runtime: RecordingRuntime,
    tmp_path: Path,
    changes: dict[str, object],
    allowed: bool,
) -> None:
    (tmp_path / "e").write_bytes(b"engine")
    core = load_core("tensorrt", tmp_path / "e", {**BUILT, **changes}, device=device)
    assert runtime.engine_host_code_allowed is allowed
    ids, mask = _batch(3, 7)
    assert_array_equal(core(ids, mask), (ids * mask).sum(axis=1))
    runtime.loads = False
    with pytest.raises(PredictorError, match=r"e: tensorrt 11\.5\.0\.1 cannot load it on this GPU"):
        load_core("tensorrt", tmp_path / "e", {**BUILT, **changes}, device=device)


def test_the_gpu_here_is_told_from_none_and_from_one_of_another_kind(
    device: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu() -> RecordingDevice:
        raise PredictorError("cudaGetDevice of CUDA failed (cudaErrorNoDevice).")

    monkeypatch.setattr("pars_export.runtimes.tensorrt.Cuda", no_gpu)
    assert device_for(BUILT) is None
    monkeypatch.setattr("pars_export.runtimes.tensorrt.Cuda", lambda: device)
    assert device_for(BUILT) is device
    assert device_for({**BUILT, "capabilities": ["12.0"]}) is None
