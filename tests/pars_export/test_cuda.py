"""The calls of CUDA's own bindings: each name is there and takes what it is given."""

from __future__ import annotations

import ctypes
import inspect
import sys
from typing import Any

import numpy as np
import pytest

from pars_export import PredictorError
from pars_export.runtimes.cuda import Cuda, Device

if sys.platform not in ("linux", "win32"):  # there are packages for these, where it must be there
    pytest.importorskip("cuda.bindings.runtime")
from cuda.bindings import runtime


class NamedAsCuda:
    """The names and parameters of the real bindings; nothing is done, and every call ends well."""

    def __init__(self) -> None:
        self.called: set[str] = set()
        self.memory = ctypes.create_string_buffer(64)
        self.status = runtime.cudaError_t.cudaSuccess
        self.properties = runtime.cudaDeviceProp()
        self.properties.name = b"NVIDIA L4".ljust(256, b"\0")

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if isinstance(real, type) or not callable(real):
            return real

        def call(*arguments: object) -> tuple[Any, Any]:
            inspect.signature(real).bind(*arguments)
            self.called.add(name)
            if name == "cudaGetDeviceProperties":
                return self.status, self.properties
            return self.status, ctypes.addressof(self.memory)

        return call


@pytest.fixture
def names() -> NamedAsCuda:
    return NamedAsCuda()


@pytest.fixture
def cuda(names: NamedAsCuda, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setattr(cuda, "_cuda", names)
    return cuda


def test_every_call_is_one_of_the_real_bindings(cuda: Cuda, names: NamedAsCuda) -> None:
    device: Device = cuda
    assert "." in device.capability()
    assert device.name() == "NVIDIA L4"
    stream = device.stream()
    pinned, memory = device.pinned(16), device.memory(16)
    assert pinned.dtype == np.uint8
    assert pinned.shape == (16,)
    device.upload(memory, pinned, stream)
    device.download(pinned, memory, stream)
    device.begin_capture(stream)
    graph = device.end_capture(stream)
    device.launch(graph, stream)
    device.wait(stream)
    assert names.called == {
        "cudaGetDevice",
        "cudaDeviceGetAttribute",
        "cudaGetDeviceProperties",
        "cudaStreamCreateWithFlags",
        "cudaMallocHost",
        "cudaMalloc",
        "cudaMemcpyAsync",
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphLaunch",
        "cudaStreamSynchronize",
    }


def test_a_call_that_fails_is_told_in_cudas_words(cuda: Cuda, names: NamedAsCuda) -> None:
    names.status = runtime.cudaError_t.cudaErrorNoDevice
    with pytest.raises(PredictorError, match=r"cudaGetDevice of CUDA failed \(cudaErrorNoDevice\)"):
        cuda.capability()
