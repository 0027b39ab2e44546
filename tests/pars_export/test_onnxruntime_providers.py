"""What onnxruntime is told when it runs the model on a GPU, and forks then; here without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from pars_export import Predictor, PredictorError
from pars_export.runtimes.onnxruntime_engines import CPU, CUDA, TENSORRT, OnnxCore


@pytest.mark.parametrize(
    ("provider", "options"), [(CPU, {}), (CUDA, {"use_tf32": "0"}), (TENSORRT, {})]
)
def test_float32_is_float32_on_a_gpu_too(
    exported: Path, monkeypatch: pytest.MonkeyPatch, provider: str, options: dict[str, str]
) -> None:
    asked = []

    def session(path: str, settings: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        asked.extend(providers)
        raise RuntimeError("there is no GPU")

    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU, CUDA, TENSORRT])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(PredictorError, match=r"cannot load it \(there is no GPU\)"):
        OnnxCore(exported / "model.onnx", 1, provider)
    assert asked == [(provider, options)]


@pytest.mark.parametrize(("value", "told"), [(None, "not set"), ("", "''"), ("1", "'1'")])
def test_tensorrt_is_refused_while_it_would_compute_in_tf32(
    exported: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, told: str
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if value is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CPU])
    sentence = f"model.onnx: .* TF32, .* NVIDIA_TF32_OVERRIDE is {told}; set it to 0"
    with pytest.raises(PredictorError, match=sentence):
        Predictor.load(exported, "onnx-tensorrt")


class _Renamed(onnxruntime.InferenceSession):  # type: ignore[misc]  # it has no types
    """The CPU's session under the name of the provider that was asked for."""

    def __init__(
        self, path: str, settings: Any, providers: list[tuple[str, dict[str, str]]]
    ) -> None:
        super().__init__(path, settings, providers=[CPU])
        self._asked = providers[0][0]

    def get_providers(self) -> list[str]:
        return [self._asked]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runtime", ["onnx", "onnx-cuda", "onnx-tensorrt"])
def test_a_session_on_a_gpu_cannot_go_on_after_a_fork(
    exported: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, threads: int
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU, CUDA, TENSORRT])
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Renamed)
    predictor = Predictor.load(exported, runtime, threads=threads)
    wanted = predictor.score(["a prompt"])
    predictor._after_fork()
    if runtime == "onnx":
        assert predictor.score(["a prompt"]) == wanted
        return
    sentence = rf"'{runtime}' cannot go on after a fork; start processes with the method `spawn`\.$"
    with pytest.raises(PredictorError, match=sentence):
        predictor.score(["a prompt"])
