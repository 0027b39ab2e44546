from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from recording_gpu import RecordingDevice, RecordingEngine

from pars_export import ConfigError, InputError, Predictor, PredictorError, inputs, runtimes
from pars_export.artifact import folder_sha256, read_manifest, write_predictor
from pars_export.engines import ENGINES
from pars_export.parity import EXACT, builtin_texts
from pars_export.runtimes import openvino_engine
from pars_export.runtimes.encoded import EncodedScorer, load_tokenizer
from pars_export.runtimes.tensorrt import TensorRtCore
from pars_export.runtimes.torch_eager import TorchCore

TEXTS = builtin_texts()
TOLERANCE: dict[str, Any] = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module", params=["onnx", "torch"])
def predictor(request: pytest.FixtureRequest, exported: Path) -> Predictor:
    return Predictor.load(exported, runtime=request.param)


def test_scores_come_in_the_order_of_the_texts(predictor: Predictor) -> None:
    scores = predictor.score(TEXTS)
    assert scores.shape == (len(TEXTS),)
    assert scores.dtype == np.float32
    assert np.std(scores) > 1e-3, "the tiny model must tell texts apart for this test to mean much"
    shuffled = np.random.default_rng(0).permutation(len(TEXTS))
    again = predictor.score([TEXTS[index] for index in shuffled])
    assert_allclose(again, scores[shuffled], **TOLERANCE)


def test_a_prompt_alone_and_in_any_batch_has_one_score(predictor: Predictor) -> None:
    together = predictor.score(TEXTS)
    alone = np.concatenate([predictor.score([text]) for text in TEXTS])
    assert_allclose(alone, together, **TOLERANCE)


def test_runtimes_agree(exported: Path) -> None:
    first, second = (Predictor.load(exported, runtime=name) for name in ("onnx", "torch"))
    assert_allclose(first.score(TEXTS), second.score(TEXTS), **TOLERANCE)


@pytest.mark.parametrize("runtime", ["openvino", "onnx", "onnx-bf16", "onnx-int8", "torch"])
def test_odd_inputs(engines: Path, runtime: str) -> None:
    predictor = Predictor.load(engines, runtime=runtime)
    assert predictor.score([]).shape == (0,)
    assert predictor.score([]).dtype == np.float32
    assert predictor.expected_tokens([]).shape == (0,)
    scores = predictor.score(["", "\ud800 lone", "\0", "a " * 1_000_000, "x" * 3_000_000])
    assert np.isfinite(scores).all()
    assert predictor.score(("a", "b")).shape == (2,)


@pytest.mark.parametrize("texts", ["one text", b"bytes"])
def test_one_text_is_no_list_of_texts(predictor: Predictor, texts: str | bytes) -> None:
    with pytest.raises(InputError, match="list of texts"):
        predictor.score(texts)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(InputError, match="Text 1 must be a string, found NoneType"):
        predictor.score(["a", None])  # type: ignore[list-item]  # what is refused


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=80), max_size=12))
def test_any_texts_score_as_they_do_alone(exported: Path, texts: list[str]) -> None:
    predictor = _cached(exported)
    scores = predictor.score(texts)
    for text, score in zip(texts, scores, strict=True):
        assert_allclose(predictor.score([text])[0], score, **TOLERANCE)


_loaded: dict[str, Predictor] = {}


def _cached(folder: Path) -> Predictor:
    return _loaded.setdefault(str(folder), Predictor.load(folder))


def test_expected_tokens_follow_the_calibration(predictor: Predictor) -> None:
    scores = predictor.score(TEXTS)
    expected = predictor.expected_tokens(TEXTS)
    assert_array_equal(expected, predictor.expected_tokens(scores))  # of texts or of their scores
    assert_array_equal(np.argsort(scores, kind="stable"), np.argsort(expected, kind="stable"))
    assert_allclose(predictor.expected_tokens([0.0, 0.5, -50.0]), [100, 550, 1])


def loaded(engines: Path, halved: Path, name: str, threads: int = 1) -> Predictor:
    """A runtime of the engines, `onnx` with an n-gram half (`half`), or the default predictor."""
    if name == "default":
        return Predictor.default(threads)
    folder, runtime = (halved, "onnx") if name == "half" else (engines, name)
    return Predictor.load(folder, runtime, threads=threads)


