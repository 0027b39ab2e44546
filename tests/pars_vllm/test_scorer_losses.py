"""The real scorer process dies, hangs, cannot be started or sends what nobody understands."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import scorer_processes
from scorers import WAIT, Make, die, forbid, until, write_nan_predictor

from pars_export.artifact import folder_sha256
from pars_export.errors import PredictorError
from pars_export.table import write_table_predictor
from pars_vllm import protocol, scorer_worker
from pars_vllm.scorer import Scorer
from pars_vllm.scorer_worker import WorkerOptions
from pars_vllm.tokenizer import TokenizerSource

pytestmark = pytest.mark.usefixtures("no_orphans")

SCRIPT = """
import sys, time
from pars_vllm.scorer import Limits, Scorer
from pars_vllm.scorer_worker import WorkerOptions
from pars_vllm.metrics import Counters
scorer = Scorer(WorkerOptions.from_json(sys.argv[1]), Limits(), Counters())
assert scorer.wait(60)
print(scorer.pid, flush=True)
time.sleep(600)
"""


def serves(scorer: Scorer, one: list[int]) -> None:
    """The scorer of ``{"one": 1.0}`` answers."""
    scorer.submit("another", one)
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("another", 1.0)]


def test_killed_process_is_replaced(
    make_scorer: Make, ids: Callable[[str], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    scorer = make_scorer({"one": 1.0, "two": 2.0})
    assert scorer.wait(WAIT)
    first = scorer.pid
    assert first is not None
    caplog.set_level(logging.WARNING, "vllm.pars")
    logging.getLogger("vllm").propagate = True
    os.kill(first, signal.SIGKILL)
    until(lambda: scorer.lost, scorer)
    assert not scorer.ready
    scorer.submit("a", ids("one"))  # while it is down: no score, no harm
    assert scorer.counters.not_sent == 1
    until(lambda: scorer.recovered, scorer)
    assert scorer.pid != first
    scorer.submit("b", ids("two"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("b", 2.0)]
    assert scorer.counters.losses == scorer.counters.restarts == 1


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    caplog.set_level(logging.DEBUG, "vllm.pars")
    logging.getLogger("vllm").propagate = True

    def at_least(level: int) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno >= level]

    return at_least


def test_one_warning_of_each_loss_until_there_are_scores_again(
    make_scorer: Make,
    ids: Callable[[str], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[int], list[str]],
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("pars_vllm.scorer._LAST_BACKOFF_S", 0.01)
    scorer = make_scorer({"one": 1.0})
    assert scorer.wait(WAIT)
    with monkeypatch.context() as patch:
        patch.setattr(scorer._launcher, "start", forbid)
        die(scorer)
        until(lambda: scorer.counters.losses >= 4, scorer)  # three restarts that fail
    assert len(said(logging.WARNING)) == 1
    until(lambda: scorer.ready, scorer)
    die(scorer)  # no scores since: no warning, but the last word is not that it is ready
    assert len(said(logging.WARNING)) == 1
    assert "is lost" in said(logging.INFO)[-1]
    until(lambda: scorer.ready, scorer)
    scorer.submit("a", ids("one"))
    assert scorer.wait(WAIT)
    die(scorer)
    assert len(said(logging.WARNING)) == 2
    assert "is lost" in said(logging.WARNING)[-1]


def test_a_prompt_that_failed_does_not_swallow_the_warning_of_a_loss(
    make_scorer: Make,
    ids: Callable[[str], list[int]],
    tmp_path: Path,
    tokenizer_folder: Path,
    said: Callable[[int], list[str]],
) -> None:
    write_nan_predictor(tmp_path / "nan", tokenizer_folder)
    scorer = make_scorer(folder=tmp_path / "nan")
    assert scorer.wait(WAIT)
    for name in ("a", "b"):
        scorer.submit(name, ids(name))
        until(lambda: not scorer.pending, scorer)
    die(scorer)
    failed, lost = said(logging.WARNING)
    assert "could not score" in failed
    assert "is lost" in lost


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PredictorError("It is /no\udcff/such folder."), "It is /no?/such folder."),
        (
            OSError("libtbb.so.12: cannot open it\nat line 3"),
            "the predictor cannot be loaded (OSError: libtbb.so.12: cannot open it)",
        ),
        (KeyError(), "the predictor cannot be loaded (KeyError: )"),
    ],
)
def test_whatever_keeps_the_predictor_from_loading_is_told_in_a_sentence(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pars_vllm.scorer_worker.Predictor.load", fail)
    options = WorkerOptions("nowhere", "0" * 64, TokenizerSource(str(tokenizer_folder)))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        scorer_worker.run(theirs, -1, options)
        assert ours.recv(protocol.MAX_FRAME) == protocol.FATAL + told.encode()


def test_a_runtime_that_does_not_start_leaves_requests_in_arrival_order(
    make_scorer: Make,
    ids: Callable[[str], list[int]],
    tmp_path: Path,
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[int], list[str]],
) -> None:
    write_nan_predictor(tmp_path / "encoder", tokenizer_folder)
    (tmp_path / "broken" / "onnxruntime").mkdir(parents=True)
    broken = tmp_path / "broken" / "onnxruntime" / "__init__.py"
    broken.write_text("raise ImportError('no libstdc++')\n")
    monkeypatch.setattr(sys, "path", [str(broken.parents[1]), *sys.path])  # the process's too
    scorer = make_scorer(folder=tmp_path / "encoder")
    until(lambda: scorer.lost, scorer)
    (warning,) = said(logging.WARNING)
    assert "lost: The package onnxruntime cannot be imported (no libstdc++); install" in warning
    scorer.submit("a", ids("one"))
    assert not scorer.pending
    assert scorer.counters.not_sent == 1


def test_the_process_outlives_the_thread_that_asked_for_it(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    made: list[Scorer] = []

    def start() -> None:
        made.append(make_scorer({"one": 1.0}))
        assert made[0].wait(WAIT)

    def in_a_thread(work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    in_a_thread(start)
    scorer = made[0]
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.lost, scorer)
    in_a_thread(lambda: until(lambda: scorer.ready, scorer))  # a replacement, too
    serves(scorer, ids("one"))
    assert scorer.counters.losses == scorer.counters.restarts == 1


def test_no_thread_to_start_it_from_is_a_lost_scorer(
    make_scorer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    scorer = make_scorer()
    assert scorer.lost
    assert scorer.poll() == []


def test_hanging_process_is_replaced(make_scorer: Make, ids: Callable[[str], list[int]]) -> None:
    scorer = make_scorer({"one": 1.0}, score_timeout_s=1.0)
    assert scorer.wait(WAIT)
    first = scorer.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    scorer.submit("a", ids("one"))
    until(lambda: scorer.lost, scorer)
    until(lambda: scorer.recovered, scorer)
    serves(scorer, ids("one"))


def test_folder_that_changed_under_way(make_scorer: Make, tmp_path: Path) -> None:
    scorer = make_scorer({"one": 1.0})
    assert scorer.wait(WAIT)
    (tmp_path / "table" / "table.json").write_text("{}")
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.counters.losses == 2, scorer)  # killed; then it refuses to start
    assert not scorer.ready


def test_nothing_waits_while_another_process_is_started(
    make_scorer: Make, ids: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    scorer = make_scorer({"one": 1.0})
    assert scorer.wait(WAIT)
    begun, go_on = threading.Event(), threading.Event()
    popen = scorer._launcher._popen

    def slow(connection: int) -> subprocess.Popen[bytes]:
        begun.set()
        assert go_on.wait(WAIT)
        return popen(connection)

    monkeypatch.setattr(scorer._launcher, "_popen", slow)
    die(scorer)
    until(begun.is_set, scorer)
    for _ in range(3):  # would wait for go_on
        scorer.submit("a", ids("one"))
        assert scorer.poll() == []
    assert scorer.pid is None
    assert scorer.counters.restarts == 0
    go_on.set()
    until(lambda: scorer.recovered, scorer)
    serves(scorer, ids("one"))
    assert scorer.counters.losses == scorer.counters.restarts == 1


def test_closed_while_another_process_is_started(
    make_scorer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    scorer = make_scorer()
    assert scorer.wait(WAIT)
    die(scorer)
    until(lambda: scorer._starting is not None, scorer)
    scorer.close()
    assert scorer_processes() == []
    assert scorer.pid is None


@pytest.mark.parametrize("missing", ["subprocess.Popen", "socket.socketpair"])
def test_a_process_that_cannot_be_started_is_a_lost_scorer(
    make_scorer: Make, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(missing, forbid)
        scorer = make_scorer()
        assert scorer.lost
    assert scorer.wait(WAIT)  # another try


def test_no_memory_for_another_process_is_a_lost_scorer(
    make_scorer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen", refuse)
        scorer = make_scorer()
        assert scorer.lost
    assert scorer.wait(WAIT)  # another try


def test_a_frame_that_cannot_be_read_is_a_lost_scorer(
    make_scorer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make_scorer()
    assert scorer.wait(WAIT)
    monkeypatch.setattr(scorer, "_frames", lambda: iter([protocol.SCORES + b"torn"]))
    scorer._take_in()
    assert scorer.lost
    assert scorer.poll() == []


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_when_the_engine_is_killed(
    way: signal.Signals, tmp_path: Path, tokenizer_folder: Path
) -> None:
    write_table_predictor(tmp_path / "table", {})
    options = WorkerOptions(
        str(tmp_path / "table"),
        folder_sha256(tmp_path / "table"),
        TokenizerSource(str(tokenizer_folder)),
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), options.to_json()],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert engine.stdout is not None
    pid = int(engine.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    engine.send_signal(way)
    engine.wait()
    engine.stdout.close()
    end = time.monotonic() + WAIT
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end, "the scorer process outlived its engine"
        time.sleep(0.05)


def test_close_leaves_nothing(make_scorer: Make) -> None:
    scorer = make_scorer({})
    end = time.monotonic() + WAIT
    while not scorer_processes():  # a thread starts it
        assert time.monotonic() < end, "no scorer process was started"
        time.sleep(0.01)
    assert len(scorer_processes()) == 1
    scorer.close()
    assert scorer_processes() == []
    assert scorer.poll() == []
    assert scorer.pid is None
