"""What the engine core and the scorer process say to each other: small frames, nothing pickled.

One frame is one datagram of a SOCK_SEQPACKET socket pair, so it arrives whole or not at all.
"""

from __future__ import annotations

import hashlib
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

REQUEST, READY, BATCH, SCORES, FAILED, FATAL = b"Q", b"R", b"B", b"S", b"F", b"X"
"""to the scorer: Q one prompt; from it: R loaded, B starts on these prompts, S scores of these,
F could not score these, X cannot start (a sentence)."""

_REQUEST = struct.Struct("<16sII")
_SCORE = struct.Struct("<16sff")


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, or its two ends."""

    digest: bytes
    head: tuple[int, ...]
    tail: tuple[int, ...] = ()
    """Empty where ``head`` is the whole prompt."""


class Score(NamedTuple):
    """The answer for one prompt; NaN where the predictor does not know it."""

    digest: bytes
    score: float
    tokens: float
    """Expected response length."""


def encode_request(token_ids: Sequence[int]) -> tuple[bytes, bytes]:
    """(digest, frame) of a prompt; at most HEAD_TOKENS + TAIL_TOKENS ids are looked at."""
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
        body, digest_size=DIGEST_BYTES, salt=total.to_bytes(8, "little")
    ).digest()
    return digest, REQUEST + _REQUEST.pack(digest, len(ids), tail) + body


def decode_request(frame: bytes) -> Prompt:
    """The prompt of a Q frame."""
    digest, count, tail = _REQUEST.unpack_from(frame, 1)
    ids = array("I")
    ids.frombytes(frame[1 + _REQUEST.size :])
    assert len(ids) == count
    return Prompt(digest, tuple(ids[: count - tail]), tuple(ids[count - tail :]))


def encode_scores(scores: Iterable[Score]) -> bytes:
    """An S frame."""
    return SCORES + b"".join(_SCORE.pack(s.digest, s.score, s.tokens) for s in scores)


def decode_scores(frame: bytes) -> list[Score]:
    """The scores of an S frame."""
    return [Score._make(fields) for fields in _SCORE.iter_unpack(frame[1:])]


def encode_digests(kind: bytes, digests: Iterable[bytes], reason: str = "") -> bytes:
    """A B or F frame: which prompts, and why (the name of an error, never prompt text)."""
    named = reason.encode()[:200]
    return kind + struct.pack("<H", len(named)) + named + b"".join(digests)


def decode_digests(frame: bytes) -> tuple[list[bytes], str]:
    """(prompts, reason) of a B or F frame."""
    (length,) = struct.unpack_from("<H", frame, 1)
    start = 3 + length
    digests = [frame[at : at + DIGEST_BYTES] for at in range(start, len(frame), DIGEST_BYTES)]
    return digests, frame[3:start].decode()
