"""The engine's end of the scorer process: hand over, take in, watch, replace.

No call of a running engine waits: sends and receives do not block, a prompt that does not fit into
the socket waits in a bounded outbox for the next call, and another process is started in a thread
of its own. Only the first start, ``wait`` and ``close`` wait. Whatever goes wrong with the process,
the caller only learns that scores are gone (:attr:`Scorer.lost`) or that they may be asked for
again (:attr:`Scorer.recovered`).
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import subprocess
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from pars_vllm import protocol
from pars_vllm.launch import Launcher
from pars_vllm.metrics import Counters
from pars_vllm.scorer_worker import WorkerOptions

logger = logging.getLogger("vllm.pars")

_FIRST_BACKOFF_S = 1.0
_LAST_BACKOFF_S = 60.0
_LOOK_S = 0.1
"""Between two looks at the socket when no answer is awaited."""
_FAILURES_IN_A_ROW = 32
"""Failed prompts, with none scored between them, after which the process is replaced."""
_STRIKES = 2
"""Times that a prompt may fail, or be at work when the process is lost; then it is not sent.

After the first it is scored alone, so that only the one to blame for a loss gets the last."""
_STRIKES_KEPT = 10_000
_MOST_ANSWERS = 256
"""Answers given by one ``poll``: what a step of the engine does with them must stay short."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the hand-over; see the settings of the same names."""

    max_pending: int = 10_000
    score_timeout_s: float = 30.0
    start_timeout_s: float = 120.0
    cache_entries: int = 65_536


class ScoreSource(Protocol):
    """What the scheduler asks of :class:`Scorer`; a replay answers in its own time instead."""

    lost: bool
    recovered: bool

    @property
    def outstanding(self) -> int:
        """Requests whose answer is awaited, or not yet taken by ``poll``."""

    def submit(self, request_id: str, token_ids: Sequence[int], known: bytes = b"", /) -> None:
        """Ask for the expected length of a prompt, of which more may be known."""

    def poll(self) -> list[tuple[str, float | None]]:
        """(request id, expected tokens or None) of what was answered; some may come later."""

    def close(self) -> None:
        """No answer is wanted any more."""


