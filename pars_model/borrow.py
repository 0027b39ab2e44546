"""Let what other LLMs answered to the same prompts help to label those of one LLM.

One answer of one LLM is a noisy sample; what many LLMs answered to a prompt tells how long an
answer it asks for. Each training prompt gets a length out of the LLM's own lengths: the one whose
rank is the mean of the LLM's own and the others'. Prompts that others have answered and the LLM has
not are learned from too. Validation and test prompts keep the LLM's own lengths, and what others
answered to them is not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from pars_export.errors import InputError
from pars_export.facts import Facts, rows
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from pars_model.lengths import LengthTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

SHARED = 30
"""Fewest prompts that another LLM must have in common with the one that borrows."""
WEIGHT = 0.5


def borrowed_places(own: Floats, others: Floats, weight: float = WEIGHT) -> Floats:
    """Where each prompt stands among an LLM's lengths, its own word and that of others averaged.

    Another LLM's lengths become places by the prompts that both answered: its shortest answer there
    stands where the one LLM's shortest does, and so on. LLMs with fewer than `SHARED` such prompts
    count for nothing.

    Args:
        own: lengths of the LLM, (prompts,); NaN where it has none.
        others: lengths of other LLMs, (LLMs, prompts), each in its own unit; NaN where none.
        weight: of the own place; the mean of the others has the rest.

    Returns:
        Normal deviates (prompts,), higher for longer; NaN where nobody answered.
    """
    known = ~np.isnan(own)
    mine = np.full(len(own), np.nan)
    mine[known] = norm.ppf((rankdata(own[known]) - 0.5) / known.sum())
    lenders = [each for each in others if (known & ~np.isnan(each)).sum() >= SHARED]
    theirs = np.array([_aligned(each, mine) for each in lenders]).reshape(-1, len(own))
    told = ~np.isnan(theirs)
    count = told.sum(axis=0)
    mean = np.where(told, theirs, 0.0).sum(axis=0) / np.where(count, count, np.nan)
    both = weight * mine + (1 - weight) * mean
    return np.where(np.isnan(mean), mine, np.where(known, both, mean))


def _aligned(lengths: Floats, places: Floats) -> Floats:
    """One LLM's lengths (prompts,) as places like those of another, NaN where it has none."""
    shared = ~np.isnan(lengths) & ~np.isnan(places)
    values, at = np.unique(lengths[shared], return_inverse=True)
    # Equal lengths share the mean of the places that they would take one by one.
    order = np.argsort(np.argsort(lengths[shared], kind="stable"))
    means = np.bincount(at, np.sort(places[shared])[order]) / np.bincount(at)
    aligned: Floats = np.interp(lengths, values, means)  # NaN stays NaN
    return aligned


def same_rank(places: Floats, lengths: Floats, censored: Bools) -> Ints:
    """For each of some places (n,) the number of the length (m,) that has its rank."""
    order = np.lexsort((censored, lengths))
    share = (rankdata(places, method="ordinal") - 0.5) / len(places)
    found: Ints = order[(share * len(order)).astype(np.int64)]
    return found


@dataclass(frozen=True)
class Labels:
    """Lengths to learn from.

    Attributes:
        prompts: numbers of the prompts, (n,).
        items: the LLM's item whose length each gets, (n,).
        lenders: number of other LLMs that told of any.
        alone: number of prompts that others alone have answered.
    """

    prompts: Ints
    items: Ints
    lenders: int
    alone: int


