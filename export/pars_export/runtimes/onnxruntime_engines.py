"""onnxruntime: on the CPU, or by name on a GPU through its CUDA or TensorRT provider."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest
from pars_export.batches import BatchPlan
from pars_export.errors import PredictorError
from pars_export.onnx_file import check_self_contained
from pars_export.ort import onnxruntime
from pars_export.runtimes.encoded import EncodedScorer, encoded_scorer

INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
FACTS = {"facts": "tensor(float)"}
"""Third input of a ranker that reads facts beside the text."""
OUTPUTS = {"scores": "tensor(float)"}
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
CPU_PLAN = BatchPlan(tokens=512)
"""On a CPU more tokens together gain little: what is between two products no longer fits into the
caches, and texts of 128 tokens took a tenth longer or more at 2,048."""
_EXACT = {CUDA: {"use_tf32": "0"}}
"""Options of a provider. Products in TF32 keep ten bits only, and the model is held to float32."""
_TF32 = "NVIDIA_TF32_OVERRIDE"
"""Set to 0, NVIDIA's libraries use no TF32. The TensorRT provider has no option for it."""


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """How every session here computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # By its name a file could be of another format, which `check_self_contained` does not read.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Waiting threads must sleep, not spin: the cores belong to an engine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Patterns of memory are kept per shape, and here every batch has a shape of its own.
    options.enable_mem_pattern = False
    return options


class OnnxCore:
    """One inference session."""

    def __init__(self, path: Path, threads: int, provider: str = CPU, facts: int = 0) -> None:
        if provider not in onnxruntime.get_available_providers():
            raise PredictorError(
                f"{path}: the installed onnxruntime {onnxruntime.__version__} has no {provider}; "
                "install onnxruntime-gpu, or choose the runtime onnx."
            )
        override = os.environ.get(_TF32)
        if provider == TENSORRT and override != "0":
            raise PredictorError(
                f"{path}: {provider} would compute in TF32, which keeps ten bits, for {_TF32} is "
                f"{'not set' if override is None else repr(override)}; set it to 0 in the "
                "environment."
            )
        check_self_contained(path)
        self._path = path
        # A session opened before a fork may wait for threads that the child does not have; one
        # opened in the child is sound on a CPU. A CUDA context cannot be used in a forked child.
        self.survives_fork = provider == CPU
        try:
            self._session = onnxruntime.InferenceSession(
                str(path),
                session_options(threads),
                providers=[(provider, _EXACT.get(provider, {}))],
            )
        except Exception as error:  # onnxruntime's errors share no base class
            raise PredictorError(
                f"{path}: onnxruntime {onnxruntime.__version__} cannot load it "
                f"({_first_line(error)})."
            ) from error
        # A provider that cannot start is left out with a warning, and the CPU takes its place.
        if self._session.get_providers()[0] != provider:
            raise PredictorError(
                f"{path}: {provider} of onnxruntime {onnxruntime.__version__} does not start here; "
                "is there a GPU with its libraries? Otherwise choose the runtime onnx."
            )
        self._check_signature(facts)

    def _check_signature(self, facts: int) -> None:
        for what, found, wanted in (
            ("inputs", self._session.get_inputs(), INPUTS | (FACTS if facts else {})),
            ("outputs", self._session.get_outputs(), OUTPUTS),
        ):
            types = {each.name: each.type for each in found}
            if types != wanted:
                raise PredictorError(
                    f"{self._path}: the model's {what} are {types}; expected {wanted}."
                )
        shapes = [each.shape[1:] for each in self._session.get_inputs() if each.name in FACTS]
        if facts and shapes != [[facts]]:
            raise PredictorError(
                f"{self._path}: the model's facts are of shape {shapes[0]} a prompt, and the "
                f"manifest's make {facts} numbers; export the predictor again."
            )

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        """Scores (n,) of ids (n, t), and of facts (n, width) where the ranker reads them."""
        feed: dict[str, NDArray[np.generic]] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
        }
        if facts is not None:
            feed["facts"] = facts
        try:
            (scores,) = self._session.run(["scores"], feed)
        except Exception as error:  # likewise
            raise PredictorError(
                f"{self._path}: onnxruntime failed on a batch of {input_ids.shape} ids "
                f"({_first_line(error)})."
            ) from error
        found = np.asarray(scores)
        if found.shape != input_ids.shape[:1]:
            raise PredictorError(
                f"{self._path}: the model gave scores of shape {found.shape} for "
                f"{len(input_ids)} prompts."
            )
        return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def load(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The float32 model on the CPU."""
    return _load("onnx", folder, manifest, threads)


def load_bf16(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The model with bfloat16 weights on the CPU."""
    return _load("onnx-bf16", folder, manifest, threads)


def load_int8(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The int8 model on the CPU."""
    return _load("onnx-int8", folder, manifest, threads)


def load_cuda(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The float32 model on a GPU."""
    return _load("onnx", folder, manifest, threads, CUDA)


def load_tensorrt(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The float32 model on a GPU through onnxruntime's TensorRT provider."""
    return _load("onnx", folder, manifest, threads, TENSORRT)


def _load(
    engine: str, folder: Path, manifest: Manifest, threads: int, provider: str = CPU
) -> EncodedScorer:
    path = folder / str(manifest.engines[engine]["file"])
    core = OnnxCore(path, threads, provider, manifest.facts.width)
    return encoded_scorer(folder, manifest, core, CPU_PLAN if provider == CPU else None)
