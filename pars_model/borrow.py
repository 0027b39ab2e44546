"""Let what other LLMs answered to the same prompts help to label those of one LLM.

One answer of one LLM is a noisy sample of how long an answer a prompt asks for; what many LLMs
answered tells more. Each training prompt of the LLM gets one of its own training lengths: the one
whose rank is that of the weighted mean of its own place among them and of what the others have in
common, predicted from the mean of their places. What several samples of a training prompt told is
one row then. Validation and test
prompts keep the LLM's own lengths, and what others answered to them is not looked at.

All else of a row stays as it is, of several samples that of the first, with what only others of
them tell of facts; a label beyond a prompt's own cap is cut off at it. Other LLMs' rows are left
out. Training prompts that the LLM answered under several values of a fact are refused: what others
answered says nothing of what the fact changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from pars_export.errors import InputError
from pars_export.facts import NAMES
from pars_export.facts import rows as rows_of_facts
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pars_model.lengths import LengthTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

SHARED = 30
"""Fewest training prompts that another LLM must have in common with the one that borrows."""
WEIGHT = 0.5
_WRITTEN = ("split", "finish_reason", "reasoning_tokens")
"""Columns that a labelled table has, whether the table had them or not."""
_FACTS = tuple(name for name in NAMES if name != "tools")
"""Facts whose column holds the value that is read of it."""


def lenders(others: Floats) -> Floats:
    """Those of other LLMs who tell of an LLM's prompts: not of too few, nor always the same.

    Args:
        others: what they answered to the prompts, (LLMs, items); NaN where unknown.
    """
    found = [
        each
        for each in others
        for told in [each[~np.isnan(each)]]
        if len(told) >= SHARED and len(np.unique(told)) > 1
    ]
    return np.array(found).reshape(-1, others.shape[1])


def borrowed(length: Floats, censored: Bools, others: Floats, weight: float = WEIGHT) -> Ints:
    """For each of an LLM's items, the number of the item whose length it is given.

    Lengths become places: the normal deviates of their ranks. Another LLM's lengths become places
    by the items that it answered: its shortest there takes the place of the LLM's own shortest
    there, and so on, so that units and scales mean nothing. What they have in common is predicted
    from the mean of those k that tell, times kr / (1 + (k - 1) r), where r is their correlation
    with the LLM in the mean: the fewer, the nearer to the middle. Where none tells it is predicted
    from the LLM's own place, times r.

    Args:
        length: the LLM's lengths, (items,).
        censored: whether they were cut off, (items,).
        others: what other LLMs answered to the same prompts, (LLMs, items); NaN where unknown.
        weight: of the LLM's own place, 0 to 1; what the others have in common has the rest.

    Returns:
        (items,); each number itself where ``weight`` is 1, where nobody else tells, or where all
        lengths are equal.
    """
    count = len(length)
    ranks = rankdata(length + 0.25 * censored)  # lengths are whole or half: cut-off ones come after
    own = norm.ppf((ranks - 0.5) / count)
    theirs = np.array([_aligned(each, own) for each in lenders(others)]).reshape(-1, count)
    told = ~np.isnan(theirs)
    sources = told.sum(axis=0)
    if weight == 1 or not sources.any() or not own.any():
        return np.arange(count)
    agree = [
        np.corrcoef(own[known], each[known])[0, 1]
        for each, known in zip(theirs, told, strict=True)
        if np.ptp(own[known])
    ]
    r = float(np.clip(np.mean(agree), 0.05, 0.95)) if agree else 0.05
    mean = np.where(told, theirs, 0.0).sum(axis=0) / np.maximum(sources, 1)
    common = np.where(sources > 0, mean * sources * r / (1 + (sources - 1) * r), own * r)
    places = weight * own + (1 - weight) * common
    order = np.lexsort((censored, length))
    found: Ints = order[(rankdata(places) - 0.5).astype(np.int64)]
    return found


def _aligned(lengths: Floats, places: Floats) -> Floats:
    """One LLM's lengths (items,) as places like those of another; NaN where it has none."""
    known = ~np.isnan(lengths)
    _, at = np.unique(lengths[known], return_inverse=True)
    # Equal lengths share the mean of the places that they would take one by one.
    order = np.argsort(np.argsort(lengths[known], kind="stable"))
    means = np.bincount(at, np.sort(places[known])[order]) / np.bincount(at)
    aligned = np.full(len(lengths), np.nan)
    aligned[known] = means[at]
    return aligned


