"""The scorer process: token ids in, expected response lengths out.

Started by :mod:`pars_vllm.launch` as ``python -m pars_vllm.scorer_worker FD NOTE PARENT OPTIONS``.
It ends when its socket is closed, when its parent dies, or when it is killed. It imports no vLLM,
and torch only where the predictor's runtime is torch; it never writes prompt text anywhere.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pars_export.errors import ParsError
from pars_export.facts import Facts
from pars_export.inputs import text_of
from pars_export.predictor import Predictor
from pars_vllm import protocol
from pars_vllm.arrival import unpack
from pars_vllm.prompt import learn, parse
from pars_vllm.tokenizer import PromptTokenizer, TokenizerSource, decoded, load_tokenizer

BATCH = 32
"""Prompts scored together; they are sorted by length first, so that little is padded."""
DRAIN = 512
"""Prompts taken in before a round of batches."""
GAP = " ... "
"""Stands for the middle of a prompt too long to be sent."""


@dataclass(frozen=True)
class WorkerOptions:
    """What the scorer process is told at its start."""

    predictor: str
    predictor_sha256: str
    tokenizer: TokenizerSource
    runtime: str = "auto"
    threads: int = 1
    cpus: tuple[int, ...] = field(default=())
    niceness: int = 0
    reads: tuple[str, ...] = ()
    """Facts (`pars_export.facts`) that the predictor reads beside the text."""

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerOptions:
        """What ``to_json`` wrote."""
        value = json.loads(text)
        value["tokenizer"] = TokenizerSource(**value["tokenizer"])
        value["cpus"] = tuple(value["cpus"])
        value["reads"] = tuple(value["reads"])
        return cls(**value)


class Reading(NamedTuple):
    """What a predictor gets of a prompt."""

    text: str
    facts: Facts | None = None
    """None where it reads the text alone."""
    as_it_is: bool = False
    """Whether the template could not be taken off."""


class PromptReader:
    """Token ids to the text a predictor was trained on."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._learn()

    def _learn(self) -> None:
        # Some templates tell the model today's date, so what they put around a turn lasts a day.
        self._day = date.today()
        self._delimiters = learn(decoded(self._tokenizer))

    @property
    def knows_template(self) -> bool:
        """Whether the chat template can be taken off."""
        return self._delimiters is not None

    def text(self, prompt: protocol.Prompt) -> str:
        """The text of a prompt; its template, if it has one, taken off."""
        return self.read(prompt).text

    def read(self, prompt: protocol.Prompt) -> Reading:
        """The text of a prompt and, where the engine sent any, the facts known beside it."""
        text, tools = self._text_and_tools(prompt)
        if not prompt.known:
            return Reading(text, as_it_is=tools is None)
        return Reading(text, replace(unpack(prompt.known), tools=tools), tools is None)

    def _text_and_tools(self, prompt: protocol.Prompt) -> tuple[str, bool | None]:
        """The text, and whether tools are offered; None where the template cannot be taken off."""
        if date.today() != self._day:
            self._learn()
        if not prompt.tail:
            templated = self._tokenizer.decode(prompt.head)
        else:
            ends = (self._tokenizer.decode(prompt.head), self._tokenizer.decode(prompt.tail))
            templated = GAP.join(ends)
        parsed = parse(templated, self._delimiters) if self._delimiters is not None else None
        if parsed is None:
            if prompt.tail:
                return GAP.join((self._tokenizer.raw(prompt.head), ends[1])), None
            return self._tokenizer.raw(prompt.head), None
        messages, tools = parsed
        return text_of(messages=messages, tools=tools or None), bool(tools)


def run(connection: socket.socket, at_work: int, options: WorkerOptions) -> None:
    """Load the predictor, say so, and score what comes until the socket is closed.

    ``at_work``: file descriptor of the memory for :func:`pars_vllm.protocol.note_at_work`.
    """
    try:
        reader = PromptReader(load_tokenizer(options.tokenizer))
        predictor = Predictor.load(
            Path(options.predictor),
            runtime=options.runtime,
            threads=options.threads,
            sha256=options.predictor_sha256,
        )
    except Exception as error:  # noqa: BLE001  # libraries fail in every way
        connection.send(protocol.FATAL + _why(error).encode(errors="replace")[:2000])
        return
    # From here on prompts are read. Native code in a panic writes what it had at hand, which could
    # be one of them; what is ours to say goes by frames.
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    connection.send(protocol.READY + (b"1" if reader.knows_template else b"0"))
    try:
        while True:
            frames = [inbox.get()]
            while len(frames) < DRAIN and not inbox.empty():
                frames.append(inbox.get())
            prompts = [protocol.decode_request(frame) for frame in frames]
            _score(connection, at_work, predictor, reader, prompts)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # noqa: BLE001  # nobody reads a traceback from here
        connection.send(protocol.FATAL + f"it ended by a {type(error).__name__}".encode())


