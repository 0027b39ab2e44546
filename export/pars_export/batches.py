"""Which texts are scored together: of like length, so that hardly any padding is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchPlan:
    """Limits of a micro-batch."""

    tokens: int = 2048
    """Most token ids in a micro-batch, padding included; bounds memory and the longest wait."""
    rows: int = 64
    """Most texts in a micro-batch."""
    padding: float = 0.125
    """Largest share of padding. On a CPU a padded token costs what a real one does, and larger
    batches gain little, so a batch ends where the next text would pad it further."""
    step: int = 1
    """Lengths count as the next multiple of it, for a runtime that pads to such ones itself."""


def micro_batches(lengths: Sequence[int], plan: BatchPlan) -> Iterator[list[int]]:
    """Indices of the texts of each micro-batch, shortest texts first.

    Every index appears once. A text longer than ``plan.tokens`` gets a batch of its own.
    """
    batch: list[int] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = -(-lengths[index] // plan.step) * plan.step
        padded = length * (len(batch) + 1)
        wasted = padded - real - length
        if batch and (
            padded > plan.tokens or len(batch) >= plan.rows or wasted > plan.padding * padded
        ):
            yield batch
            batch, real = [], 0
        batch.append(index)
        real += length
    if batch:
        yield batch


def padded(
    ids: Sequence[Sequence[int]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask, both (n, longest), of rows of different lengths."""
    width = max(map(len, ids))
    input_ids = np.full((len(ids), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.int64)
    for row, found in enumerate(ids):
        input_ids[row, : len(found)] = found
        mask[row, : len(found)] = 1
    return input_ids, mask