def borrow(table: LengthTable, group: int, learned: Bools, weight: float = WEIGHT) -> Labels:
    """Label the prompts that one LLM learns from with the help of the others of a table.

    Args:
        table: lengths of several LLMs.
        group: number of the one that is labelled.
        learned: whether a prompt may be learned from, (prompts,); no other is looked at.
        weight: of its own lengths, 0 to 1.

    Raises:
        InputError: no other LLM has `SHARED` of these prompts in common with it.
    """
    lengths = np.full((len(table.groups), len(table.prompts)), np.nan)
    lengths[table.group, table.prompt] = table.length
    lengths[:, ~learned] = np.nan
    own, others = lengths[group], np.delete(lengths, group, axis=0)
    known = ~np.isnan(own)
    common = (known & ~np.isnan(others)).sum(axis=1)
    if not (common >= SHARED).any():
        raise InputError(
            f"{table.path}: no other LLM has {SHARED} training prompts in common with "
            f"{table.groups[group]} (at most {common.max(initial=0)}): measure others on the same "
            "prompts, or fit on its own lengths."
        )
    places = borrowed_places(own, others, weight)
    prompts = np.flatnonzero(~np.isnan(places))
    mine = np.flatnonzero((table.group == group) & learned[table.prompt])
    whose = same_rank(places[prompts], table.length[mine], table.censored[mine])
    alone = int((~known[prompts]).sum())
    return Labels(prompts, mine[whose], int((common >= SHARED).sum()), alone)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars borrow``."""
    parser.add_argument("table", type=Path, help="length table of several LLMs")
    parser.add_argument("--llm", required=True, help="the LLM that is labelled, as in `model`")
    parser.add_argument("--config", help="which of its configs, where it has several")
    parser.add_argument(
        "--weight",
        type=float,
        default=WEIGHT,
        help=f"of its own lengths, 0 (others' alone) to 1 (its own alone); default {WEIGHT:g}",
    )
    parser.add_argument("--out", type=Path, required=True, help=".parquet, .jsonl or .csv")


def run(args: argparse.Namespace) -> int:
    """Entry of ``pars borrow``."""
    from pars_model.lengths import read_lengths, split_prompts
    from pars_model.writing import writer_of

    if not 0 <= args.weight <= 1:
        raise InputError(f"--weight is {args.weight:g}: expected 0 to 1.")
    write = writer_of(args.out)
    table = read_lengths(args.table)
    group = _group(table, args.llm, args.config)
    split = split_prompts(table)
    labels = borrow(table, group, split == "train", args.weight)
    with atomic_file(args.out) as temporary:
        write(temporary, list(_rows(table, group, labels, split)))
    print(
        f"{len(labels.prompts):,} training prompts of {table.groups[group]}, of which "
        f"{labels.alone:,} by others alone; {labels.lenders} other LLMs lent their lengths."
    )
    print(args.out)
    return 0


def _group(table: LengthTable, llm: str, config: str | None) -> int:
    """Number of an LLM and config."""
    found = [
        number
        for number, group in enumerate(table.groups)
        if group.model == llm and config in (None, group.config)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        configs = ", ".join(sorted(repr(table.groups[number].config) for number in found))
        raise InputError(
            f"{table.path} has {llm} under several configs: say which by --config ({configs})."
        )
    known = ", ".join(sorted({str(group) for group in table.groups})[:5])
    wanted = llm if config is None else f"{llm} under the config {config!r}"
    raise InputError(
        f"{table.path} has no lengths of {wanted}: --llm is a name of its column model, and "
        f"--config one of its column config; there are {known}."
    )


def _rows(
    table: LengthTable, group: int, labels: Labels, split: NDArray[np.str_]
) -> Iterator[dict[str, object]]:
    """Labelled rows of the training prompts, and all samples of the others as they are."""
    own = {int(table.prompt[item]): int(item) for item in np.flatnonzero(table.group == group)}
    dataset = dict(zip(table.prompt.tolist(), table.dataset.tolist(), strict=True))
    facts = rows(table.facts, len(table))
    told = [name for name, each in table.facts.items() if not np.isnan(each).all()]
    ends = list(pairwise(table.sample_start.tolist()))

    def row(prompt: int, sample: int, length: float, cut_off: bool) -> dict[str, object]:
        known = facts[own[prompt]] if prompt in own else Facts()
        return {
            "prompt": table.prompts[prompt],
            "response_tokens": round(length),
            "model": table.groups[group].model,
            "config": table.groups[group].config,
            "dataset": table.datasets[dataset[prompt]],
            "split": str(split[prompt]),
            "sample": sample,
            "finish_reason": "length" if cut_off else "stop",
            **{name: getattr(known, name) for name in told},
        }

    for prompt, item in zip(labels.prompts.tolist(), labels.items.tolist(), strict=True):
        yield row(prompt, 0, table.length[item], bool(table.censored[item]))
    for prompt, item in own.items():
        if split[prompt] != "train":
            for sample, at in enumerate(range(*ends[item])):
                yield row(prompt, sample, table.sample_length[at], bool(table.sample_censored[at]))
