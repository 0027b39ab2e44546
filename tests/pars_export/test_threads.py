"""A predictor keeps to its threads where the machine has more CPUs than that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pars_export.artifact import Manifest, write_predictor
from pars_export.inputs import InputSpec
from pars_export.parity import builtin_texts
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.student import TOKENIZER, WEIGHTS
from pars_export.words import WordTokenizer, train_tokenizer
from pars_model.student import StudentModule, StudentShape

_CHILD = """
import sys, time
from pars_export import Predictor
folder, runtime = sys.argv[1:]
texts = [f"Tell {n} tales of the sea, one after another, and do not stop. " * 6 for n in range(64)]
predictor = Predictor.load(folder, runtime=runtime)
predictor.score(texts)
wall, used = time.perf_counter(), time.process_time()
while time.perf_counter() - wall < 1:
    predictor.score(texts)
print((time.process_time() - used) / (time.perf_counter() - wall))
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of full size, whose products numpy's library would share out."""
    spec, content = InputSpec(128, "head_tail"), train_tokenizer(builtin_texts(), 300)
    tokenizer = WordTokenizer(content, spec)
    module = StudentModule(
        StudentShape(), tokenizer.vocab_size, tokenizer.read_all(["a", "b c"])[1]
    )
    folder = tmp_path_factory.mktemp("threads") / "student"
    manifest = Manifest(kind="student", input=spec, engines={"student": {"file": WEIGHTS}})
    write_predictor(folder, manifest, {TOKENIZER: content, WEIGHTS: arrays_bytes(module.arrays())})
    return folder


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("runtime", ["openvino", "onnx", "onnx-int8", "torch", "student"])
def test_one_thread_is_one_core(engines: Path, student: Path, runtime: str) -> None:
    """No environment variable tells the libraries so; a busy machine only lowers what is used."""
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    free = {name: value for name, value in os.environ.items() if name not in libraries}
    folder = student if runtime == "student" else engines
    found = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), runtime],
        env=free,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 1.2