def answers_to(texts: Sequence[str], table: LengthTable) -> Floats:
    """What the LLMs of a table answered to texts, (LLMs, texts); NaN where unknown.

    An LLM that answered a prompt in several data sets, or under several values of a fact, counts by
    the median of its items there; what was cut off is unknown, for it may have been cut off
    anywhere.
    """
    column = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    told: dict[tuple[int, int], list[float]] = {}
    for item in np.flatnonzero(~table.censored).tolist():
        text = table.prompts[table.prompt[item]]
        if text in column:
            key = int(table.group[item]), column[text]
            told.setdefault(key, []).append(table.length[item])
    found = np.full((len(table.groups), len(column)), np.nan)
    for place, lengths in told.items():
        found[place] = np.median(lengths)
    return found[:, [column[text] for text in texts]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars borrow``."""
    parser.add_argument("table", type=Path, help="length table of several LLMs")
    parser.add_argument("--llm", required=True, help="the LLM that is labelled, as in `model`")
    parser.add_argument("--config", help="which of its configs, where it has several")
    parser.add_argument(
        "--weight",
        type=float,
        default=WEIGHT,
        help=f"of its own lengths, 0 (others' alone, where any answered) to 1; default {WEIGHT:g}",
    )
    parser.add_argument("--out", type=Path, required=True, help="a file of the table's kind")


def run(args: argparse.Namespace) -> int:
    """Entry of ``pars borrow``."""
    from pars_model.lengths import split_prompts, table_of
    from pars_model.rows import read_raw
    from pars_model.writing import writer_of

    if not 0 <= args.weight <= 1:
        raise InputError(f"--weight is {args.weight:g}: expected 0 to 1.")
    write = writer_of(args.out)
    same_kind = args.out.suffix.lower() == args.table.suffix.lower()
    if not same_kind or args.out.resolve() == args.table.resolve():
        raise InputError(
            f"--out {args.out}: expected another {args.table.suffix} file than the table."
        )
    rows = read_raw(args.table)
    table = table_of(args.table, [row for row, _ in rows])
    group = _group(table, args.llm, args.config)
    split = dict(zip(table.prompts, split_prompts(table).tolist(), strict=True))
    mine = np.flatnonzero(table.group == group)
    parts = [split[table.prompts[prompt]] for prompt in table.prompt[mine].tolist()]
    if not {"train", "val"} <= set(parts):
        raise InputError(
            f"{table.path} has no training or no validation prompts of {table.groups[group]}, and "
            "borrowed lengths must not choose the weights: measure more prompts, or name some in "
            "the column split."
        )
    learned = mine[[part == "train" for part in parts]]
    _refuse_several(table, learned)
    texts = [table.prompts[prompt] for prompt in table.prompt[learned].tolist()]
    others = answers_to(texts, table.select(table.group != group))
    told = lenders(others)
    if not len(told):
        most = (~np.isnan(others)).sum(axis=1).max(initial=0)
        raise InputError(
            f"{table.path}: no other LLM has {SHARED} training prompts in common with "
            f"{table.groups[group]} and answers of different lengths to them (at most {most} in "
            "common): measure others on the same prompts, or fit on its own lengths."
        )
    whose = learned[borrowed(table.length[learned], table.censored[learned], others, args.weight)]
    label = {
        (table.prompts[table.prompt[item]], table.datasets[table.dataset[item]]): (item, other)
        for item, other in zip(learned.tolist(), whose.tolist(), strict=True)
    }
    facts = rows_of_facts(table.facts, len(table))
    # Every row has every column of the table, for files that take theirs from the first.
    names = dict.fromkeys([*(name for _, raw in rows for name in raw if name), *_WRITTEN])
    kept: list[dict[str, object]] = []
    for row, raw in rows:
        if (row.model, row.config) != (table.groups[group].model, table.groups[group].config):
            continue
        found = {name: raw.get(name) for name in names}
        found |= {"split": split[row.text], "response_tokens": row.length}
        found["finish_reason"] = "length" if row.censored else "stop"
        if split[row.text] == "train":
            key = (row.text, row.dataset)
            if key not in label:
                continue
            item, other = label.pop(key)
            empty = [name for name in _FACTS if name in names and found[name] in (None, "")]
            found |= {name: getattr(facts[item], name) for name in empty}
            found |= _labelled(table, item, other, facts[item].max_tokens)
        kept.append(found)
    with atomic_file(args.out) as temporary:
        write(temporary, kept)
    shared = (~np.isnan(told)).any(axis=0).sum()
    print(
        f"{len(learned):,} training lengths of {table.groups[group]}; others under {len(told)} "
        f"names lent theirs to {shared:,} of them."
    )
    print(args.out)
    return 0


def _refuse_several(table: LengthTable, items: Ints) -> None:
    """Refuse items of one LLM that differ in facts alone."""
    places = np.stack([table.prompt[items], table.dataset[items]])
    _, place, counts = np.unique(places, axis=1, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    if (counts == 1).all():
        return
    names = [
        name
        for name, values in table.facts.items()
        if len({(at, repr(value)) for at, value in zip(place.tolist(), values[items], strict=True)})
        > len(counts)
    ]
    llm = table.groups[table.group[items[0]]]
    raise InputError(
        f"{table.path}: {(counts > 1).sum()} training prompts of {llm} were answered under several "
        f"values of {' and '.join(names)}, and lengths of others would hide what these change: "
        f"borrow with {llm}'s rows of one value alone, or fit on its own lengths."
    )


def _labelled(table: LengthTable, item: int, other: int, cap: int | None) -> dict[str, object]:
    """What a training row gets: the length of another item, which its own cap cuts off too."""
    length, cut_off = round(table.length[other]), bool(table.censored[other])
    if other != item and cap and length >= cap:
        length, cut_off = cap, True
    return {
        "response_tokens": length,
        "finish_reason": "length" if cut_off else "stop",
        "reasoning_tokens": None,  # those of another answer would say nothing
    }


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
        f"--config one of its column config; there are {known or 'unnamed ones alone'}."
    )
