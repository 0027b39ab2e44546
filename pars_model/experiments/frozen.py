"""Frozen features: what the pretrained encoder says of a prompt, computed once and kept.

A head trained on them takes seconds where a fine-tuning takes minutes, so that objectives and
filters can be compared over seeds. What a head gains need not be what a fine-tuning gains: the
recipe's table has that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pars_export.files import sha256_file
from pars_model.encoder import find_encoder
from pars_model.experiments.cells import Cell
from pars_model.experiments.workbench import Result, Workbench
from pars_model.frozen_encoder import ENCODER, LAYERS, MAX_LENGTH, FrozenEncoder
from pars_model.kept import Rows, in_steps
from pars_model.lengths import LengthTable, censored_median, read_lengths, text_fraction

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


def frozen_cell(bench: Workbench, cell: Cell, max_length: int = MAX_LENGTH) -> FrozenCell:
    """Read a cell and encode its prompts, or take what was encoded before.

    Args:
        bench: where features are kept.
        cell: which.
        max_length: most tokens read of a prompt.
    """
    path = bench.table(cell)
    table = read_lengths(path)
    sha256, label, name = sha256_file(path), f"encode {cell.title}", cell.slug
    if max_length != MAX_LENGTH:
        label, name = f"{label}, {max_length} tokens", f"{name}-{max_length}-tokens"
    kept = bench.out / "features" / f"{name}.npz"

    def features() -> Rows:
        return in_steps(FrozenEncoder(max_length), table.prompts, label, kept)

    def compute() -> Result:
        return {"prompts": len(features())}

    settings = {"encoder": ENCODER, "max_length": max_length, "layers": LAYERS}
    bench.kept(label, settings, compute, data=sha256, shelf="features")  # for its minutes
    return FrozenCell(table, features(), sha256, path)


def of_samples(table: LengthTable, first: int, count: int = 1) -> LengthTable:
    """The table as if each prompt had been answered ``count`` times, or as often as it was.

    Args:
        table: lengths with all their samples.
        first: number of the first sample taken; after a prompt's last one follows its first.
        count: samples of each prompt, whose median is its length.
    """
    chosen, starts = [], [0]
    for start, end in pairwise(table.sample_start.tolist()):
        taken = [start + (first + each) % (end - start) for each in range(min(count, end - start))]
        chosen += taken
        starts.append(len(chosen))
    length, censored = table.sample_length[chosen], table.sample_censored[chosen]
    medians = [
        censored_median(length[start:end], censored[start:end]) for start, end in pairwise(starts)
    ]
    return replace(
        table,
        length=np.array([median for median, _ in medians]),
        censored=np.array([bound for _, bound in medians]),
        sample_length=length,
        sample_censored=censored,
        sample_start=np.array(starts, dtype=np.int64),
    )


def with_prompt_tokens(table: LengthTable) -> LengthTable:
    """The table with each prompt's number of tokens, counted whole by the encoder's tokenizer.

    It stands in for the LLM's own, which real lengths come without.
    """
    tokenizer = Tokenizer.from_str(find_encoder(ENCODER).tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = np.array([len(tokenizer.encode(text).ids) for text in table.prompts], dtype=np.float64)
    return replace(table, facts={**table.facts, "prompt_tokens": counts[table.prompt]})
