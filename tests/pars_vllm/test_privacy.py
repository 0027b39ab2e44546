"""Prompt text goes to the scorer process and nowhere else, also where something fails."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pytest
import tiny
from tokenizers import Tokenizer

from pars_export.artifact import folder_sha256
from pars_export.predictor import Predictor
from pars_export.table import write_table_predictor
from pars_vllm import protocol
from pars_vllm.metrics import Counters
from pars_vllm.scorer import Limits, Scorer
from pars_vllm.scorer_worker import PromptReader, WorkerOptions, _score
from pars_vllm.tokenizer import TokenizerSource, load_tokenizer

SECRET = "my secret diagnosis"


def ids_of(folder: Path) -> list[int]:
    return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(SECRET).ids)


def assert_unsaid(said: str, ids: list[int]) -> None:
    for word in (*SECRET.split(), str(ids)[1:-1]):
        assert word not in said


def _options(tmp_path: Path, tokenizer: Path) -> WorkerOptions:
    table = tmp_path / "table"
    return WorkerOptions(str(table), folder_sha256(table), TokenizerSource(str(tokenizer)))


class Quoting:
    """A predictor whose errors quote what it was given, as many libraries' do."""

    def score(self, texts: list[str]) -> list[float]:
        raise ValueError(f"cannot score {texts}")


class Panic(BaseException):
    """What a panic of native code is in Python: no Exception."""


class Panicking:
    """A reader that quotes the prompt as it fails."""

    def read(self, prompt: protocol.Prompt) -> str:
        raise Panic(f"byte index 3 of {SECRET} is not a char boundary")


def test_a_panic_of_native_code_costs_no_more_than_its_own_prompt(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.write_tokenizer(tmp_path)
    digest, frame = protocol.encode_request(ids_of(folder))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, tempfile.TemporaryFile() as memory:
        prompts = [protocol.decode_request(frame)]
        predictor, reader = cast(Predictor, Quoting()), cast(PromptReader, Panicking())
        _score(theirs, memory.fileno(), predictor, reader, prompts)
        answer = ours.recv(protocol.MAX_FRAME)
        # Noted before it is read: if reading it kills the process, it has a strike.
        assert protocol.read_at_work(memory.fileno()) == [digest]
    assert answer[:1] == protocol.FAILED
    assert protocol.decode_failed(answer) == ([digest], "Panic")
    assert_unsaid(repr(answer) + "".join(capfd.readouterr()), ids_of(folder))


def test_an_error_that_quotes_the_prompt_is_told_by_its_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.write_tokenizer(tmp_path)
    reader = PromptReader(load_tokenizer(TokenizerSource(str(folder))))
    _, frame = protocol.encode_request(ids_of(folder))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    prompts = [protocol.decode_request(frame)]
    with ours, theirs, tempfile.TemporaryFile() as memory:
        _score(theirs, memory.fileno(), cast(Predictor, Quoting()), reader, prompts)
        answer = ours.recv(protocol.MAX_FRAME)
    assert answer[:1] == protocol.FAILED
    assert protocol.decode_failed(answer)[1] == "ValueError"
    assert_unsaid(repr(answer) + "".join(capfd.readouterr()), ids_of(folder))


@pytest.mark.usefixtures("no_orphans")
def test_what_native_code_prints_as_it_panics_goes_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker whose predictor writes its prompts to both outputs, below Python."""
    folder = tiny.write_tokenizer(tmp_path / "model")
    write_table_predictor(tmp_path / "table", {SECRET: 5.0})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = f"""
import os, socket
from pars_export.predictor import Predictor
from pars_vllm import scorer_worker
def score(self, texts, facts=None):
    for number in (1, 2):
        os.write(number, "".join(texts).encode())
    raise ValueError
Predictor.score = score
options = scorer_worker.WorkerOptions.from_json({_options(tmp_path, folder).to_json()!r})
with os.fdopen(os.memfd_create("note"), "wb") as memory:
    scorer_worker.run(socket.socket(fileno={theirs.fileno()}), memory.fileno(), options)
"""
    process = subprocess.Popen([sys.executable, "-c", script], pass_fds=[theirs.fileno()])
    with ours:
        theirs.close()
        assert ours.recv(protocol.MAX_FRAME)[:1] == protocol.READY
        ours.send(protocol.encode_request(ids_of(folder))[1])
        assert ours.recv(protocol.MAX_FRAME)[:1] == protocol.FAILED
    process.wait(60)
    assert_unsaid("".join(capfd.readouterr()), ids_of(folder))


@pytest.mark.usefixtures("no_orphans")
def test_neither_process_writes_a_prompt(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Known and unknown prompts, a flood, a killed process; logs at debug level, both outputs."""
    caplog.set_level(logging.DEBUG, "vllm.pars")
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)  # vLLM turns it off
    folder = tiny.write_tokenizer(tmp_path / "model")
    write_table_predictor(tmp_path / "table", {SECRET: 5.0})
    scorer = Scorer(_options(tmp_path, folder), Limits(max_pending=4), Counters())
    ids = ids_of(folder)
    try:
        for index in range(8):
            scorer.submit(f"r{index}", ids + [20] * index)
        scorer.submit("wrong", [-1, *ids])
        assert scorer.wait(60)
        answers = scorer.poll()
        assert ("r0", 5.0) in answers
        assert ("r1", None) in answers
        assert scorer.pid is not None
        os.kill(scorer.pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while not scorer.lost:
            assert time.monotonic() < end
            scorer.submit("again", [*ids, 21])
            scorer.poll()
    finally:
        scorer.close()
    said = caplog.text + "".join(capfd.readouterr()) + str(asdict(scorer.counters))
    assert "the scorer process is lost" in said
    assert_unsaid(said, ids)