class Scorer:
    """Expected response lengths of prompts, some time after they were asked for.

    ``clock`` gives seconds and is only used to notice a hang and to space restarts.
    """

    def __init__(
        self,
        options: WorkerOptions,
        limits: Limits,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = counters
        self.lost = False
        """Scores were lost since the flag was last cleared; the caller clears it."""
        self.recovered = False
        """A replaced process is ready since the flag was last cleared; the caller clears it."""
        self.ready = False
        """The process has loaded the predictor."""
        self.knows_template: bool | None = None
        """Whether the chat template can be taken off; None before the process is ready."""
        self._limits = limits
        self._clock = clock
        self._launcher = Launcher(options)
        self._starting: Future[tuple[subprocess.Popen[bytes], socket.socket]] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ended: list[subprocess.Popen[bytes]] = []
        self._closed = False
        self._down = False
        self._warned_of_loss = False  # until there are scores again
        self._warned_of_failure = False
        self._backoff = _FIRST_BACKOFF_S
        self._next_start = 0.0
        self._next_look = 0.0
        self._progress = 0.0
        self._failures = 0
        self._waiters: dict[bytes, list[str]] = {}
        self._awaiting = 0  # requests in _waiters
        self._outbox: deque[tuple[bytes, bytes]] = deque()
        self._in_flight: set[bytes] = set()
        self._strikes: OrderedDict[bytes, int] = OrderedDict()
        self._cache: OrderedDict[bytes, float | None] = OrderedDict()
        self._answers: deque[tuple[str, float | None]] = deque()
        self._start()
        self._take_over()  # waits; no engine runs yet

    @property
    def pid(self) -> int | None:
        """Process id of the scorer process, if there is one."""
        return self._process.pid if self._process is not None else None

    @property
    def pending(self) -> int:
        """Prompts that an answer is awaited for."""
        return len(self._waiters)

    @property
    def outstanding(self) -> int:
        """Requests whose answer is awaited, or not yet taken by ``poll``."""
        return self._awaiting + len(self._answers)

    def submit(self, request_id: str, token_ids: Sequence[int], known: bytes = b"") -> None:
        """Ask for the expected length of a prompt; the answer comes by ``poll``, or never.

        ``known``: what `pars_vllm.arrival.pack` made, where the predictor reads it.
        """
        if self._down or self.outstanding >= self._limits.max_pending:
            self.counters.not_sent += 1  # before any work: this may be a flood
            return
        try:
            digest, frame = protocol.encode_request(token_ids, known)
        except (OverflowError, TypeError):  # ids that no tokenizer gives
            self.counters.not_sent += 1
            return
        if digest in self._cache:
            self._cache.move_to_end(digest)
            self.counters.cached += 1
            self._answers.append((request_id, self._cache[digest]))
            return
        if digest in self._waiters:
            self._waiters[digest].append(request_id)
            self._awaiting += 1
            return
        strikes = self._strikes.get(digest, 0)
        if strikes >= _STRIKES:
            self.counters.not_sent += 1
            return
        if strikes:  # one of those at work together was to blame: let it be alone with its next one
            frame = protocol.alone(frame)
        self._waiters[digest] = [request_id]
        self._awaiting += 1
        self._outbox.append((digest, frame))
        if self._socket is not None and len(self._outbox) == 1:
            self._send()

    def poll(self) -> list[tuple[str, float | None]]:
        """(request id, expected tokens or None) of what was answered, the oldest ones first."""
        if self._starting is not None:
            if self._starting.done():
                self._take_over()
        elif self._socket is None:
            if not self._closed and self._clock() >= self._next_start:
                self._start()
        elif self._in_flight or self._outbox or not self.ready or self._clock() >= self._next_look:
            # A look costs a system call; with nothing awaited, only a death could be seen.
            self._next_look = self._clock() + _LOOK_S
            self._take_in()
            if self._outbox and self._socket is not None:
                self._send()
            if self._in_flight or not self.ready:
                self._watch()
        return [self._answers.popleft() for _ in range(min(_MOST_ANSWERS, len(self._answers)))]

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process is ready and has answered everything; False if it has not.

        For replays and tests; the scheduler itself never waits. The answers come by ``poll``.
        """
        end = time.monotonic() + timeout_s
        while True:
            answers = self.poll()
            self._answers.extendleft(reversed(answers))
            if self.ready and not self._waiters:
                return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._socket is not None:
                select.select([self._socket], [], [], min(left, 0.05))
            else:
                time.sleep(min(left, 0.05))

    def close(self) -> None:
        """End the process and wait until it is gone."""
        self._closed = True
        self._take_over()
        if self._process is not None:
            self._drop()
        for process in self._ended:
            process.wait()
        self._ended = []
        self._launcher.close()

    # ---- the process

    def _start(self) -> None:
        try:
            self._starting = self._launcher.start()
        except Exception as error:  # noqa: BLE001  # no memory, say: it must not reach the engine
            self._could_not_start(error)

    def _take_over(self) -> None:
        """The process that is being started, if one is, is ours now; waits until it is there."""
        starting, self._starting = self._starting, None
        if starting is None:
            return
        try:
            self._process, self._socket = starting.result()
        except Exception as error:  # noqa: BLE001  # as above
            self._could_not_start(error)
            return
        self._progress = self._clock()
        if self._down:
            self.counters.restarts += 1

    def _could_not_start(self, error: Exception) -> None:
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        self._lose(f"it could not be started ({why})")

    def _drop(self) -> None:
        """Kill the process; it is waited for later."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._ended.append(self._process)
            self._process = None
        self._ended = [process for process in self._ended if process.poll() is None]

    def _lose(self, why: str) -> None:
        """Fail open: forget what was asked, and try a new process after a while."""
        self._drop()
        at_work = protocol.read_at_work(self._launcher.at_work)
        protocol.note_at_work(self._launcher.at_work, [])  # the next process has none yet
        self._strike([digest for digest in at_work if digest in self._in_flight])
        self.counters.losses += 1
        self.counters.not_sent += self.outstanding
        self._waiters.clear()
        self._awaiting = 0
        self._outbox.clear()
        self._in_flight.clear()
        self._answers.clear()
        self._failures = 0
        was_ready, self.ready = self.ready, False
        self.lost = True
        self._down = True
        self._next_start = self._clock() + self._backoff
        # Whoever read that it is ready shall not be left with that.
        again = logger.info if was_ready else logger.debug
        log = again if self._warned_of_loss else logger.warning
        log(
            "PARS: no scores, because the scorer process is lost: %s. Requests go in arrival "
            "order; another process is started in %.0f s.",
            why,
            self._backoff,
        )
        self._warned_of_loss = True
        self._backoff = min(2 * self._backoff, _LAST_BACKOFF_S)

    def _strike(self, digests: Sequence[bytes]) -> None:
        for digest in digests:
            self._strikes[digest] = self._strikes.get(digest, 0) + 1
            self._strikes.move_to_end(digest)
        while len(self._strikes) > _STRIKES_KEPT:
            self._strikes.popitem(last=False)

    def _watch(self) -> None:
        limit = self._limits.score_timeout_s if self.ready else self._limits.start_timeout_s
        if self._clock() - self._progress > limit:
            doing = "answered" if self.ready else "become ready"
            self._lose(f"it has not {doing} for {limit:g} s")

    # ---- the frames

    def _send(self) -> None:
        assert self._socket is not None
        while self._outbox:
            digest, frame = self._outbox[0]
            try:
                self._socket.send(frame)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(f"it cannot be reached ({error.strerror})")
                return
            self._outbox.popleft()
            if not self._in_flight and self.ready:
                self._progress = self._clock()
            self._in_flight.add(digest)

    def _frames(self) -> Iterator[bytes]:
        while self._socket is not None:
            try:
                frame = self._socket.recv(protocol.MAX_FRAME)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(f"it cannot be reached ({error.strerror})")
                return
            if not frame:
                status = self._process.poll() if self._process is not None else None
                self._lose("it ended" if status is None else f"it ended with status {status}")
                return
            yield frame
            if self.ready and not self._in_flight:
                return  # nothing more to come: one system call less

    def _take_in(self) -> None:
        for frame in self._frames():
            self._progress = self._clock()
            try:
                self._take(frame)
            except (struct.error, ValueError):  # whatever went wrong over there stays there
                self._lose("it sent a frame that cannot be read")
                return

    def _take(self, frame: bytes) -> None:
        kind = frame[:1]
        if kind == protocol.SCORES:
            self._scored(protocol.decode_scores(frame))
        elif kind == protocol.READY:
            self._is_ready(frame)
        elif kind == protocol.FAILED:
            self._failed(*protocol.decode_failed(frame))
        elif kind == protocol.FATAL:
            self._lose(frame[1:].decode(errors="replace").rstrip("."))

    def _is_ready(self, frame: bytes) -> None:
        self.ready = True
        self.knows_template = frame[1:] == b"1"
        self.recovered = self._down
        self._down = False
        logger.info(
            "PARS: the scorer process is ready (pid %s)%s.",
            self.pid,
            ""
            if self.knows_template
            else "; prompts are scored with their chat template, whose delimiters were not found",
        )

    def _scored(self, scores: Sequence[protocol.Score]) -> None:
        self._failures = 0
        self._backoff = _FIRST_BACKOFF_S
        self._warned_of_loss = False
        for digest, _, expected, as_it_is in scores:
            self.counters.as_they_are += as_it_is
            tokens = None if expected != expected else expected  # NaN: not known
            self._remember(digest, tokens)
            self._strikes.pop(digest, None)
            self._answers += [(name, tokens) for name in self._answered(digest)]

    def _answered(self, digest: bytes) -> list[str]:
        """The requests that awaited this prompt; they do no more."""
        self._in_flight.discard(digest)
        waiting = self._waiters.pop(digest, [])
        self._awaiting -= len(waiting)
        return waiting

    def _remember(self, digest: bytes, tokens: float | None) -> None:
        self._cache[digest] = tokens
        while len(self._cache) > self._limits.cache_entries:
            self._cache.popitem(last=False)

    def _failed(self, digests: Sequence[bytes], reason: str) -> None:
        self._failures += len(digests)
        self.counters.failures += 1
        self._strike(digests)
        self.counters.not_sent += sum(len(self._answered(digest)) for digest in digests)
        if not self._warned_of_failure:
            self._warned_of_failure = True
            logger.warning(
                "PARS: the predictor could not score %d prompts (%s); they keep their place by "
                "arrival.",
                len(digests),
                reason,
            )
        if self._failures >= _FAILURES_IN_A_ROW:
            self._lose(f"{self._failures} prompts in a row failed ({reason})")
