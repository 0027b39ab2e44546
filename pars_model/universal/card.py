"""The default predictor's card: what it learned from, how well it ranks, where it fails."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pars_model.reliability import INTERVALS
from pars_model.universal.sources import LISTED

OURS, RIDGE, LENGTH = "default", "n-gram ridge", "prompt length"
OWNLESS = "without own prompts"
"""The default predictor's recipe on the sources that are not this project's."""
Cells = Sequence[Mapping[str, Any]]
Coverage = Mapping[str, Mapping[str, Any]]

_HEAD = """\
# The default predictor

A convolution over subwords and hashed pairs of them, in numpy, distilled from a pretrained encoder
and a linear model that learned from the lengths below, and beside it a linear model on the same
subwords. It predicts how long answers are *relative to each other*, for an LLM that it has never
seen; its tokens are those of a typical LLM, and serving corrects their scale by the answers it
sees. One that is trained on the lengths of the LLM
it serves ranks better.

`pars experiment default-predictor` builds it again and writes this card.

## What it learned from

Lengths that may be redistributed, and no others. The target of a prompt is the mean over LLMs of
the rank of its length among the lengths of that LLM. Its teachers score prompts without lengths,
too, all made of prompts of these sources. The encoder is MiniLM (all-MiniLM-L6-v2, Apache-2.0),
which learned from public texts of many sources, as its authors say.
"""
_NOTES = """\
Some of the OpenAssistant answers were cut near 400 tokens without a mark, which makes long answers
look alike. The project's own prompts are the 2,000 of the demonstration and as many instructions of
more varied kinds, both answered by one LLM of 135 million parameters.
"""
_COVERAGE = """\
One answer's length against the central intervals of its calibration, once the tokens of each LLM
are multiplied by the one factor that serving finds from its answers. The calibration is fitted to
single answers, each LLM's on the scale of a typical one; answers that were cut off are left out of
it, and counted here by the product-limit estimate. For a family of the sources both fits, of scores
and of lengths, were without it.
"""


def mean_of(cells: Cells, name: str) -> float:
    """Mean tau of a predictor over data sets."""
    return sum(float(cell["tau"][name][0]) for cell in cells) / len(cells)


@dataclass(frozen=True)
class Findings:
    """What a card says."""

    sources: Mapping[str, Mapping[str, object]]
    """Of each, how many rows it has and their digest."""
    left_out: Cells
    """What `judge` found on the sources' data sets, each without its family."""
    unseen: Cells
    """What it found on all other data sets; their texts and lengths ship nowhere."""
    left_out_coverage: Coverage
    """What `responses.coverage` found on each family without it."""
    coverage: Coverage
    """The same on all other data sets."""

    def to_json(self) -> str:
        """All numbers."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render(found: Findings) -> str:
    """The card as Markdown."""
    lines = [_HEAD, *_source_table(found.sources), "", _NOTES]
    lines += [
        "## How well it ranks",
        "",
        "Tau-b with 95 % intervals over prompts, the mean over LLMs and ways of decoding (at most",
        "12 of a data set), each over all of the data set's prompts that it answered (of 3,000",
        "where there are more).",
        "The ridge is the n-gram ridge with its penalty tuned, on the very same prompts, targets",
        "and weights; prompt length is in characters; *lead* is a difference on the same prompts.",
        "",
        "**Kinds of prompts that it had not seen**, of the sources above: all data sets of one",
        "family were left out, lengths and texts, and it was trained on the others (the principal",
        "components of the encoder's features are those of all prompts, without lengths).",
        "",
        *result_table(found.left_out),
        "",
    ]
    if found.unseen:
        lines += [
            "**Other data sets**, by the predictor as it ships. It learned nothing from them, but",
            "was chosen by them, too; prompts that it was trained on are left out.",
            "",
            *result_table(found.unseen),
            "",
            own_worth(found.unseen),
            "",
        ]
    lines += ["## What its intervals cover", "", _COVERAGE, *coverage_table(found), ""]
    lines += ["## Where it fails", "", *_failures(found), ""]
    lines += [
        "## By LLM",
        "",
        "| data set | LLM and decoding | tau |",
        "|---|---|---:|",
        *(
            f"| {cell['dataset']} | {_escaped(llm)} | {_shown(tau)} |"
            for cell in (*found.left_out, *found.unseen)
            for llm, tau in cell["by_llm"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


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


def own_worth(cells: Cells) -> str:
    """What the project's own prompts gain on other data sets."""
    leads = [cell["gain"][OWNLESS] for cell in cells]
    better, worse = (
        sum(sign * (lead[end] or 0) > 0 for lead in leads) for sign, end in ((1, 1), (-1, 2))
    )
    return (
        "Without the prompts and instructions written for this project, their lengths and what is "
        f"made of them, the same recipe reaches {mean_of(cells, OWNLESS):.3f} in the mean of these "
        f"data sets; they help beyond the interval on {better} and harm beyond it on {worse}."
    )


