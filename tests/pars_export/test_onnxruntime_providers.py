"""What onnxruntime is told when it runs the model on a GPU; sessions are only asked for."""

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
