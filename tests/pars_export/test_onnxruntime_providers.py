"""What onnxruntime is told when it runs the model on a GPU; sessions are only asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from pars_export import PredictorError
from pars_export.runtimes.onnxruntime_engines import CPU, CUDA, OnnxCore

TENSORRT = "TensorrtExecutionProvider"


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

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU, CUDA, TENSORRT])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(PredictorError, match=r"cannot load it \(there is no GPU\)"):
        OnnxCore(exported / "model.onnx", 1, provider)
    assert asked == [(provider, options)]
