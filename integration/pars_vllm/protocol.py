"""What the engine core and the scorer process say to each other: small frames, nothing pickled.

One frame is one datagram of a SOCK_SEQPACKET socket pair, so it arrives whole or not at all. What
the engine wants to know of a dead scorer alone, the prompts that it had at work, is no frame but a
note in shared memory: it costs the engine nothing until then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

HEAD_TOKENS = 1024
"""Token ids sent of the start of a prompt."""
TAIL_TOKENS = 1024
"""Token ids sent of its end, where it is longer than both together."""
MAX_FRAME = 65_536
DIGEST_BYTES = 16

REQUEST, ALONE, READY, SCORES, FAILED, FATAL = b"Q", b"A", b"R", b"S", b"F", b"X"
"""to the scorer: Q one prompt, A one that is to be scored alone; from it: R loaded, S scores of
these, F could not score these, X cannot start or go on (a sentence)."""

_REQUEST = struct.Struct("<16sII")
_SCORE = struct.Struct("<16sff?")
_COUNT = struct.Struct("<H")


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, or its two ends."""

    digest: bytes
    head: tuple[int, ...]
    tail: tuple[int, ...] = ()
    """Empty where ``head`` is the whole prompt."""
    known: bytes = b""
    """What `pars_vllm.arrival.pack` made; empty where the predictor reads the text alone."""
    alone: bool = False
    """Whether it is to be read and scored alone."""


class Score(NamedTuple):
    """The answer for one prompt; NaN where the predictor does not know it."""

    digest: bytes
    score: float
    tokens: float
    """Expected response length."""
    as_it_is: bool = False
    """Whether the prompt's template could not be taken off."""


def encode_request(token_ids: Sequence[int], known: bytes = b"") -> tuple[bytes, bytes]:
    """(digest, frame) of a prompt; at most HEAD_TOKENS + TAIL_TOKENS ids are looked at.

    ``known``: what else its score hangs on, 16 bytes at most.
    """
    total = len(token_ids)
    if total > HEAD_TOKENS + TAIL_TOKENS:
        ids = array("I", token_ids[:HEAD_TOKENS])
        ids.extend(token_ids[total - TAIL_TOKENS :])
        tail = TAIL_TOKENS
    else:
        ids = array("I", token_ids)
        tail = 0
    body = ids.tobytes()
    # The length keeps apart two long prompts that only differ in the middle they do not send.
    digest = hashlib.blake2b(
        body, digest_size=DIGEST_BYTES, salt=total.to_bytes(8, "little"), person=known
    ).digest()
    return digest, REQUEST + _REQUEST.pack(digest, len(ids), tail) + body + known


def alone(frame: bytes) -> bytes:
    """The A frame of a Q frame's prompt."""
    return ALONE + frame[1:]


def decode_request(frame: bytes) -> Prompt:
    """The prompt of a Q or A frame."""
    digest, count, tail = _REQUEST.unpack_from(frame, 1)
    ids = array("I")
    end = 1 + _REQUEST.size + count * ids.itemsize
    ids.frombytes(frame[1 + _REQUEST.size : end])
    assert len(ids) == count
    head, tail_ids = tuple(ids[: count - tail]), tuple(ids[count - tail :])
    return Prompt(digest, head, tail_ids, frame[end:], frame[:1] == ALONE)


def encode_scores(scores: Iterable[Score]) -> bytes:
    """An S frame."""
    return SCORES + b"".join(_SCORE.pack(*score) for score in scores)


def decode_scores(frame: bytes) -> list[Score]:
    """The scores of an S frame."""
    return [Score._make(fields) for fields in _SCORE.iter_unpack(frame[1:])]


def encode_failed(digests: Iterable[bytes], reason: str) -> bytes:
    """An F frame: which prompts, and why (the name of an error, never prompt text)."""
    named = reason.encode()[:200]
    return FAILED + _COUNT.pack(len(named)) + named + b"".join(digests)


def decode_failed(frame: bytes) -> tuple[list[bytes], str]:
    """(prompts, reason) of an F frame."""
    (length,) = _COUNT.unpack_from(frame, 1)
    start = 1 + _COUNT.size + length
    return _split(frame[start:]), frame[1 + _COUNT.size : start].decode()


def note_at_work(memory: int, digests: Sequence[bytes]) -> None:
    """Write into the file descriptor ``memory`` which prompts are at work from now on.

    Where it cannot be written, as on a full disk, the note stays as it was.
    """
    with contextlib.suppress(OSError):
        # One call: whoever is killed has written all of it or nothing.
        os.pwrite(memory, _COUNT.pack(len(digests)) + b"".join(digests), 0)


def read_at_work(memory: int) -> list[bytes]:
    """The prompts of the last :func:`note_at_work`; none before the first, or if unreadable."""
    try:
        head = os.pread(memory, _COUNT.size, 0)
        if len(head) < _COUNT.size:
            return []
        return _split(os.pread(memory, _COUNT.unpack(head)[0] * DIGEST_BYTES, _COUNT.size))
    except OSError:
        return []


def _split(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