@pytest.mark.parametrize(
    "runtime", ["openvino", "onnx", "onnx-bf16", "onnx-int8", "torch", "half", "default"]
)
def test_many_threads_at_once(engines: Path, halved: Path, runtime: str) -> None:
    predictor = loaded(engines, halved, runtime)
    wanted = predictor.score(TEXTS[:16])
    # Every thread has a batch of its own, which may change a score as far as the engine promises.
    bound = ENGINES[runtime].bound if runtime in ENGINES else EXACT
    close: dict[str, Any] = {"rtol": 0, "atol": bound.batch * float(wanted.std())}
    barrier = threading.Barrier(64)

    def call(index: int) -> tuple[list[int], NDArray[np.float32]]:
        barrier.wait()
        rows = [(index + step) % 16 for step in range(3)]
        return rows, predictor.score([TEXTS[row] for row in rows])

    with ThreadPoolExecutor(64) as pool:
        for rows, found in pool.map(call, range(64)):
            assert_allclose(found, wanted[rows], **close)


def test_one_call_computes_at_a_time(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(exported)
    scorer: Any = predictor._scorer
    inside: list[int] = []
    most = []

    class Watched:
        survives_fork = True

        def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)  # whoever does not wait comes in now
            inside.pop()
            found: NDArray[np.float32] = scorer.score(texts)
            return found

    monkeypatch.setattr(predictor, "_scorer", Watched())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(predictor.score, [["a"]] * 16))
    assert most == [1] * 16


