"""Length tables: how many tokens an LLM answered to which prompt.

A table (Parquet, JSONL or CSV) has one row per measured response. Rows of one prompt, LLM, data
set and generation config that agree in the facts known at arrival are samples of one *item*; an
item's length is the median of its samples. Items of one LLM and config form a *group*, across data
sets and facts: only lengths of one group can be compared, because only they are in one unit and
come from one queue.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_export.errors import InputError
from pars_export.facts import COUNTS, NAMES, Columns, Facts, columns
from pars_model.rows import Row, read_rows

SPLITS = ("train", "val", "test")
APART = 1.25
"""Counts of tokens tell samples of one prompt apart from a ratio of 1 + n this large."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """One LLM under one generation config: the lengths that can be compared."""

    model: str
    config: str

    def __str__(self) -> str:
        return f"{self.model} ({self.config})" if self.config else self.model


@dataclass(frozen=True)
class LengthTable:
    """Items with their lengths, in tokens of the measured LLM.

    Attributes:
        path: the file that was read, for messages.
        prompts: the different prompt texts, in order of first appearance.
        groups: (LLM, config) pairs that occur.
        datasets: names of data sets that occur; ``""`` where the table names none.
        prompt: index into ``prompts``, per item.
        group: index into ``groups``, per item.
        dataset: index into ``datasets``, per item.
        length: median of the samples, per item; a lower bound where ``censored``. One prompt, LLM
            and data set has several items where the facts differ.
        censored: whether the true median may be longer than ``length``, per item.
        sample_length: lengths of all samples, item after item.
        sample_censored: whether each was cut off at its cap.
        sample_start: item ``i`` has samples ``sample_start[i]:sample_start[i + 1]``.
        split: ``"train"``, ``"val"`` or ``"test"`` per prompt, as the table says; ``""`` per
            prompt where the table has no such column.
        facts: name of a fact known at arrival to its values, per item; NaN where unknown.
        notes: what was odd in the table and how it was read, one sentence each.
    """

    path: str
    prompts: tuple[str, ...]
    groups: tuple[Group, ...]
    datasets: tuple[str, ...]
    prompt: Ints
    group: Ints
    dataset: Ints
    length: Floats
    censored: Bools
    sample_length: Floats
    sample_censored: Bools
    sample_start: Ints
    split: NDArray[np.str_]
    facts: Columns = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.length)

    @property
    def has_split(self) -> bool:
        """Whether the table itself says which prompts are for training and which for testing."""
        return bool(self.split.size and (self.split != "").all())

    def samples_of(self, item: int) -> tuple[Floats, Bools]:
        """Lengths and censoring of the samples of one item."""
        rows = slice(int(self.sample_start[item]), int(self.sample_start[item + 1]))
        return self.sample_length[rows], self.sample_censored[rows]

    def responses(self) -> tuple[Ints, Floats, Bools]:
        """Prompt, length and censoring of each response, the samples of an item one by one.

        What one response will be is more uncertain than what the median of several was.
        """
        counts = np.diff(self.sample_start)
        return np.repeat(self.prompt, counts), self.sample_length, self.sample_censored

    def select(self, items: Bools) -> LengthTable:
        """The table of the chosen items; prompts, groups and data sets keep their numbers."""
        counts = np.diff(self.sample_start)
        samples = np.repeat(items, counts)
        return replace(
            self,
            prompt=self.prompt[items],
            group=self.group[items],
            dataset=self.dataset[items],
            length=self.length[items],
            censored=self.censored[items],
            sample_length=self.sample_length[samples],
            sample_censored=self.sample_censored[samples],
            sample_start=np.concatenate([[0], np.cumsum(counts[items])]).astype(np.int64),
            facts={name: values[items] for name, values in self.facts.items()},
        )


def read_lengths(path: str | Path, reads: Sequence[str] = ()) -> LengthTable:
    """Read and check a length table.

    Args:
        path: the file.
        reads: facts that a ranker reads beside the text. With ``max_tokens`` among them an answer
            that reached its own cap counts as ended there: so long it is when it is served, and a
            lower bound alone could not teach that a smaller cap makes it shorter.

    Raises:
        InputError: the file is missing, of an unknown kind, has fewer than two rows, lacks a
            column, a row holds something else than a text and a whole number of tokens, or the
            lengths of one LLM and config are in several units.
    """
    return table_of(path, read_rows(Path(path)), reads)


def table_of(path: str | Path, rows: Sequence[Row], reads: Sequence[str] = ()) -> LengthTable:
    """The table of rows that were read from ``path``; `read_lengths` says what is refused."""
    if len(rows) < 2:
        found = "no rows" if not rows else "one row"
        raise InputError(
            f"{path} holds {found}, but lengths can only be compared between at least two "
            "prompts: collect more with `pars collect`."
        )
    if "max_tokens" not in reads:
        return _items(Path(path), rows)
    return _ended_at_caps(Path(path), rows)


def censored_median(lengths: Floats, censored: Bools) -> tuple[float, bool]:
    """Median of samples some of which were cut off, and whether it is only a lower bound.

    A cut-off response is longer than what was seen. The median over what was seen is therefore
    never above the true one, and equals it when all cut-off samples lie beyond the middle:
    wherever they truly end, the middle stays where it is.
    """
    order = np.lexsort((censored, lengths))  # among equals, cut-off ones last: they are longer
    return float(np.median(lengths)), bool(censored[order[: len(lengths) // 2 + 1]].any())


def text_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: its place in a random split."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def hash_split(texts: Sequence[str], val: float, test: float) -> NDArray[np.str_]:
    """``"train"``, ``"val"`` or ``"test"`` for each text, by its hash, in these shares."""
    fraction = np.array([text_fraction(text) for text in texts])
    return np.where(fraction < test, "test", np.where(fraction < test + val, "val", "train"))


def split_prompts(table: LengthTable, val: float = 0.1, test: float = 0.1) -> NDArray[np.str_]:
    """Split per prompt text: as the table says, otherwise by a hash of the text.

    The same text is in the same split in whatever data set or order it appears. Where the
    table's own split names no validation prompts, a share ``val`` of its training prompts
    becomes them.

    Args:
        table: the length table.
        val: share of prompts for validation.
        test: share of prompts for the test.

    Returns:
        ``"train"``, ``"val"`` or ``"test"`` for each of ``table.prompts``.
    """
    if not table.has_split:
        return hash_split(table.prompts, val, test)
    if (table.split == "val").any():
        return table.split
    fraction = np.array([text_fraction(text) for text in table.prompts])
    return np.where((table.split == "train") & (fraction < val), "val", table.split)


def require_pairs(table: LengthTable, name: str | Path) -> None:
    """Refuse a table in which no two lengths can be compared.

    Raises:
        InputError: every group has one prompt, or no group has two known, different lengths.
    """
    if has_pair(table):
        return
    different = np.unique(np.stack([table.group, table.prompt]), axis=1)
    if np.bincount(different[0]).max(initial=0) < 2:
        reason = "every LLM and config has a single prompt"
    elif table.censored.all():
        reason = "all responses were cut off at their cap"
    else:
        reason = "all lengths of an LLM and config are equal or cut off"
    raise InputError(
        f"{name}: {reason}, so no two lengths can be compared: collect lengths of more prompts "
        "with one LLM and config."
    )


def has_pair(table: LengthTable, chosen: Bools | None = None) -> bool:
    """Whether two prompts can be compared: one LLM's and config's, of known, different lengths.

    Args:
        table: the length table.
        chosen: which of its items, (n,); all by default.
    """
    among = np.ones(len(table), dtype=bool) if chosen is None else chosen
    return any(_two_differ(table, among & (table.group == each)) for each in np.unique(table.group))


def _two_differ(table: LengthTable, mine: Bools) -> bool:
    """Whether an item among those of one group is known to be longer than another prompt's."""
    length, censored, prompt = table.length[mine], table.censored[mine], table.prompt[mine]
    if censored.all():
        return False
    shortest = prompt[np.where(censored, np.inf, length).argmin()]
    same = prompt == shortest
    return any(
        bool((length[one] > length[~one & ~censored].min(initial=np.inf)).any())
        for one in (same, ~same)
    )


