"""A predictor keeps to its threads where the machine has more CPUs than that."""

from __future__ import annotations

import json
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

_WATCHED = """
import json, os, sys, threading
from pars_export import Predictor
folder, threads, *places = sys.argv[1:]
texts = [f"Tell {n} tales of the sea, one after another, and do not stop. " * 6 for n in range(64)]
found = []

class Watched:
    def __init__(self, request):
        self.request, self.inside = request, False
    def infer(self, feed):
        self.inside = True
        try:
            return self.request.infer(feed)
        finally:
            self.inside = False

def running():
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
            if state == "R" and int(task) != threading.get_native_id():
                yield sorted(os.sched_getaffinity(int(task)))
        except OSError:
            pass

for place in places:
    how, cpus = place[0], [int(cpu) for cpu in place[1:].split(",") if cpu]
    predictor = Predictor.load(folder, "openvino", int(threads), cpus=cpus if how == "=" else ())
    core = predictor._scorer._core
    watched = core.request = Watched(core.request)
    if how == "@":
        os.sched_setaffinity(0, cpus)
    predictor.score(texts)
    seen, stop = [], threading.Event()
    def score():
        while not stop.is_set():
            predictor.score(texts)
    scoring = threading.Thread(target=score)
    scoring.start()
    while len(seen) < 200:
        now = list(running()) if watched.inside else []
        if watched.inside:
            seen += now
    stop.set()
    scoring.join()
    found.append(sorted({tuple(cpus) for cpus in seen}))
print(json.dumps([found, "HWLOC_THISSYSTEM" in os.environ]))
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


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "places", ["=a =b =ab", "=ab =b", "= @b @a"], ids=["narrow first", "wide first", "callers"]
)
def test_openvino_computes_where_each_predictor_may(
    engines: Path, threads: int, places: str
) -> None:
    """`=` are CPUs of a predictor, `@` those that its caller is bound to after loading it."""
    a, b = sorted(os.sched_getaffinity(0))[:2]
    cpus = {"a": [a], "b": [b], "ab": [a, b], "": sorted(os.sched_getaffinity(0))}
    wanted = [cpus[place[1:]] for place in places.split()]
    given = [
        place[0] + ("" if place == "=" else ",".join(map(str, cpus[place[1:]])))
        for place in places.split()
    ]
    command = [sys.executable, "-c", _WATCHED, str(engines), str(threads), *given]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [[[place] for place in wanted], False]
