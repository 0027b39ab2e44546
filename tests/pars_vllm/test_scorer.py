"""The real scorer process: what it answers, and everything that may go wrong with it."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from processes import scorer_processes
from tokenizers import Tokenizer

from pars_export.artifact import folder_sha256
from pars_export.table import write_length_predictor, write_table_predictor
from pars_vllm import protocol
from pars_vllm.metrics import Counters
from pars_vllm.scorer import _FAILURES_IN_A_ROW, Limits, Scorer
from pars_vllm.scorer_worker import BATCH, WorkerOptions
from pars_vllm.tokenizer import TokenizerSource

pytestmark = pytest.mark.usefixtures("no_orphans")
WAIT = 60.0

Make = Callable[..., Scorer]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def ids(tokenizer_folder: Path) -> Callable[[str], list[int]]:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))

    def encode(content: str) -> list[int]:
        text = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            f"Face<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
        )
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode


@pytest.fixture
def make(tmp_path: Path, tokenizer_folder: Path) -> Iterator[Make]:
    made: list[Scorer] = []

    def build(
        lengths: dict[str, float] | None = None, folder: Path | None = None, **limits: Any
    ) -> Scorer:
        if folder is None:
            folder = tmp_path / "table"
            write_table_predictor(folder, lengths or {})
        options = WorkerOptions(
            str(folder), folder_sha256(folder), TokenizerSource(str(tokenizer_folder))
        )
        scorer = Scorer(options, Limits(**limits), Counters())
        made.append(scorer)
        return scorer

    yield build
    for scorer in made:
        scorer.close()


def until(condition: Callable[[], object], scorer: Scorer) -> list[tuple[str, float | None]]:
    """Poll until the condition holds; what was answered meanwhile."""
    answers = []
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        answers += scorer.poll()
        time.sleep(0.01)
    return answers + scorer.poll()


def forbid(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_answers_by_the_text_without_template(make: Make, ids: Callable[[str], list[int]]) -> None:
    scorer = make({"How long?": 17.0, " spaces and\nlines ": 3.0})
    scorer.submit("a", ids("How long?"))
    scorer.submit("b", ids(" spaces and\nlines "))
    scorer.submit("c", ids("never seen"))
    assert scorer.wait(WAIT)
    assert dict(scorer.poll()) == {"a": 17.0, "b": 3.0, "c": None}
    assert scorer.knows_template


def test_prompts_scored_with_their_template_are_counted(
    make: Make, ids: Callable[[str], list[int]], tmp_path: Path
) -> None:
    write_length_predictor(tmp_path / "length")
    scorer = make(folder=tmp_path / "length")
    scorer.submit("a", ids("hello"))
    assert scorer.wait(WAIT)
    assert scorer.counters.as_they_are == 0
    plain = tiny.byte_ids("no turn of any chat")
    scorer.submit("b", plain)
    scorer.submit("c", plain)
    assert scorer.wait(WAIT)
    scorer.submit("d", plain)  # from the cache
    assert [name for name, _ in scorer.poll()] == ["a", "b", "c", "d"]
    assert scorer.counters.as_they_are == 1


def test_all_prompts_are_counted_where_the_template_is_not_learned(
    tmp_path: Path, ids: Callable[[str], list[int]]
) -> None:
    tokenizer = tiny.write_tokenizer(tmp_path / "base", chat_template=None)
    write_length_predictor(tmp_path / "length")
    options = WorkerOptions(
        str(tmp_path / "length"),
        folder_sha256(tmp_path / "length"),
        TokenizerSource(str(tokenizer)),
    )
    scorer = Scorer(options, Limits(), Counters())
    try:
        for index in range(5):
            scorer.submit(f"r{index}", ids("x" * index))
        scorer.submit("long", tiny.byte_ids("y" * 3000))
        assert scorer.wait(WAIT)
        assert not scorer.knows_template
        assert scorer.counters.as_they_are == len(scorer.poll()) == 6
    finally:
        scorer.close()


def test_same_prompt_is_sent_once_and_then_known(
    make: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make({"twice": 5.0})
    scorer.submit("a", ids("twice"))
    scorer.submit("b", ids("twice"))
    assert scorer.pending == 1
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("a", 5.0), ("b", 5.0)]
    scorer.submit("c", ids("twice"))
    assert scorer.pending == 0
    assert scorer.poll() == [("c", 5.0)]
    assert scorer.counters.cached == 1
    scorer.submit("d", ids("never seen"))
    assert scorer.wait(WAIT)
    scorer.submit("e", ids("never seen"))  # that it is unknown is an answer, too
    assert scorer.poll() == [("d", None), ("e", None)]
    assert scorer.counters.cached == 2


def test_pending_and_cache_are_bounded(make: Make, ids: Callable[[str], list[int]]) -> None:
    scorer = make({}, max_pending=3, cache_entries=2)
    for index in range(5):
        scorer.submit(f"r{index}", ids(f"prompt {index}"))
    assert scorer.pending == 3
    assert scorer.counters.not_sent == 2
    assert scorer.wait(WAIT)
    assert len(scorer.poll()) == 3
    assert len(scorer._cache) == 2


def test_many_requests_with_one_prompt_are_bounded_too(
    make: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make({"same": 4.0}, max_pending=3)
    for index in range(5):
        scorer.submit(f"r{index}", ids("same"))
    assert scorer.pending == 1
    assert scorer.counters.not_sent == 2
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("r0", 4.0), ("r1", 4.0), ("r2", 4.0)]
    scorer.submit("later", ids("other"))  # what was answered awaits nothing any more
    assert scorer.pending == 1


def test_a_burst_larger_than_the_socket_comes_through(
    make: Make, ids: Callable[[str], list[int]]
) -> None:
    texts = [f"{index} " + "x" * 1500 for index in range(600)]
    scorer = make({text: float(index) + 1 for index, text in enumerate(texts)})
    started = time.monotonic()
    for text in texts:
        scorer.submit(text.split()[0], ids(text))
    assert time.monotonic() - started < 20  # it never waits for the scorer
    assert scorer._outbox, "the test shall fill the socket"
    assert scorer.wait(WAIT)
    answers = scorer.poll()
    assert len(answers) == 600
    assert all(tokens == float(name) + 1 for name, tokens in answers)


def test_long_prompts_are_cut_to_their_ends() -> None:
    ids = list(range(100_000))
    digest, frame = protocol.encode_request(ids)
    assert len(frame) < protocol.MAX_FRAME
    prompt = protocol.decode_request(frame)
    assert prompt.digest == digest
    assert list(prompt.head) == ids[: protocol.HEAD_TOKENS]
    assert list(prompt.tail) == ids[-protocol.TAIL_TOKENS :]
    other, _ = protocol.encode_request([*ids[:50_000], 7, *ids[50_000:]])
    assert other != digest  # same ends, another length


def test_killed_process_is_replaced(
    make: Make, ids: Callable[[str], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    scorer = make({"one": 1.0, "two": 2.0})
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


def die(scorer: Scorer) -> None:
    """The process ends, and the loss is noticed."""
    losses = scorer.counters.losses
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.counters.losses > losses, scorer)


def test_one_warning_of_each_loss_until_there_are_scores_again(
    make: Make,
    ids: Callable[[str], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[int], list[str]],
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("pars_vllm.scorer._LAST_BACKOFF_S", 0.01)
    scorer = make({"one": 1.0})
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
    make: Make,
    ids: Callable[[str], list[int]],
    tmp_path: Path,
    tokenizer_folder: Path,
    said: Callable[[int], list[str]],
) -> None:
    write_nan_predictor(tmp_path / "nan", tokenizer_folder)
    scorer = make(folder=tmp_path / "nan")
    assert scorer.wait(WAIT)
    for name in ("a", "b"):
        scorer.submit(name, ids(name))
        until(lambda: not scorer.pending, scorer)
    die(scorer)
    failed, lost = said(logging.WARNING)
    assert "could not score" in failed
    assert "is lost" in lost


def test_the_process_outlives_the_thread_that_asked_for_it(
    make: Make, ids: Callable[[str], list[int]]
) -> None:
    made: list[Scorer] = []

    def start() -> None:
        made.append(make({"one": 1.0}))
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
    scorer.submit("a", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("a", 1.0)]
    assert scorer.counters.losses == scorer.counters.restarts == 1


def test_no_thread_to_start_it_from_is_a_lost_scorer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    scorer = make()
    assert scorer.lost
    assert scorer.poll() == []


def test_hanging_process_is_replaced(make: Make, ids: Callable[[str], list[int]]) -> None:
    scorer = make({"one": 1.0}, score_timeout_s=1.0)
    assert scorer.wait(WAIT)
    first = scorer.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    scorer.submit("a", ids("one"))
    until(lambda: scorer.lost, scorer)
    until(lambda: scorer.recovered, scorer)
    scorer.submit("b", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("b", 1.0)]


def test_folder_that_changed_under_way(make: Make, tmp_path: Path) -> None:
    scorer = make({"one": 1.0})
    assert scorer.wait(WAIT)
    (tmp_path / "table" / "table.json").write_text("{}")
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.counters.losses == 2, scorer)  # killed; then it refuses to start
    assert not scorer.ready


def lose_at_work(scorer: Scorer, prompt: list[int]) -> None:
    """The process dies at work on a prompt, here by our own hand; then wait for another."""
    assert scorer.wait(WAIT)
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGSTOP)
    scorer.submit("a", prompt)
    protocol.note_at_work(scorer._launcher.at_work, [protocol.encode_request(prompt)[0]])
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.lost, scorer)
    scorer.lost = False
    until(lambda: scorer.ready, scorer)


@pytest.mark.parametrize("memory", ["there", "missing", "forbidden"])
def test_prompt_that_kills_is_not_sent_for_ever(
    make: Make,
    ids: Callable[[str], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    if memory == "missing":
        monkeypatch.delattr(os, "memfd_create")
    elif memory == "forbidden":
        monkeypatch.setattr(os, "memfd_create", forbid)
    scorer = make({"poison": 1.0, "good": 2.0})
    for _ in range(2):
        lose_at_work(scorer, ids("poison"))
    scorer.submit("a", ids("poison"))
    scorer.submit("b", ids("good"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("b", 2.0)]


def test_a_loss_strikes_once_also_if_the_next_process_has_noted_nothing(
    make: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make({"poison": 1.0})
    digest, _ = protocol.encode_request(ids("poison"))
    lose_at_work(scorer, ids("poison"))
    assert protocol.read_at_work(scorer._launcher.at_work) == []
    assert scorer._strikes == {digest: 1}
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGSTOP)
    scorer.submit("a", ids("poison"))
    assert digest in scorer._in_flight
    die(scorer)
    assert scorer._strikes == {digest: 1}


def test_nothing_waits_while_another_process_is_started(
    make: Make, ids: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    scorer = make({"one": 1.0})
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
    scorer.submit("b", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("b", 1.0)]
    assert scorer.counters.losses == scorer.counters.restarts == 1


def test_closed_while_another_process_is_started(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    scorer = make()
    assert scorer.wait(WAIT)
    die(scorer)
    until(lambda: scorer._starting is not None, scorer)
    scorer.close()
    assert scorer_processes() == []
    assert scorer.pid is None


@pytest.mark.parametrize("missing", ["subprocess.Popen", "socket.socketpair"])
def test_a_process_that_cannot_be_started_is_a_lost_scorer(
    make: Make, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(missing, forbid)
        scorer = make()
        assert scorer.lost
    assert scorer.wait(WAIT)  # another try


POISONED = """
import os, signal, time
from pars_export.runtimes.length import LengthScorer