def silent_groups(table: LengthTable) -> str | None:
    """One sentence on the LLMs of a table that neither teach nor can be judged; None without any.

    They have a single prompt, or lengths that are all equal or cut off.
    """
    silent = [
        str(table.groups[group]) or "one without a name"
        for group in np.unique(table.group).tolist()
        if not _two_differ(table, table.group == group)
    ]
    if not silent:
        return None
    more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
    return (
        f"{len(silent)} of {len(np.unique(table.group))} LLMs and configs ({', '.join(silent[:3])}"
        f"{more}) have no two prompts of known, different length: they say nothing about the order."
    )


def _items(path: Path, rows: Sequence[Row]) -> LengthTable:
    prompts: dict[str, int] = {}
    groups: dict[Group, int] = {}
    datasets: dict[str, int] = {}
    units: dict[int, set[str]] = {}
    splits: dict[int, set[str]] = {}
    places = []
    for row in rows:
        prompt = prompts.setdefault(row.text, len(prompts))
        group = groups.setdefault(Group(row.model, row.config), len(groups))
        dataset = datasets.setdefault(row.dataset, len(datasets))
        places.append((prompt, group, dataset))
        splits.setdefault(prompt, set()).add(row.split)
        units.setdefault(group, set()).add(row.unit)
    items = _rows_of_items(rows)
    keys = np.array([places[numbers[0]] for numbers in items], dtype=np.int64)
    samples = [[rows[number] for number in numbers] for numbers in items]
    lengths = [np.array([row.length for row in each], dtype=np.float64) for each in samples]
    censored = [np.array([row.censored for row in each], dtype=np.bool_) for each in samples]
    medians = [censored_median(*pair) for pair in zip(lengths, censored, strict=True)]
    split, notes = _one_split(path, [splits[prompt] for prompt in range(len(prompts))])
    notes += _one_unit(path, {group: units[number] for group, number in groups.items()})
    notes += _unread(path, rows)
    return LengthTable(
        path=str(path),
        prompts=tuple(prompts),
        groups=tuple(groups),
        datasets=tuple(datasets),
        prompt=keys[:, 0],
        group=keys[:, 1],
        dataset=keys[:, 2],
        length=np.array([median for median, _ in medians]),
        censored=np.array([bound for _, bound in medians]),
        sample_length=np.concatenate(lengths),
        sample_censored=np.concatenate(censored),
        sample_start=np.cumsum([0, *map(len, samples)]).astype(np.int64),
        split=split,
        facts=columns(_facts_of(each) for each in samples),
        notes=notes,
    )


