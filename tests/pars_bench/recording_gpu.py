"""A GPU and a TensorRT engine that are none: they note what is asked of them and do it in numpy.

They stand in for what cannot exist without a GPU; `make test-gpu` runs the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pars_export.tensorrt import INPUTS, Profile

Score = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Ids and mask (n, t) to scores (n,)."""
SHAPES = [(8, 16), (4, 64)]


def sums(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores that are seen at once: the sum of the ids that count."""
    scores: NDArray[np.float32] = (ids * mask).sum(axis=1).astype(np.float32)
    return scores


class RecordingDevice:
    """Notes what is asked of it; its memory is numpy's."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.memories: dict[int, NDArray[np.uint8]] = {}
        self.graphs: list[list[Any]] = []
        self.recording: list[Any] | None = None

    def capability(self) -> str:
        return "8.9"

    def name(self) -> str:
        return "NVIDIA L4"

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
    def __init__(
        self, device: RecordingDevice, shapes: list[tuple[int, int]], score: Score
    ) -> None:
        self.device, self.limits, self.score = device, shapes, score
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
            memory = self.device.memories[self.addresses["scores"]]
            memory[: rows * 4] = self.score(ids, mask).view(np.uint8)

        self.device.do(run)
        return stream_handle == 7


class RecordingEngine:
    def __init__(
        self, device: RecordingDevice, profiles: list[tuple[int, int]], score: Score = sums
    ) -> None:
        self.device, self.profiles, self.score = device, profiles, score
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
        self.contexts.append(RecordingContext(self.device, self.profiles, self.score))
        return self.contexts[-1]


class Gpu:
    """A recording GPU beside which TensorRT-RTX's builder goes by the name of either library."""

    def __init__(self, score: Score) -> None:
        self.device, self.score = RecordingDevice(), score
        self.profile = Profile((8, 64), (64, 64))

    def put_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exports and runtimes find this one."""
        for module in ("pars_export.tensorrt", "pars_export.runtimes.tensorrt"):
            monkeypatch.setattr(f"{module}.import_library", self.library)
        for module in ("pars_export.runtimes.cuda", "pars_export.runtimes.tensorrt"):
            monkeypatch.setattr(f"{module}.Cuda", lambda: self.device)
        monkeypatch.setattr("pars_export.tensorrt.profiles_for", lambda *_: [self.profile])

    def library(self, name: str) -> SimpleNamespace:
        import tensorrt_rtx

        return SimpleNamespace(**{**vars(tensorrt_rtx), "Runtime": lambda logger: self})

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> RecordingEngine:
        assert len(serialized_engine) > 10_000
        return RecordingEngine(self.device, [self.profile.max], lambda *ids: self.score(*ids))

    @property
    def batches(self) -> int:
        return sum(call[0] == "execute" for call in self.device.calls)
