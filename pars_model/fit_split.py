"""Which prompts a fit may have learned from, by what it noted of its table.

A fit splits its table by the column split or, without one, by a hash of the text, and the ranker
keeps which of both, and the shares. Whoever judges or distils a predictor asks here what is unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pars_export.errors import InputError
from pars_export.files import sha256_file
from pars_model.lengths import Bools, LengthTable, has_pair, hash_split, split_prompts

SHARE = 0.1
"""Of prompts for validation, and for the test, where no fit says."""
FEWEST = 10
"""Prompts that are left to judge on where others are left out; fewer say nothing."""


@dataclass(frozen=True)
class FitSplit:
    """How the fit of a predictor split its table.

    Attributes:
        by: hash, column, or "" where no fit is known.
        val: share of prompts for validation.
        test: share of prompts for the test.
        trained_on_all: whether nothing was held out.
        table_sha256: digest of its table; "" where unknown.
    """

    by: str = ""
    val: float = SHARE
    test: float = SHARE
    trained_on_all: bool = False
    table_sha256: str = ""

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> FitSplit:
        """From the ``data`` of a training summary; empty for what no fit made."""
        if not summary:
            return cls()
        return cls(
            by="column" if summary.get("split_column") else "hash",
            val=float(summary.get("val_fraction", SHARE)),
            test=float(summary.get("test_fraction", SHARE)),
            trained_on_all=bool(summary.get("trained_on_all")),
            table_sha256=str(summary.get("table_sha256", "")),
        )

    def split(self, table: LengthTable) -> NDArray[np.str_]:
        """train, val or test for each prompt of a table, by the shares of the fit."""
        return split_prompts(table, self.val, self.test)

    def hashed(self, texts: Sequence[str]) -> NDArray[np.str_]:
        """train, val or test for each text, by its hash and the shares of the fit."""
        return hash_split(texts, self.val, self.test)

    def learned(self, texts: Sequence[str]) -> Bools:
        """Which texts a fit that split by the hash trained on, where its table had them."""
        if self.by != "hash":
            return np.zeros(len(texts), dtype=bool)
        found: Bools = (self.hashed(texts) == "train") | self.trained_on_all
        return found

    def learned_all_but_test(self) -> bool:
        """Whether the fit kept no prompts for validation, or none at all."""
        return self.by == "hash" and (self.trained_on_all or not self.val)

    def require_column(
        self, table: LengthTable, path: str | Path, who: str = "predictor", or_else: str = ""
    ) -> None:
        """Refuse a table without the column split, where the fit went by it.

        Args:
            table: the length table.
            path: its file.
            who: what was fitted.
            or_else: what else than adding the column helps.

        Raises:
            InputError: it has none, so nothing says which prompts are unseen.
        """
        if self.by == "column" and not table.has_split:
            raise InputError(
                f"{path} has no column split, and the {who} was fitted by that of its table, so "
                f"which of these prompts it was trained on is unknown: add the column{or_else}."
            )

    def judged(
        self, table: LengthTable, path: str | Path, part: str
    ) -> tuple[Bools, tuple[str, ...]]:
        """Prompts of a part of a table to judge on: those that the fit has not seen.

        Of test prompts a fit by the hash must have held out the same for the test, of validation
        prompts for either. Training prompts are what the caller asked for.

        Args:
            table: the length table.
            path: its file.
            part: train, val or test.

        Returns:
            Which of the table's prompts, and what there is to say of the choice.

        Raises:
            InputError: what is unseen is unknown, or too little of the part is.
        """
        everything = "all of them with `pars evaluate --split all`"
        or_else = f", or judge {everything} if it has seen none"
        self.require_column(table, path, or_else=or_else)
        chosen = self.split(table) == part
        if part == "train":
            return chosen, ()
        notes = []
        if self.trained_on_all:
            if self.table_sha256 and sha256_file(Path(path)) == self.table_sha256:
                raise InputError(
                    f"{path} is the table of the predictor's fit, which trained on all of its "
                    f"prompts, so none are unseen: judge on another table, or {everything}."
                )
            notes.append(
                "The predictor was trained on all prompts of its table: those judged here may be "
                "among them."
            )
        if self.by != "hash" or not table.has_split:
            return chosen, tuple(notes)
        unseen = chosen & np.isin(
            self.hashed(table.prompts), ("test",) if part == "test" else ("val", "test")
        )
        found, kept = int(chosen.sum()), int(unseen.sum())
        if kept == found:
            return chosen, tuple(notes)
        if kept < FEWEST or not has_pair(table, unseen[table.prompt]):
            raise InputError(
                f"{path}: the column split names {found} prompts {part}, but the predictor's fit "
                f"split by a hash of the prompt, which keeps {kept} of them unseen, too few to "
                f"judge on: fit on a table with the column, or judge {everything} if it has seen "
                "none."
            )
        notes.append(
            f"{found - kept} of the {found} {part} prompts of the column split are left out: the "
            "predictor's fit split by a hash of the prompt, which does not keep them unseen; if it "
            "has seen none of the table, judge all with `pars evaluate --split all`."
        )
        return unseen, tuple(notes)

    def of_all(self, table: LengthTable) -> tuple[str, ...]:
        """What there is to say where all prompts of a table are judged on."""
        if self.by == "column" and not table.has_split:
            return (
                "The predictor was fitted by a column split, which this table lacks: which of "
                "these prompts it was trained on is unknown.",
            )
        learned = table.split == "train" if self.by == "column" else self.learned(table.prompts)
        if not learned.any():
            return ()
        how = "the column" if self.by == "column" else "the hash of its fit"
        return (
            f"{learned.sum()} of these {len(learned)} prompts are, by {how}, of those that the "
            "predictor was trained on, if its table had them.",
        )

    def taught(self, table: LengthTable) -> NDArray[np.str_]:
        """train, val or test for each prompt that a teacher of this fit is to teach.

        Where it split by the hash, what that held out stays held out, whatever the column says; so
        does what the column holds out. A teacher that kept none for validation has learned from
        those that choose its student's weights.
        """
        fit = self._teaching()
        if self.by != "hash" or not table.has_split:
            return fit.split(table)
        hashed = fit.hashed(table.prompts)
        learned = hashed == "train"
        aside = (table.split == "test") | ((table.split == "val") & learned)
        return np.where(aside, "test", hashed)

    def may_teach(self, texts: Sequence[str], table: LengthTable) -> Bools:
        """Which texts that are not in the table it is taught by may teach beside it.

        The hash keeps others out wherever it made the split.
        """
        if self.by != "hash" and table.has_split:
            return np.ones(len(texts), dtype=bool)
        found: Bools = self._teaching().hashed(texts) == "train"
        return found

    def _teaching(self) -> FitSplit:
        """The same with validation prompts, which a student needs."""
        return self if self.val else replace(self, val=SHARE)


def origin_notes(
    training: Mapping[str, Any], part: LengthTable, learns: bool = True
) -> tuple[str, ...]:
    """What there is to say of where a predictor's knowledge is from.

    Args:
        training: its whole training summary: ``data`` of a fit, ``sources`` by data set.
        part: what it is judged on.
        learns: whether it is of a kind that learns at all.
    """
    own = list(training.get("sources") or ())
    prior = training.get("ngram_half", {}).get("prior") or {}
    sources = own or list(prior.get("sources") or () if prior.get("carried") != 0 else ())
    if not sources:
        if training.get("data") or not learns:
            return ()
        return (
            "Nothing is known of what the predictor was trained on: it may know these prompts.",
        )
    same = [any(_same(name, source) for source in sources) for name in part.datasets]
    unnamed = [not name for name in part.datasets]
    prompts = len(np.unique(part.prompt))
    who = "the predictor was trained on" if own else "its prior was trained on"
    for which, of, unsure in (
        (same, f"data sets named like those that {who}", "these may be among its prompts"),
        (unnamed, "no named data set", f"they may be of {_few(sources)}, which {who}"),
    )[: 2 if own else 1]:
        mine = np.array(which, dtype=bool)[part.dataset]
        if count := len(np.unique(part.prompt[mine])):
            names = [part.datasets[number] for number in np.unique(part.dataset[mine])]
            named = f" ({_few(names)})" if names[0] else ""
            return (f"{count} of the {prompts} prompts judged are of {of}{named}: {unsure}.",)
    return ()


def _same(name: str, source: str) -> bool:
    """Whether two names are of one data set: gsm8k is that of r1distill_gsm8k, too."""
    one, other = (each.casefold().replace("-", "_") for each in (name, source))
    return bool(one) and f"_{other}".endswith(f"_{one}")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
