"""The default predictor's card: what it learned from, how well it ranks, where it fails."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pars_model.universal.sources import OWN, SOURCES

OURS, RIDGE, LENGTH = "default", "n-gram ridge", "prompt length"
Cells = Sequence[Mapping[str, Any]]

_HEAD = """\
# The default predictor

A linear model on subwords, pairs of subwords, first and last words and surface features, in numpy.
It predicts how long answers are *relative to each other*, for an LLM that it has never seen; its
tokens are those of a typical LLM, and serving corrects their scale by the answers it sees. One
that is trained on the lengths of the LLM it serves ranks better.

`pars experiment default-predictor` builds it again and writes this card.

## What it learned from

Lengths that may be redistributed, and no others. The target of a prompt is the mean over LLMs of
the rank of its length among the lengths of that LLM.
"""
_NOTES = """\
Some of the OpenAssistant
answers were cut near 400 tokens without a mark, which makes long answers look alike.
"""


def mean_of(cells: Cells, name: str) -> float:
    """Mean tau of a predictor over data sets."""
    return sum(float(cell["tau"][name][0]) for cell in cells) / len(cells)


def render(sources: Mapping[str, Mapping[str, object]], left_out: Cells) -> str:
    """The card as Markdown."""
    lines = [_HEAD, *_source_table(sources), "", _NOTES]
    lines += [
        "## How well it ranks",
        "",
        "Tau-b with 95 % intervals over prompts, the mean over LLMs (at most 12 of a data set).",
        "The ridge is the n-gram ridge with its penalty tuned, on the very same prompts, targets",
        "and weights; prompt length is in characters; *lead* is a difference on the same prompts.",
        "",
        "**Kinds of prompts that it had not seen**, of the sources above: all data sets of one",
        "family were left out, and it was trained on the others. By this table it was chosen.",
        "",
        *result_table(left_out),
        "",
        "## Where it fails",
        "",
        *_failures(left_out),
        "",
        "## By LLM",
        "",
        "| data set | LLM | tau |",
        "|---|---|---:|",
        *(
            f"| {cell['dataset']} | {_escaped(llm)} | {_shown(tau)} |"
            for cell in left_out
            for llm, tau in cell["by_llm"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def to_json(sources: Mapping[str, Mapping[str, object]], left_out: Cells) -> str:
    """The same as JSON, every number included."""
    value = {"sources": sources, "left_out": left_out}
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def result_table(cells: Cells) -> list[str]:
    """One line per data set, and their mean."""
    lines = [
        "| data set | LLMs | prompts | default predictor | n-gram ridge | prompt length | lead over"
        " ridge | lead over length |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in cells:
        taus = [_shown(cell["tau"][name]) for name in (OURS, RIDGE, LENGTH)]
        gains = [_shown(cell["gain"][name], sign=True) for name in (RIDGE, LENGTH)]
        facts = [cell["dataset"], str(cell["llms"]), str(cell["prompts"])]
        lines.append(f"| {' | '.join([*facts, *taus, *gains])} |")
    means = [mean_of(cells, name) for name in (OURS, RIDGE, LENGTH)]
    shown = [f"{mean:.3f}" for mean in means] + [f"{means[0] - each:+.3f}" for each in means[1:]]
    lines.append(f"| mean of {len(cells)} data sets | | | {' | '.join(shown)} |")
    return lines


def _source_table(sources: Mapping[str, Mapping[str, object]]) -> list[str]:
    lines = ["| data set | family | LLMs (pattern) | rows | licence |", "|---|---|---|---:|---|"]
    for source in (*SOURCES, OWN):
        pattern = _escaped(source.llms) or "SmolLM2-135M-Instruct"
        facts = [source.dataset, source.family, f"`{pattern}`"]
        facts += [str(sources[source.dataset]["rows"]), source.licence]
        lines.append(f"| {' | '.join(facts)} |")
    return lines


def _failures(cells: Cells) -> list[str]:
    """Said by the numbers."""
    weak = [cell for cell in cells if cell["tau"][OURS][1] is None or cell["tau"][OURS][1] <= 0]
    behind = {
        name: [cell for cell in cells if (cell["gain"][name][2] or 0) < 0]
        for name in (RIDGE, LENGTH)
    }
    return [
        f"- No better than chance (the interval of tau reaches 0): {_names(weak)}.",
        f"- Worse than prompt length, beyond the interval: {_names(behind[LENGTH])}.",
        f"- Worse than the n-gram ridge, beyond the interval: {_names(behind[RIDGE])}.",
        "- Other languages than English: hardly any of the training prompts are.",
        "- It does not see `max_tokens`, tools, a schema, or whether an LLM thinks first.",
        "- Its tokens are those of no LLM in particular; only their order means much.",
    ]


def _names(cells: Cells) -> str:
    return ", ".join(str(cell["dataset"]) for cell in cells) or "none of the data sets here"


def _shown(estimate: Sequence[float | None], sign: bool = False) -> str:
    value, low, high = estimate
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return text if low is None else f"{text} [{low:.3f}, {high:.3f}]"


def _escaped(text: str) -> str:
    """For a cell of a Markdown table."""
    return text.replace("|", "\\|")
