"""A report as a Markdown page for the docs, made from report.json alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pars_bench.facts import flatten, predictor_pairs
from pars_bench.findings import NAMES, PATTERN_NAMES, doubts, headline, losses
from pars_bench.schema import Report, patterns_of, policies_of, read_report
from pars_bench.tables import table_rows
from pars_export.errors import InputError
from pars_export.files import atomic_file

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def render(report: Report, command: str) -> str:
    """The whole page; ``command`` is the one that made ``report``."""
    parts = [
        "# What was measured",
        f"Made by `{command}`; run it again to get your own numbers.",
        _facts(report),
    ]
    for pattern in patterns_of(report):
        parts += [f"## {PATTERN_NAMES.get(pattern, pattern)}", bullets(headline(report, pattern))]
        parts.append(_table(report, pattern))
    parts += [
        "## Where it loses",
        bullets(losses(report)),
        "## What to doubt",
        bullets(doubts(report)),
    ]
    return "\n\n".join(parts) + "\n"


def summary(report: Report, page: str) -> str:
    """The few lines that a README shows, with a link to ``page``."""
    parts = [
        f"**{PATTERN_NAMES.get(pattern, pattern)}.** {' '.join(headline(report, pattern))}"
        for pattern in patterns_of(report)
    ]
    worse = f"**Where it is worse.** {' '.join(losses(report))}"
    return "\n\n".join([*parts, worse, f"All measures and doubts: [{page}]({page})."])


def write_markdown(folder: Path, page: Path, command: str, readme: Path | None) -> None:
    """Write ``page`` from ``folder``/report.json, and the summary between a README's marks."""
    report = read_report(folder / "report.json")
    with atomic_file(page) as temporary:
        temporary.write_text(render(report, command), encoding="utf-8")
    if readme is None:
        return
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{readme} must hold the lines {BEGIN} and {END} once each")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_file(readme) as temporary:
        shown = summary(report, str(page))
        temporary.write_text(f"{before}{BEGIN}\n{shown}\n{END}{after}", encoding="utf-8")


def _facts(report: Report) -> str:
    pairs = [*flatten(report["environment"]), *predictor_pairs(report["predictor"])]
    return "\n".join(["| what | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in pairs)])


def _table(report: Report, pattern: str) -> str:
    names = [NAMES[policy] for policy in policies_of(report)]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for row in table_rows(report, pattern):
        cells = row.cells or ("",) * len(names)
        label = row.label if row.cells else f"**{row.label}**"
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bullets(sentences: Iterable[str]) -> str:
    """A list of Markdown."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
