"""Joining what the processes of one training run have."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import numpy as np
import torch


def rows_of_all_processes(
    module: pl.LightningModule, columns: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The columns of every process one after another, each prompt once; the same in all.

    Args:
        module: which knows the other processes.
        columns: of one length, the last of them numbers of prompts.
    """
    mine = torch.from_numpy(np.stack([each.astype(np.float64) for each in columns], axis=1))
    sizes = module.all_gather(torch.tensor(len(mine), device=module.device)).tolist()
    padded = mine.new_zeros(max(sizes), mine.shape[1])
    padded[: len(mine)] = mine
    found = module.all_gather(padded.to(module.device)).cpu().numpy()
    parts: list[np.ndarray] = []
    for rows, size in zip(found, sizes, strict=True):
        known = np.concatenate([part[:, -1] for part in parts] or [np.empty(0)])
        parts.append(rows[:size][~np.isin(rows[:size, -1], known)])
    table = np.concatenate(parts)
    return [table[:, at].astype(each.dtype) for at, each in enumerate(columns)]
