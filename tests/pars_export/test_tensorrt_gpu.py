"""On a GPU, every runtime that uses one scores as the reference does: `make test-gpu`.

The predictor folder named by the environment variable PARS_GPU_PREDICTOR is tested, by default one
of the embedded MiniLM, against the bounds that an export holds its engines to. What needs a package
that is not installed is skipped, for onnxruntime-gpu has an environment of its own (see Makefile).
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
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import pytest
import scored_apart
from minilm_predictor import NAME, UNTRAINED, write_minilm_predictor
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from recording_gpu import Gpu
from scored_apart import beside_torch, latencies

from pars_export import Predictor, PredictorError
from pars_export.artifact import read_manifest
from pars_export.build import add_engines
from pars_export.engines import BY_PRECISION, ENGINES, EXACT
from pars_export.parity import Bound, demonstration_texts, tau_b
from pars_export.runtimes import is_installed
from pars_export.runtimes.cuda import Cuda
from pars_export.runtimes.onnxruntime_engines import OnnxCore
from pars_export.tensorrt import BuildOptions, build_engine, import_library

PREDICTOR = "PARS_GPU_PREDICTOR"
ROOT = Path(__file__).parents[2]
RAN: list[str] = []
"""Runtimes that scored on the GPU in this run."""


def tell(name: str, what: str, told: str) -> None:
    """Note that a runtime scored on the GPU, and print what is told of it."""
    RAN.append(name)
    print(f"{name}, {what}\n{told}")


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


def test_make_test_gpu_installs_what_it_tests() -> None:
    command = ["make", "--dry-run", "test-gpu"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "--editable '.[tensorrt,tensorrt-rtx]'" in told
    beside = told.index("venv-onnxruntime-gpu/bin/python -m pip")
    removed = told.index("uninstall --quiet --yes onnxruntime onnxruntime-gpu", beside)
    assert "-r requirements/onnxruntime-gpu.txt" in told[removed:]


@pytest.mark.parametrize("failing", [None, "venv", "venv-onnxruntime-gpu"])
@pytest.mark.parametrize("before", [None, "/driver"])
def test_make_test_gpu_runs_in_both_environments_and_fails_with_either(
    tmp_path: Path, failing: str | None, before: str | None
) -> None:
    for name in ("venv", "venv-onnxruntime-gpu"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(
            "#!/bin/sh\n"
            'if [ "$1" = -c ]; then echo /packages; exit; fi\n'
            f'echo "{name}: $*: $LD_LIBRARY_PATH"\n'
            f"exit {int(name == failing)}\n"
        )
        python.chmod(0o755)
        for installed in (".installed", ".installed-gpu"):
            (tmp_path / name / installed).touch()
    ours = ("LD_LIBRARY_PATH", "MAKEFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    if before is not None:
        environment["LD_LIBRARY_PATH"] = before
    command = ["make", "--silent", "test-gpu", f"VENV={tmp_path / 'venv'}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (ran.returncode == 0) == (failing is None), ran.stderr
    folders = [f"/packages/{each}" for each in ("nvidia/cu13/lib", "nvidia/cudnn/lib")]
    folders += ["/packages/tensorrt_libs", *([] if before is None else [before])]
    own = "tests/pars_export/test_tensorrt_gpu.py"
    assert ran.stdout.splitlines() == [
        f"venv: -m pytest -m gpu -rsP: {before or ''}",
        f"venv-onnxruntime-gpu: -m pytest -m gpu -rsP {own}: {':'.join(folders)}",
    ]


def skip_unless_installed(name: str) -> None:
    """Skip where the package of an engine is not installed."""
    if not is_installed(ENGINES[name].package):
        pytest.skip(f"the package {ENGINES[name].package} is not installed here.")


@dataclass(frozen=True)
class Reference:
    """What a predictor's float32 torch model scores."""

    folder: Path
    texts: list[str]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, folder: Path) -> Reference:
        """On the prompts that engines are compared on."""
        texts = demonstration_texts()[1]
        return cls(folder, texts, Predictor.load(folder, "torch").score(texts))

    def check(
        self, found: NDArray[np.float32], bound: Bound, rows: Sequence[int] | None = None
    ) -> None:
        """Whether scores of all texts, or of those ``rows``, are within an engine's bound."""
        wanted = self.scores if rows is None else self.scores[list(rows)]
        atol = bound.difference * float(self.scores.std())
        assert_allclose(found, wanted, rtol=0, atol=atol)
        assert tau_b(wanted, found) >= bound.tau

    def check_engine(self, folder: Path, name: str, options: BuildOptions) -> Predictor:
        """Build an engine in ``folder`` and check its scores; the predictor that it is of."""
        add_engines(folder, [name], options=options)
        predictor = Predictor.load(folder, runtime=name)
        bound = ENGINES[name].bound_for(options)
        for _ in range(5):  # the common shapes go through CUDA graphs from the fourth time on
            found = predictor.score(self.texts)
            self.check(found, bound)
        alone = np.concatenate([predictor.score([text]) for text in self.texts[:64]])
        assert_allclose(alone, found[:64], rtol=0, atol=bound.batch * float(self.scores.std()))
        return predictor

    def check_apart(
        self, folder: Path, runtime: str, rows: Sequence[int], environment: Mapping[str, str]
    ) -> str:
        """Check the scores of a runtime in a process of its own; what it says of its latency."""
        ran = subprocess.run(
            [sys.executable, scored_apart.__file__, str(folder), runtime],
            input=json.dumps([self.texts[row] for row in rows]),
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert ran.returncode == 0, ran.stderr
        scores, _, told = ran.stdout.partition("\n")
        self.check(np.array(json.loads(scores), np.float32), EXACT, rows)
        return told


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    missing = ""
    try:
        Cuda().capability()  # where there is no GPU, nothing is measured first
    except PredictorError as error:
        missing = f"CUDA finds no GPU that it can use here. {error}"
    if missing:
        pytest.fail(missing, pytrace=False)
    folder = tmp_path_factory.mktemp("gpu") / "predictor"
    given = os.environ.get(PREDICTOR, NAME)
    if given == NAME:
        write_minilm_predictor(folder)
    else:
        shutil.copytree(given, folder)
    return Reference.of(folder)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(reference: Reference, tmp_path: Path, own_cache: None) -> Path:
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
    skip_unless_installed(name)
    if os.environ.get(PREDICTOR, NAME) == NAME:
        monkeypatch.setitem(BY_PRECISION, "int8", UNTRAINED)
    options = BuildOptions(precision)
    if name == "tensorrt-rtx":
        capability = Cuda().capability()
        skip_unless_built_for(capability)
        options = replace(options, capabilities=(capability,))
    predictor = reference.check_engine(folder, name, options)
    tell(name, precision, beside_torch(folder, name, predictor))


OPTIONS: list[dict[str, Any]] = [
    {"version_compatible": True},
    {"hardware": "same_compute_capability"},
    {"hardware": "ampere_plus"},
]
"""That tensorrt alone has, by their names in the manifest."""


def check_option(reference: Reference, folder: Path, option: Mapping[str, Any]) -> Predictor:
    """Check an engine that is built with the option, and that its manifest says so."""
    predictor = reference.check_engine(folder, "tensorrt", BuildOptions(**option))
    assert option.items() <= read_manifest(folder).engines["tensorrt"].items()
    return predictor


@pytest.mark.gpu
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_an_engine_for_other_versions_or_gpus_scores_as_the_reference(
    reference: Reference, folder: Path, option: Mapping[str, Any]
) -> None:
    skip_unless_installed("tensorrt")
    capability = Cuda().capability()
    if "ampere_plus" in option.values() and float(capability) < 8:
        pytest.skip(f"this GPU's compute capability {capability} is older than Ampere's, 8.0.")
    predictor = check_option(reference, folder, option)
    tell("tensorrt", f"fp16, {option}", beside_torch(folder, "tensorrt", predictor))


def check_timing_cache(
    reference: Reference, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Check engines of two builds with one timing cache; what each build took and left there."""
    timings = folder.parent / "timings"
    told = []

    def timed(*arguments: Any) -> Mapping[str, object]:
        started = perf_counter()
        found = build_engine(*arguments)
        seconds = perf_counter() - started
        told.append(f"built in {seconds:.1f} s, {timings.stat().st_size:,} bytes of timings")
        return found

    monkeypatch.setattr("pars_export.tensorrt.build_engine", timed)
    for _ in range(2):
        reference.check_engine(folder, "tensorrt", BuildOptions(timing_cache=timings))
        assert timings.stat().st_size
    return told


@pytest.mark.gpu
def test_an_engine_of_kept_timings_scores_as_the_reference(
    reference: Reference, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless_installed("tensorrt")
    told = check_timing_cache(reference, folder, monkeypatch)
    tell("tensorrt", "fp16, one timing cache for two builds", "\n".join(told))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "provider"),
    [("onnx-cuda", "CUDAExecutionProvider"), ("onnx-tensorrt", "TensorrtExecutionProvider")],
)
def test_onnxruntime_on_a_gpu_scores_as_the_reference(
    reference: Reference, folder: Path, name: str, provider: str
) -> None:
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(
            f"onnxruntime {onnxruntime.__version__} has no {provider}; for {name} install "
            "onnxruntime-gpu in its place."
        )
    # Few, for each longer batch makes the TensorRT provider build anew.
    rows = [row for row, text in enumerate(reference.texts) if text and row % 8 == 0]
    # TF32 is off: by an option of the CUDA provider, and the TensorRT provider has this alone.
    tf32 = {"NVIDIA_TF32_OVERRIDE": "0"} if name == "onnx-tensorrt" else {}
    tell(name, "fp32", reference.check_apart(folder, name, rows, tf32))


@pytest.mark.gpu
def test_something_ran_on_the_gpu() -> None:
    assert RAN, "No runtime scored on a GPU in this run; the tests above say why."


@pytest.fixture
def recorded(
    exported: Path, tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> Reference:
    """Of a predictor whose engines are for a recording GPU."""
    pytest.importorskip("tensorrt_rtx")
    folder = shutil.copytree(exported, tmp_path / "predictor")
    Gpu(OnnxCore(folder / "model.onnx", 1)).put_in_place(monkeypatch)
    monkeypatch.setattr("pars_export.runtimes.is_installed", lambda package: True)
    return Reference.of(folder)


# Not for later versions: TensorRT-RTX lacks the runtime that such an engine brings.
@pytest.mark.parametrize("option", OPTIONS[1:], ids=str)
def test_how_an_option_is_checked_without_a_gpu(
    recorded: Reference, option: Mapping[str, Any]
) -> None:
    check_option(recorded, recorded.folder, option)


# TensorRT-RTX warns that a timing cache does nothing for it.
@pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
def test_how_a_timing_cache_is_checked_without_a_gpu(
    recorded: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = check_timing_cache(recorded, recorded.folder, monkeypatch)
    pattern = r"built in \d+\.\d s, [1-9][\d,]* bytes of timings"
    assert [bool(re.fullmatch(pattern, each)) for each in told] == [True, True]


def test_how_a_process_of_its_own_is_checked_without_a_gpu(exported: Path) -> None:
    told = Reference.of(exported).check_apart(exported, "onnx", range(0, 64, 8), {})
    lines = told.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["batch 1", "batch 16", "batch 64"]
    assert all(re.search(r"torch on the CPU .* ms, onnx .* ms$", line) for line in lines)