def test_no_tokenizer_sees_more_of_a_text_than_can_matter(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(exported)
    seen = []
    clean = inputs.clean

    def watched(text: str) -> str:
        seen.append(len(text))
        return clean(text)

    monkeypatch.setattr(inputs, "clean", watched)
    predictor.score(["x" * 5_000_000])
    most = 2 * predictor.manifest.input.characters + 1
    assert seen
    assert max(seen) <= most < 100_000


@pytest.mark.parametrize("runtime", ["onnx", "onnx-int8"])
def test_onnxruntime_leaves_nothing_that_identifies_the_machine(
    engines: Path, tmp_path: Path, runtime: str
) -> None:
    # Its telemetry asks for connections below Python, and keeps a database in the user's cache.
    code = (
        "import sys\n"
        "from pars_export import Predictor\n"
        "Predictor.load(sys.argv[1], runtime=sys.argv[2]).score(['a', 'b'])"
    )
    command = [sys.executable, "-c", code, str(engines), runtime]
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(command, env=kept | home, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_onnx_and_torch_where_onnxruntime_is_missing(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Predictor.load(exported).runtime == "onnx"
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "onnxruntime" else found(name, *rest),
    )
    assert Predictor.load(exported).runtime == "torch"
    with pytest.raises(PredictorError, match="onnxruntime must be installed"):
        Predictor.load(exported, runtime="onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *rest: None)
    with pytest.raises(PredictorError, match="onnxruntime or torch must be installed"):
        Predictor.load(exported)


def test_settings_are_checked(exported: Path) -> None:
    with pytest.raises(ConfigError, match=r"no runtime 'tensorflow'; choose one of auto, openvino"):
        Predictor.load(exported, runtime="tensorflow")
    with pytest.raises(PredictorError, match=r"cannot run on 'table'; it holds onnx, torch"):
        Predictor.load(exported, runtime="table")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="threads is"):
            Predictor.load(exported, threads=threads)  # type: ignore[arg-type]  # refused
    with pytest.raises(PredictorError, match="pinned"):
        Predictor.load(exported, sha256="0" * 64)


def test_what_is_known_of_a_predictor(exported: Path) -> None:
    predictor = Predictor.load(str(exported), threads=2)
    assert predictor.path == exported
    assert predictor.manifest.metrics == {"tau": 0.5, "nothing": None}
    assert Predictor.load(exported, sha256=predictor.sha256).sha256 == predictor.sha256
    assert "runtime='onnx', threads=2" in repr(predictor)


def test_no_calibration_no_tokens(exported: Path, tmp_path: Path) -> None:
    manifest = dataclasses.replace(read_manifest(exported), calibration=None)
    files = {name: exported / name for name in manifest.files}
    write_predictor(tmp_path / "bare", manifest, files)
    predictor = Predictor.load(tmp_path / "bare")
    assert np.isfinite(predictor.score(["a"])).all()
    with pytest.raises(PredictorError, match="it has no calibration"):
        predictor.expected_tokens(["a"])


def test_torch_leaves_the_threads_of_the_process_alone(exported: Path) -> None:
    import torch

    before = torch.get_num_threads()
    Predictor.load(exported, runtime="torch", threads=before + 1).score(["a"])
    assert torch.get_num_threads() == before


def _in_child(work: Callable[[], bytes]) -> tuple[int, bytes]:
    """Exit status and output of ``work()`` in a forked child; a hang is killed."""
    import select
    import signal

    read, wrote = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            os.write(wrote, work())
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child must end here, come what may
            os.write(wrote, repr(error).encode())
            os._exit(1)
    os.close(wrote)
    try:
        ready, _, _ = select.select([read], [], [], 60)
        if not ready:
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1], os.read(read, 100_000)
    finally:
        os.close(read)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("runtime", "threads"),
    [
        ("onnx", 1),
        ("onnx", 2),
        ("onnx-bf16", 1),
        ("onnx-int8", 1),
        ("onnx-int8", 2),
        ("openvino", 1),
        ("torch", 1),
        ("half", 1),
        ("default", 1),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_loads_again_even_when_the_lock_was_held(
    engines: Path, halved: Path, runtime: str, threads: int
) -> None:
    predictor = loaded(engines, halved, runtime, threads)
    wanted = predictor.score(TEXTS[:4])
    with predictor._lock:  # as if another thread were in the middle of scoring
        status, output = _in_child(lambda: predictor.score(TEXTS[:4]).tobytes())
    assert status == 0, output
    assert_allclose(np.frombuffer(output, dtype=np.float32), wanted, **TOLERANCE)
    assert_allclose(predictor.score(TEXTS[:4]), wanted, **TOLERANCE)


@contextmanager
def _busy(work: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """While another thread is in ``work``, at its call of what it is given."""
    inside, done = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        done.wait(60)

    thread = threading.Thread(target=work, args=(wait,))
    thread.start()
    try:
        assert inside.wait(60)
        yield
    finally:
        done.set()
        thread.join()


def _scores(predictor: Predictor) -> bytes:
    return predictor.score(TEXTS[:4]).tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_scores_with_torch_can_score(exported: Path) -> None:
    first, other = (Predictor.load(exported, runtime="torch") for _ in range(2))
    wanted = first.score(TEXTS[:4])
    core = cast(TorchCore, cast(EncodedScorer, other._ready())._core)
    network = core._network

    def score(wait: Callable[[], None]) -> None:
        def slow(*rows: Any) -> Any:
            wait()
            return network(*rows)

        core._network = slow
        other.score(TEXTS[:4])

    with _busy(score):
        for predictor in (first, other):
            status, output = _in_child(partial(_scores, predictor))
            assert status == 0, output
            assert_allclose(np.frombuffer(output, dtype=np.float32), wanted, **TOLERANCE)
    assert_allclose(other.score(TEXTS[:4]), wanted, **TOLERANCE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_imports_openvino_can_import_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = openvino_engine.openvino().__version__
    real = importlib.import_module

    def import_(wait: Callable[[], None]) -> None:
        def slow(name: str) -> Any:
            wait()
            return real(name)

        monkeypatch.setattr(importlib, "import_module", slow)
        openvino_engine.openvino()

    def in_child() -> bytes:
        monkeypatch.undo()
        return str(openvino_engine.openvino().__version__).encode()

    with _busy(import_):
        assert _in_child(in_child) == (0, version.encode())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_what_has_threads_of_its_process_says_that_it_cannot_go_on_after_a_fork(
    engines: Path, runtime: str
) -> None:
    predictor = Predictor.load(engines, runtime=runtime, threads=2)
    predictor.score(TEXTS[:4])
    status, output = _in_child(lambda: predictor.score(TEXTS[:4]).tobytes())
    assert status != 0
    assert b"PredictorError" in output
    assert b"with 2 threads cannot go on after a fork" in output
    assert b"the method `spawn`, or use one thread." in output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_gpu_runtime_is_not_told_to_use_one_thread_after_a_fork(
    exported: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    device, shapes = RecordingDevice(), [(64, 64)]
    core = TensorRtCore("e", RecordingEngine(device, shapes), shapes, device)
    scorer = EncodedScorer(load_tokenizer(exported, read_manifest(exported)), core)
    monkeypatch.setattr(runtimes, "choices", lambda *_: ["tensorrt"])
    monkeypatch.setattr(runtimes, "load", lambda *_: scorer)
    sha256 = folder_sha256(exported)
    predictor = Predictor.load(exported, "tensorrt", threads=threads, sha256=sha256)
    predictor.score(TEXTS[:4])
    status, output = _in_child(lambda: predictor.score(TEXTS[:4]).tobytes())
    assert status != 0
    assert b"the runtime 'tensorrt' cannot go on after a fork; start" in output
    assert b"the method `spawn`." in output
    predictor.score(TEXTS[:4])  # the parent goes on


def printed(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'lightning', "
    "'onnx', 'scipy')));"
)
"""Python: these cannot be imported from here on."""


def test_importing_loads_no_model_code() -> None:
    check = (
        "import sys, json, pars_export, pars_export.predictor, pars_export.export, "
        "pars_export.score, pars_export.table, pars_export.artifact;"
        "print(json.dumps([m for m in ('torch', 'lightning', 'transformers', 'onnxruntime', "
        "'onnx', 'safetensors', 'scipy', 'pars_model') if m in sys.modules]))"
    )
    assert json.loads(printed(check)) == []


def test_scoring_with_onnx_needs_neither_torch_nor_transformers(exported: Path) -> None:
    check = (
        "from pars_export import Predictor;"
        "p = Predictor.load(sys.argv[1]); print(p.runtime, p.score(['a', 'what is']).shape)"
    )
    assert printed(WITHOUT + check, str(exported)) == "onnx (2,)"


def test_the_tensorrt_runtime_needs_neither_torch_nor_transformers() -> None:
    check = (
        "import pars_export.predictor, pars_export.runtimes.tensorrt as runtime;"
        "print(runtime.load.__name__, runtime.load_rtx.__name__)"
    )
    assert printed(WITHOUT + check) == "load load_rtx"


@pytest.mark.parametrize("runtime", ["openvino", "onnx", "onnx-int8", "torch"])
def test_loading_and_scoring_open_no_connection(engines: Path, runtime: str) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from pars_export import Predictor\n"
        "print(len(Predictor.load(sys.argv[1], runtime=sys.argv[2]).score(['a', 'b'])))"
    )
    # The variable that keeps the hub's library offline is what a user may not have set.
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", code, str(engines), runtime]
    found = subprocess.run(command, env=online, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == "2", found.stderr


def test_a_file_that_the_manifest_does_not_name_is_never_read(
    exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "more")
    (tmp_path / "more" / "modeling.py").write_text("raise SystemExit('it was read')")
    (tmp_path / "more" / "notes.txt").write_text("of the user's own")
    wanted = Predictor.load(exported).score(TEXTS[:4])
    assert_array_equal(Predictor.load(tmp_path / "more").score(TEXTS[:4]), wanted)


def test_a_copied_folder_scores_the_same(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    assert_array_equal(
        Predictor.load(tmp_path / "copy").score(TEXTS), Predictor.load(exported).score(TEXTS)
    )


def test_a_package_that_cannot_be_imported_leaves_the_next_runtime(
    exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('no libstdc++')\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pars_export import Predictor, PredictorError\n"
        "print(Predictor.load(sys.argv[2]).runtime)\n"
        "try: Predictor.load(sys.argv[2], runtime='onnx')\n"
        "except PredictorError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(exported)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    took, told = found.stdout.splitlines()
    assert took == "torch"
    assert told.startswith("The package onnxruntime cannot be imported (no libstdc++); install it")
    assert f"{told} The runtime 'torch' is taken instead of 'onnx'." in found.stderr


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_scoring_stays_on_the_cpus_it_is_given(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = os.sched_getaffinity(0)
    cpu = min(mine)
    predictor = Predictor.load(exported, cpus=[cpu])
    scorer = predictor._ready()
    seen: list[set[int]] = []

    def score(texts: Sequence[str]) -> NDArray[np.float32]:
        seen.append(os.sched_getaffinity(0))
        return np.zeros(len(texts), np.float32)

    monkeypatch.setattr(scorer, "score", score)
    predictor.score(["what"])
    assert seen == [{cpu}]
    assert os.sched_getaffinity(0) == mine, "the caller's own CPUs are given back"
    with pytest.raises(ConfigError, match="cannot be bound to them"):
        Predictor.load(exported, cpus=[4095])