def coverage_table(found: Findings) -> list[str]:
    """One line per kind of prompts, and the means."""
    lines = [
        f"| prompts | LLMs | number of prompts | {' | '.join(map(_percent, INTERVALS))} |",
        f"|---|---:|---:|{'---:|' * len(INTERVALS)}",
    ]
    for coverage, what in ((found.left_out_coverage, "families"), (found.coverage, "data sets")):
        for name, cell in coverage.items():
            shares = " | ".join(_shown(cell[_percent(each)]) for each in INTERVALS)
            lines.append(f"| {name} | {cell['llms']} | {cell['prompts']} | {shares} |")
        if coverage:
            means = " | ".join(f"{mean_coverage(coverage, each):.3f}" for each in INTERVALS)
            lines.append(f"| mean of {len(coverage)} {what} | | | {means} |")
    return lines


def mean_coverage(coverage: Coverage, interval: float) -> float:
    """Mean share that an interval covers."""
    shares = [float(found[_percent(interval)][0]) for found in coverage.values()]
    return sum(shares) / len(shares)


def _percent(interval: float) -> str:
    return f"{interval:.0%}"


def _source_table(sources: Mapping[str, Mapping[str, object]]) -> list[str]:
    lines = ["| data set | family | LLMs (pattern) | rows | licence |", "|---|---|---|---:|---|"]
    for source in LISTED:
        pattern = _escaped(source.llms) or "SmolLM2-135M-Instruct"
        facts = [source.dataset, source.family, f"`{pattern}`"]
        facts += [str(sources[source.dataset]["rows"]), source.licence]
        lines.append(f"| {' | '.join(facts)} |")
    return lines


def _failures(found: Findings) -> list[str]:
    """Said by the numbers."""
    cells = [*found.left_out, *found.unseen]
    weak = [cell for cell in cells if cell["tau"][OURS][1] is None or cell["tau"][OURS][1] <= 0]
    behind = {
        name: [cell for cell in cells if (cell["gain"][name][2] or 0) < 0]
        for name in (RIDGE, LENGTH)
    }
    lines = [
        f"- No better than chance (the interval of tau reaches 0): {_names(weak)}.",
        f"- Worse than prompt length, beyond the interval: {_names(behind[LENGTH])}.",
        f"- Worse than the n-gram ridge, beyond the interval: {_names(behind[RIDGE])}.",
    ]
    for table, name in ((found.left_out, "left out"), (found.unseen, "of other data sets")):
        for rival in (RIDGE, LENGTH):
            if table and mean_of(table, OURS) < mean_of(table, rival):
                lines.append(
                    f"- On the mean of the prompts {name}, {rival} is better: "
                    f"{mean_of(table, rival):.3f} against {mean_of(table, OURS):.3f}."
                )
    low = [
        name
        for coverage in (found.left_out_coverage, found.coverage)
        for name, cell in coverage.items()
        if (cell[_percent(INTERVALS[-1])][2] or 0) < INTERVALS[-1]
    ]
    return [
        *lines,
        f"- Its {INTERVALS[-1]:.0%} intervals cover less than that, beyond their own interval: "
        f"{', '.join(low) or 'nowhere here'}.",
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
