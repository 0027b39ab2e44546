"""Safetensors files that nobody would write."""

from __future__ import annotations

import json
import struct


def forged(header: object, data: bytes = b"") -> bytes:
    """A file with this header, as bytes or plain JSON, and whatever follows it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of_bfloat16(name: str, size: int) -> bytes:
    """A file of one array of a type that numpy lacks."""
    entry = {"dtype": "BF16", "shape": [size], "data_offsets": [0, 2 * size]}
    return forged({name: entry}, bytes(2 * size))
