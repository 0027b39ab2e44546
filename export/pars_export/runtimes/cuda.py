"""The few calls of the CUDA runtime that scoring needs, through NVIDIA's own `cuda-bindings`.

Nothing here needs torch. Handles and addresses are whole numbers. `TensorRtCore` is written against
`Device`, so that its calls can be followed without a GPU.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pars_export.errors import PredictorError


class Device(Protocol):
    """What a runtime asks of a GPU."""

    def capability(self) -> str:
        """Compute capability of the current GPU, such as "8.9"."""

    def name(self) -> str:
        """Name of the current GPU's model, such as "NVIDIA L4"."""

    def stream(self) -> int:
        """A new stream, which waits for no other."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Page-locked host memory of that many bytes."""

    def memory(self, size: int) -> int:
        """Address of that many bytes on the GPU."""

    def upload(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        """Copy pinned memory to the GPU, in the stream's order."""

    def download(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        """Copy from the GPU to pinned memory, in the stream's order."""

    def wait(self, stream: int) -> None:
        """Until all that was asked of the stream is done."""

    def begin_capture(self, stream: int) -> None:
        """Record what is asked of the stream from here on instead of doing it."""

    def end_capture(self, stream: int) -> int:
        """What was recorded, ready to be launched."""

    def launch(self, graph: int, stream: int) -> None:
        """Do what was recorded."""


class Cuda:
    """`Device` on the current GPU.

    Raises:
        PredictorError: `cuda-bindings` is missing, or a call fails; in CUDA's words.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise PredictorError(
                f"The package cuda-bindings cannot be imported ({error}); install it to run "
                "TensorRT engines."
            ) from error
        self._cuda: Any = runtime

    def _call(self, name: str, *arguments: object) -> Any:
        status, *found = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise PredictorError(f"{name} of CUDA failed ({status.name}).")
        return found[0] if found else None

    def capability(self) -> str:
        """See `Device`."""
        device = self._call("cudaGetDevice")
        kinds = self._cuda.cudaDeviceAttr
        major, minor = (
            self._call("cudaDeviceGetAttribute", kind, device)
            for kind in (
                kinds.cudaDevAttrComputeCapabilityMajor,
                kinds.cudaDevAttrComputeCapabilityMinor,
            )
        )
        return f"{major}.{minor}"

    def name(self) -> str:
        """See `Device`."""
        found: bytes = self._call("cudaGetDeviceProperties", self._call("cudaGetDevice")).name
        return found.partition(b"\0")[0].decode(errors="replace")

    def stream(self) -> int:
        """See `Device`."""
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Device`."""
        address = int(self._call("cudaMallocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def memory(self, size: int) -> int:
        """See `Device`."""
        return int(self._call("cudaMalloc", size))

    def upload(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        """See `Device`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        """See `Device`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def wait(self, stream: int) -> None:
        """See `Device`."""
        self._call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """See `Device`."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """See `Device`."""
        graph = self._call("cudaStreamEndCapture", stream)
        return int(self._call("cudaGraphInstantiate", graph, 0))

    def launch(self, graph: int, stream: int) -> None:
        """See `Device`."""
        self._call("cudaGraphLaunch", graph, stream)