def _why(error: Exception) -> str:
    """What kept the predictor from being loaded; no prompt was read yet that it could quote."""
    if isinstance(error, ParsError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"the predictor cannot be loaded ({type(error).__name__}: {first})"


def _receive(connection: socket.socket, inbox: queue.SimpleQueue[bytes]) -> None:
    # A thread of its own: it keeps the engine's hand-over from filling up while a batch is scored,
    # and it sees the parent's end of the socket close even then.
    with contextlib.suppress(ConnectionResetError):  # closed with our answers still unread
        while frame := connection.recv(protocol.MAX_FRAME):
            inbox.put(frame)
    os._exit(0)


def _score(
    connection: socket.socket,
    at_work: int,
    predictor: Predictor,
    reader: PromptReader,
    prompts: Sequence[protocol.Prompt],
) -> None:
    _score_together(
        connection, at_work, predictor, reader, [prompt for prompt in prompts if not prompt.alone]
    )
    for prompt in prompts:
        if prompt.alone:
            _score_together(connection, at_work, predictor, reader, [prompt])


def _score_together(
    connection: socket.socket,
    at_work: int,
    predictor: Predictor,
    reader: PromptReader,
    prompts: Sequence[protocol.Prompt],
) -> None:
    known: list[tuple[Reading, bytes]] = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        # Noted before they are read: one whose reading kills us must not be sent for ever.
        protocol.note_at_work(at_work, [prompt.digest for prompt in batch])
        for prompt in batch:
            try:
                known.append((reader.read(prompt), prompt.digest))
            # Also a panic of native code, which is no Exception. Its text could quote the prompt.
            except BaseException as error:  # noqa: BLE001
                _report(connection, [prompt.digest], error)
    known.sort(key=lambda pair: len(pair[0].text))
    for start in range(0, len(known), BATCH):
        _score_batch(connection, at_work, predictor, known[start : start + BATCH])


def _score_batch(
    connection: socket.socket,
    at_work: int,
    predictor: Predictor,
    batch: Sequence[tuple[Reading, bytes]],
) -> None:
    digests = [digest for _, digest in batch]
    protocol.note_at_work(at_work, digests)
    try:
        texts = [reading.text for reading, _ in batch]
        facts = [reading.facts for reading, _ in batch if reading.facts is not None]
        scores = predictor.score(texts, facts) if facts else predictor.score(texts)
        tokens = predictor.expected_tokens(scores)
    except BaseException as error:  # noqa: BLE001  # as above
        if len(batch) == 1:
            _report(connection, digests, error)
        else:  # one bad prompt must not take its neighbours' scores away
            for pair in batch:
                _score_batch(connection, at_work, predictor, [pair])
        return
    answers = [
        protocol.Score(digest, float(score), float(length), reading.as_it_is)
        for (reading, digest), score, length in zip(batch, scores, tokens, strict=True)
    ]
    wrong = sum(not math.isfinite(a.tokens) and not math.isnan(a.score) for a in answers)
    if wrong:
        connection.send(protocol.encode_failed(digests, "NotFinite"))
        return
    connection.send(protocol.encode_scores(answers))


def _report(connection: socket.socket, digests: list[bytes], error: BaseException) -> None:
    reason = type(error).__name__
    connection.send(protocol.encode_failed(digests, reason))


def _settle_in(options: WorkerOptions, parent: int) -> None:
    """Nice, bound to its CPUs, and gone when the parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends us
    if sys.platform == "linux":
        import ctypes

        # The kernel's own guard: holds even while native code computes and holds the interpreter.
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if options.cpus:
            os.sched_setaffinity(0, options.cpus)
    if os.getppid() != parent:
        sys.exit(0)
    os.nice(options.niceness)


def main(arguments: Sequence[str]) -> None:
    """Entry point: FD of the socket and of the note, the parent's process id, options as JSON."""
    connection = socket.socket(fileno=int(arguments[0]))
    options = WorkerOptions.from_json(arguments[3])
    _settle_in(options, int(arguments[2]))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the engine is gone
        run(connection, int(arguments[1]), options)


if __name__ == "__main__":
    main(sys.argv[1:])
