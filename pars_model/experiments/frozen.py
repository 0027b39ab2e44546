"""Frozen features: what the pretrained encoder says of a prompt, computed once and kept.

A head trained on them takes seconds where a fine-tuning takes minutes, so that objectives and
filters can be compared over seeds. What a head gains need not be what a fine-tuning gains: the
recipe's table has that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pars_export.files import sha256_file
from pars_model.batches import pad
from pars_model.experiments.cells import Cell
from pars_model.experiments.workbench import Workbench
from pars_model.kept import Rows, in_steps
from pars_model.lengths import LengthTable, read_lengths, text_fraction
from pars_model.module import ResponseLengthRanker

LAYERS = (2, 4, 6)
"""Layers of MiniLM whose states, each the mean over tokens, make the features."""
ENCODER, MAX_LENGTH = "embedded:minilm", 128
TUNE, JUDGE = 0.1, 0.2
"""Shares of prompts that choose learning rates and epochs, and that are judged on."""


@dataclass(frozen=True)
class FrozenCell:
    """A cell with the features of its prompts.

    Attributes:
        table: lengths of one LLM.
        features: (prompts, width).
        sha256: digest of the table's file.
        path: that file.
    """

    table: LengthTable
    features: Rows
    sha256: str
    path: Path

    def part(self, seed: int) -> NDArray[np.str_]:
        """train, val or judge per prompt: another split by the text's hash for each seed."""
        fraction = np.array([text_fraction(f"{seed} {text}") for text in self.table.prompts])
        return np.where(
            fraction < JUDGE, "judge", np.where(fraction < JUDGE + TUNE, "val", "train")
        )


def frozen_cell(bench: Workbench, cell: Cell) -> FrozenCell:
    """Read a cell and encode its prompts, or take what was encoded before."""
    path = bench.table(cell)
    table = read_lengths(path)
    kept = bench.out / "features" / f"{cell.slug}.npz"
    features = in_steps(FrozenEncoder(), table.prompts, f"encode {cell.title}", kept)
    return FrozenCell(table, features, sha256_file(path), path)


def one_sample(table: LengthTable, number: int) -> LengthTable:
    """The table as if each prompt had been answered once: its ``number``-th sample alone."""
    places = table.sample_start[:-1] + np.minimum(number, np.diff(table.sample_start) - 1)
    length, censored = table.sample_length[places], table.sample_censored[places]
    return replace(
        table,
        length=length,
        censored=censored,
        sample_length=length,
        sample_censored=censored,
        sample_start=np.arange(len(length) + 1),
    )


class FrozenEncoder:
    """Texts to features; the encoder is loaded when it is first asked."""

    def __init__(self) -> None:
        self._ranker: ResponseLengthRanker | None = None

    def __call__(self, texts: Sequence[str]) -> Rows:
        """Features (n, width) of texts."""
        if self._ranker is None:
            self._ranker = ResponseLengthRanker(encoder=ENCODER, max_length=MAX_LENGTH)
            self._ranker.eval()
        tokenizer = self._ranker.text_tokenizer()
        tokens = tokenizer.encode(texts)
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        found: list[Rows] = [np.empty(0, dtype=np.float32)] * len(tokens)
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            ids, mask = pad([tokens[place] for place in part], tokenizer.pad_id)
            with torch.inference_mode():
                states = self._ranker.encoder(
                    input_ids=ids, attention_mask=mask, output_hidden_states=True
                ).hidden_states
            shares = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
            rows = torch.cat([(states[layer] * shares).sum(dim=1) for layer in LAYERS], dim=1)
            for place, row in zip(part, rows.numpy(), strict=True):
                found[place] = row
        return np.stack(found)