score = LengthScorer.score

def poisoned(self, texts):
    if "slow" in texts:
        time.sleep(1)  # the others arrive meanwhile
    if "poison 00" in texts:
        {end}
    return score(self, texts)

LengthScorer.score = poisoned
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)"])
def test_a_prompt_that_kills_or_hangs_does_not_take_its_neighbours_scores_for_ever(
    make: Make,
    ids: Callable[[str], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(POISONED.format(end=end))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    write_length_predictor(tmp_path / "length")
    scorer = make(folder=tmp_path / "length", score_timeout_s=3.0)
    assert scorer.wait(WAIT)
    scorer.submit("slow", ids("slow"))
    slow, _ = protocol.encode_request(ids("slow"))
    until(lambda: protocol.read_at_work(scorer._launcher.at_work) == [slow], scorer)
    texts = ["poison 00", *(f"prompt {index:02}" for index in range(1, BATCH))]
    answers: dict[str, float | None] = {}
    noted: list[int] = []
    for _ in range(3):
        for text in texts:
            if text not in answers:
                scorer.submit(text, ids(text))
        found = until(lambda: scorer.lost or not scorer.pending, scorer)
        answers |= {name: tokens for name, tokens in found if name in texts}
        if scorer.lost:
            noted.append(len(scorer._strikes))
            scorer.lost = False
            until(lambda: scorer.ready, scorer)
    digest, _ = protocol.encode_request(ids("poison 00"))
    assert noted[0] == BATCH  # all were at work
    assert list(answers) == texts[1:]
    assert scorer._strikes == {digest: 2}
    assert scorer.counters.losses == 2
    not_sent = scorer.counters.not_sent
    scorer.submit("poison 00", ids("poison 00"))
    assert scorer.counters.not_sent == not_sent + 1
    assert not scorer.pending


def test_without_any_place_for_the_note_there_are_scores_but_no_strikes(
    make: Make, ids: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "memfd_create", forbid)
    monkeypatch.setattr("tempfile.TemporaryFile", forbid)
    scorer = make({"one": 1.0})
    lose_at_work(scorer, ids("one"))
    assert not scorer._strikes
    scorer.submit("b", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("b", 1.0)]


def test_a_note_that_cannot_be_written_harms_neither_process(
    make: Make, ids: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")  # as on a full disk
    monkeypatch.setattr("pars_vllm.launch._memory", lambda: full.open("r+b", buffering=0))
    scorer = make({"one": 1.0})
    scorer.submit("a", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("a", 1.0)]
    assert scorer.counters.losses == 0
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.lost, scorer)
    assert scorer.counters.losses == 1


def test_a_note_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    with (tmp_path / "note").open("wb", buffering=0) as memory:
        protocol.note_at_work(memory.fileno(), [b"d" * protocol.DIGEST_BYTES])
        assert protocol.read_at_work(memory.fileno()) == []


def test_long_and_short_predictor(
    make: Make, ids: Callable[[str], list[int]], tmp_path: Path
) -> None:
    write_length_predictor(tmp_path / "length")
    scorer = make(folder=tmp_path / "length")
    scorer.submit("long", ids("x" * 400))
    scorer.submit("short", ids("x" * 40))
    assert scorer.wait(WAIT)
    assert dict(scorer.poll()) == {"long": pytest.approx(100.0), "short": pytest.approx(10.0)}


def write_nan_predictor(folder: Path, tokenizer_folder: Path) -> None:
    """An exported model whose scores are no numbers."""
    from onnx import TensorProto, helper

    from pars_export.artifact import Manifest, write_predictor
    from pars_export.calibration import Calibration

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch"])
    nodes = [
        helper.make_node("Add", ["input_ids", "attention_mask"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "nan", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_predictor(
        folder,
        Manifest(
            kind="encoder",
            engines={"onnx": {"file": "model.onnx", "opset": 17}},
            calibration=Calibration((0.0, 1.0), (1.0, 100.0)),
        ),
        {
            "model.onnx": model.SerializeToString(),
            "config.json": json.dumps({"encoder": {}, "pooling": "cls", "outputs": 1}),
            "tokenizer.json": tokenizer_folder / "tokenizer.json",
        },
    )


def test_predictor_that_gives_nan_is_a_failure(
    make: Make, ids: Callable[[str], list[int]], tmp_path: Path, tokenizer_folder: Path
) -> None:
    write_nan_predictor(tmp_path / "nan", tokenizer_folder)
    scorer = make(folder=tmp_path / "nan")
    assert scorer.wait(WAIT)
    for index in range(_FAILURES_IN_A_ROW):
        assert not scorer.lost
        scorer.submit(f"r{index}", ids(f"prompt {index}"))
        until(lambda: not scorer.pending, scorer)
    assert scorer.counters.failures == _FAILURES_IN_A_ROW
    assert scorer.lost  # so many in a row: the process is given up


def test_a_prompt_that_always_fails_is_not_sent_for_ever(
    make: Make, ids: Callable[[str], list[int]], tmp_path: Path, tokenizer_folder: Path
) -> None:
    write_nan_predictor(tmp_path / "nan", tokenizer_folder)
    scorer = make(folder=tmp_path / "nan")
    assert scorer.wait(WAIT)
    for index in range(4):
        scorer.submit(f"r{index}", ids("the same prompt"))
        until(lambda: not scorer.pending, scorer)
    assert scorer.counters.failures == 2
    assert scorer.counters.not_sent == 4
    assert not scorer.lost


def test_ids_that_no_tokenizer_gives_are_no_error(make: Make) -> None:
    scorer = make()
    scorer.submit("r", [-1])
    assert scorer.counters.not_sent == 1
    assert not scorer.pending


def test_a_frame_that_cannot_be_read_is_a_lost_scorer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make()
    assert scorer.wait(WAIT)
    monkeypatch.setattr(scorer, "_frames", lambda: iter([protocol.SCORES + b"torn"]))
    scorer._take_in()
    assert scorer.lost
    assert scorer.poll() == []


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


def test_close_leaves_nothing(make: Make) -> None:
    scorer = make({})
    assert len(scorer_processes()) == 1
    scorer.close()
    assert scorer_processes() == []
    assert scorer.poll() == []
    assert scorer.pid is None


def test_niceness_and_cpus_are_the_operators(tmp_path: Path, tokenizer_folder: Path) -> None:
    write_table_predictor(tmp_path / "table", {})
    cpu = min(os.sched_getaffinity(0))
    options = WorkerOptions(
        str(tmp_path / "table"),
        folder_sha256(tmp_path / "table"),
        TokenizerSource(str(tokenizer_folder)),
        cpus=(cpu,),
        niceness=7,
    )
    assert WorkerOptions.from_json(options.to_json()) == options
    assert json.loads(options.to_json())["niceness"] == 7
    scorer = Scorer(options, Limits(), Counters())
    try:
        assert scorer.wait(WAIT)
        assert scorer.pid is not None
        assert os.sched_getaffinity(scorer.pid) == {cpu}
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, scorer.pid) == min(ours + 7, 19)
    finally:
        scorer.close()