def _ended_at_caps(path: Path, rows: Sequence[Row]) -> LengthTable:
    """The table in which no answer that reached its own cap is cut off."""
    ended = [
        row.censored and row.facts.max_tokens is not None and row.facts.max_tokens <= row.length
        for row in rows
    ]
    table = _items(
        path,
        [
            replace(row, censored=False) if there else row
            for row, there in zip(rows, ended, strict=True)
        ],
    )
    if not any(ended):
        return table
    note = (
        f"{path}: {sum(ended)} of {len(rows)} answers reached their max_tokens, which the ranker "
        "reads: they count as ended there."
    )
    return replace(table, notes=(*table.notes, note))


def _rows_of_items(rows: Sequence[Row]) -> list[list[int]]:
    """The numbers of the rows of each item, in the order of a table's items."""
    alike: dict[tuple[str, str, str, str], list[int]] = {}
    for number, row in enumerate(rows):
        key = (row.text, row.model, row.config, row.dataset)
        alike.setdefault(key, []).append(number)
    return [item for numbers in alike.values() for item in _by_facts(rows, numbers)]


def _by_facts(rows: Sequence[Row], numbers: list[int]) -> list[list[int]]:
    """Rows that differ in nothing but facts and lengths, parted by their facts."""
    if len({rows[number].facts for number in numbers}) == 1:
        return [numbers]
    kinds = [_kinds(name, [getattr(rows[at].facts, name) for at in numbers]) for name in NAMES]
    found: dict[tuple[int, ...], list[int]] = {}
    for number, key in zip(numbers, zip(*kinds, strict=True), strict=True):
        found.setdefault(key, []).append(number)
    return list(found.values())


def _kinds(name: str, values: Sequence[int | None]) -> list[int]:
    """Which of a fact's values count as one; unknown ones are those of the only kind there is.

    A count may differ a little between runs of one request: one that is less than `APART` times the
    least of a kind is of that kind.
    """
    kind: dict[int | None, int] = {}
    least = -1
    for value in sorted({value for value in values if value is not None}):
        if least < 0 or name not in COUNTS or 1 + value >= APART * (1 + least):
            least = value
        kind[value] = least
    kind[None] = -1 if len(set(kind.values())) > 1 else least
    return [kind[value] for value in values]


def _facts_of(samples: Sequence[Row]) -> Facts:
    """What was known of an item: each fact from the first of its samples that tells it."""
    if len(samples) == 1:
        return samples[0].facts
    found = {}
    for name in NAMES:
        told = (getattr(row.facts, name) for row in samples)
        found[name] = next((value for value in told if value is not None), None)
    return Facts(**found)


def _one_unit(path: Path, units: Mapping[Group, set[str]]) -> tuple[str, ...]:
    for group, found in units.items():
        if len(found) > 1:
            names = " and ".join(repr(name) for name in sorted(found))
            raise InputError(
                f"{path}: the column unit of {str(group) or 'its one LLM'} holds {names}, and "
                "lengths of one LLM and config are compared with each other: count all of them in "
                "one unit, or tell them apart in the column config."
            )
    every = sorted(set().union(*units.values()))
    if len(every) == 1:
        return ()
    return (
        f"{path}: lengths of different LLMs or configs are in different units "
        f"({', '.join(every)}). Orders are learned and judged inside each, but expected tokens mix "
        "the units.",
    )


def _unread(path: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    counts = Counter(name for row in rows for name in row.unread)
    return tuple(
        f"{path}: {count} of {len(rows)} rows hold in the column {name} what is no "
        f"{'number of tokens' if name in COUNTS else 'true or false'}; there it is unknown."
        for name, count in counts.items()
    )


def _one_split(path: Path, splits: list[set[str]]) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    # A text that is trained on and tested on would make the test dishonest: the test keeps it.
    names = sorted(set().union(*splits))
    if "" in names and len(names) > 1:
        raise InputError(
            f"{path}: the column split is empty in some rows and filled in others: name train, "
            "val or test in every row, or drop the column."
        )
    one = np.array([max(each, key=("", *SPLITS).index) for each in splits])
    several = sum(len(each) > 1 for each in splits)
    if not several:
        return one, ()
    return one, (
        f"{path}: {several} prompts appear in several splits; each counts for the test or "
        "validation split only.",
    )
