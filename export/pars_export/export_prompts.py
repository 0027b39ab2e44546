"""The prompts of one export: by which engines are made, on which they are compared, whose they are.

A predictor folder is told how many are of which kind, and never a prompt or a path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pars_export.parity import CALIBRATION, PROMPTS, demonstration_texts, enough, evenly, split

TABLE, GIVEN, SHIPPED = "table", "given", "shipped"
"""Of the length table that the ranker was fitted on; named for this export; of this package."""
_WORDS = {
    TABLE: "of the table that it was fitted on",
    GIVEN: "that were given",
    SHIPPED: "that ship with this package",
}


@dataclass(frozen=True)
class Sample:
    """Some prompts."""

    texts: Sequence[str]
    """Each different."""
    counts: dict[str, int]
    """Number of them by kind: `TABLE`, `GIVEN`, `SHIPPED`; no kind that has none."""


@dataclass(frozen=True)
class ExportPrompts:
    """What an export reads; where there are enough, no prompt is in both."""

    made_by: Sample
    """Calibrates int8 and says which lengths engines are for."""
    compared_on: Sample
    """Judges every engine."""


def export_prompts(texts: Sequence[str] | ExportPrompts) -> ExportPrompts:
    """The prompts of an export for which ``texts`` were given, or none, or chosen already."""
    if isinstance(texts, ExportPrompts):
        return texts
    made_by, compared_on = split(enough(texts)) if texts else demonstration_texts()
    own = set(texts)
    return ExportPrompts(_sample(made_by, GIVEN, own), _sample(compared_on, GIVEN, own))


def table_prompts(held_out: Sequence[str], learned: Sequence[str]) -> ExportPrompts:
    """The prompts of an export of a ranker whose table is at hand.

    Engines are compared on what the ranker has not learned from, and made by what it has. Both are
    evenly taken where there are more than enough, and filled up by prompts that ship with this
    package; among those, any that the ranker learned from come last.

    Args:
        held_out: prompts of the table that taught nothing, each once.
        learned: the others, each once.
    """
    compared_on = [held_out[row] for row in evenly(len(held_out), PROMPTS)]
    made_by = [learned[row] for row in evenly(len(learned), CALIBRATION)]
    calibration, compared = demonstration_texts()
    taught = set(learned)
    for texts, wanted in ((compared_on, PROMPTS), (made_by, CALIBRATION)):
        taken = {*compared_on, *made_by}
        others = [text for text in (*compared, *calibration) if text not in taken]
        others.sort(key=taught.__contains__)
        texts += others[: wanted - len(texts)]
    # Whatever fills up counts as shipped, also where the ranker learned from it.
    return ExportPrompts(
        _sample(made_by, TABLE, taught), _sample(compared_on, TABLE, set(held_out))
    )


def in_words(counts: dict[str, int]) -> str:
    """What a user is told of the kinds of some prompts."""
    return ", ".join(f"{count} {_WORDS[kind]}" for kind, count in counts.items())


def _sample(texts: Iterable[str], kind: str, own: Collection[str]) -> Sample:
    texts = list(texts)
    mine = sum(text in own for text in texts)
    counts = {kind: mine, SHIPPED: len(texts) - mine}
    return Sample(texts, {name: count for name, count in counts.items() if count})
