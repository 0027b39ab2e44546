"""On a GPU, every runtime that uses one scores as the reference does: `make test-gpu`.

The predictor folder named by the environment variable PARS_GPU_PREDICTOR is tested, by default one
of the embedded MiniLM, against the bounds that an export holds its engines to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from minilm_predictor import NAME, UNTRAINED, write_minilm_predictor
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pars_bench.predictor.speed import take_turns
from pars_export import Predictor
from pars_export.build import add_engines
from pars_export.engines import BY_PRECISION, ENGINES, EXACT
from pars_export.parity import Bound, builtin_texts, demonstration_texts, tau_b
from pars_export.runtimes.cuda import Cuda
from pars_export.tensorrt import BuildOptions, import_library

PREDICTOR = "PARS_GPU_PREDICTOR"
ROOT = Path(__file__).parents[2]
RAN: list[str] = []
"""Runtimes that scored on the GPU in this run."""


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


def skip_unless_built_for(capability: str) -> None:
    """Skip where tensorrt_rtx has no engines for GPUs of that compute capability."""
    trt = import_library("tensorrt_rtx")
    known = trt.ComputeCapability.__members__
    if f"SM{capability.replace('.', '')}" not in known:
        pytest.skip(
            f"tensorrt_rtx {trt.__version__} does not build for this GPU's compute capability "
            f"{capability}; it knows {', '.join(sorted(known))}."
        )


def test_a_gpu_that_tensorrt_rtx_does_not_build_for_is_skipped_in_a_sentence() -> None:
    pytest.importorskip("tensorrt_rtx")
    skip_unless_built_for("8.9")
    with pytest.raises(
        pytest.skip.Exception, match=r"GPU's compute capability 9\.0; it knows .*SM"
    ):
        skip_unless_built_for("9.0")


def test_make_test_gpu_installs_both_libraries() -> None:
    command = ["make", "--dry-run", "test-gpu"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "--editable '.[tensorrt,tensorrt-rtx]'" in told
    assert "pytest -m gpu" in told


@dataclass(frozen=True)
class Reference:
    """What a predictor's float32 torch model scores."""

    folder: Path
    texts: list[str]
    scores: NDArray[np.float32]

    def check(
        self, found: NDArray[np.float32], bound: Bound, rows: Sequence[int] | None = None
    ) -> None:
        """Whether scores of all texts, or of those ``rows``, are within an engine's bound."""
        wanted = self.scores if rows is None else self.scores[list(rows)]
        atol = bound.difference * float(self.scores.std())
        assert_allclose(found, wanted, rtol=0, atol=atol)
        assert tau_b(wanted, found) >= bound.tau


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    Cuda().capability()  # where there is no GPU, nothing is measured first
    folder = tmp_path_factory.mktemp("gpu") / "predictor"
    given = os.environ.get(PREDICTOR, NAME)
    if given == NAME:
        write_minilm_predictor(folder)
    else:
        shutil.copytree(given, folder)
    texts = demonstration_texts()[1]
    return Reference(folder, texts, Predictor.load(folder, "torch").score(texts))


@pytest.fixture
def folder(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(reference.folder, tmp_path / "predictor")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_scores_as_the_reference(
    reference: Reference,
    folder: Path,
    name: str,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.environ.get(PREDICTOR, NAME) == NAME:
        monkeypatch.setitem(BY_PRECISION, "int8", UNTRAINED)
    options = BuildOptions(precision)
    if name == "tensorrt-rtx":
        capability = Cuda().capability()
        skip_unless_built_for(capability)
        options = replace(options, capabilities=(capability,))
    add_engines(folder, [name], options=options)
    predictor = Predictor.load(folder, runtime=name)
    bound = ENGINES[name].bound_for(options)
    for _ in range(5):  # the common shapes go through CUDA graphs from the fourth time on
        found = predictor.score(reference.texts)
        reference.check(found, bound)
    alone = np.concatenate([predictor.score([text]) for text in reference.texts[:64]])
    assert_allclose(alone, found[:64], rtol=0, atol=bound.batch * float(reference.scores.std()))
    RAN.append(name)
    shown = {"torch on the CPU": Predictor.load(folder, "torch"), name: predictor}
    print(f"{name}, {precision}\n{latencies(shown)}")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "provider"),
    [("onnx-cuda", "CUDAExecutionProvider"), ("onnx-tensorrt", "TensorrtExecutionProvider")],
)
def test_onnxruntime_on_a_gpu_scores_as_the_reference(
    reference: Reference, folder: Path, name: str, provider: str
) -> None:
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        pytest.skip(
            f"onnxruntime {onnxruntime.__version__} has no {provider}; for {name} install "
            "onnxruntime-gpu in its place."
        )
    # Few, for each longer batch makes the TensorRT provider build anew.
    rows = [row for row, text in enumerate(reference.texts) if text and row % 8 == 0]
    lines = [json.dumps({"prompt": reference.texts[row]}) for row in rows]
    (folder.parent / "texts.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pars_model", "score", str(folder)]
    command += [str(folder.parent / "texts.jsonl"), "--runtime", name]
    # TF32 is off: by an option of the CUDA provider, and the TensorRT provider has this alone.
    tf32 = {"NVIDIA_TF32_OVERRIDE": "0"} if name == "onnx-tensorrt" else {}
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **tf32})
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line)["score"] for line in ran.stdout.splitlines()]
    reference.check(np.array(found, np.float32), EXACT, rows)
    RAN.append(name)


@pytest.mark.gpu
def test_something_ran_on_the_gpu() -> None:
    assert RAN, "No runtime scored on a GPU in this run; the tests above say why."
