"""Write report.html and plots/ of a results folder, from report.json and requests.parquet alone."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pars_bench.facts import flatten, predictor_pairs
from pars_bench.findings import (
    NAMES,
    PATTERN_NAMES,
    doubts,
    headline,
    losses,
    percent,
    subject_of,
    value_of,
)
from pars_bench.htmlparts import figure, items, page, pairs, table
from pars_bench.markdown import write_markdown
from pars_bench.schema import Report, find, patterns_of, policies_of, read_report
from pars_bench.tables import table_rows
from pars_export.errors import ConfigError, InputError
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from pars_bench.plots import Columns

WORDS = {
    "TTFT": "time to first token, from the intended arrival of the request",
    "TTLT": "time to last token, from the intended arrival of the request",
    "per token": "TTLT over response tokens: what a reader of a short answer feels",
    "TPOT": "(TTLT - TTFT) / (tokens - 1): the pace once the answer has begun",
    "TTLT, tokens served": "response tokens that the server delivered to anybody between a "
    "request's arrival and its last token: a clock that no slow minute of the machine bends",
    "load by own burst": "arriving requests over those that the same server finished in its burst "
    "while no slot was idle, both per second; in arrival order above 1 the queue grows; an order "
    "that leaves the longest for the end finishes more until then, so its figure is lower",
    "oracle gap closed": "(arrival order - this order) / (arrival order - oracle) of mean TTLT; "
    "not given where the 95 % interval of the denominator reaches zero",
    "slowdown": "TTLT over the time that the response tokens alone take at arrival order's median "
    "pace",
    "burst": "all requests arrive at once and the queue only drains",
    "Poisson": "requests arrive at random, at load times the rate at which arrival order can serve "
    "them (load: among the settings; above 1 a queue grows)",
    "arrival order": "the same scheduler class with its ranking off",
    "oracle": "the same class reading the true lengths, measured in arrival order",
    "prompt length": "the same class taking a longer prompt for a longer answer",
}


def write_report(folder: Path) -> Path:
    """Write ``folder/report.html`` and ``folder/plots/*.png``; return the page's path.

    Raises:
        InputError: report.json or requests.parquet is missing or does not fit the other.
    """
    from pars_bench.plots import inline_svg, pictures, write_png

    report = read_report(folder / "report.json")
    rows = read_rows(folder / "requests.parquet", report)
    figures = []
    for pattern in patterns_of(report):
        parts = []
        for picture in pictures([pattern]):
            write_png(picture, rows[pattern], folder / "plots")
            svg = inline_svg(picture, rows[pattern])
            parts.append(figure(picture.name, svg, picture.caption))
        title = escape(PATTERN_NAMES.get(pattern, pattern))
        figures.append(f'<h2>{title}</h2><div class="grid three">{"".join(parts)}</div>')
    html = page(
        "pars_bench",
        "report_page.html",
        title="Shortest answers first, measured on a real vLLM server",
        subtitle=escape(_subtitle(report)),
        answers="".join(_answer_card(report, pattern) for pattern in patterns_of(report)),
        losses=items(losses(report)),
        tables="".join(_table(report, pattern) for pattern in patterns_of(report)),
        figures="".join(figures),
        predictor=pairs(predictor_pairs(report["predictor"])),
        doubts=items(doubts(report)),
        words=pairs(WORDS.items()),
        environment=pairs(flatten(report["environment"])),
    )
    path = folder / "report.html"
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def read_rows(path: Path, report: Report) -> dict[str, dict[str, Columns]]:
    """The columns ``ttft``, ``ttlt`` and ``tokens`` by pattern and order, in submission order.

    Raises:
        InputError: the file is missing, lacks a column, or holds another number of requests than
            the report.
    """
    import numpy as np
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path} does not exist: run `pars bench serving` first")
    wanted = ("policy", "arrivals", "index", "ttft", "ttlt", "tokens")
    missing = set(wanted) - set(pq.read_schema(path).names)
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}")
    table = pq.read_table(path, columns=list(wanted)).sort_by("index").to_pydict()
    policy, arrivals = np.asarray(table["policy"]), np.asarray(table["arrivals"])
    rows: dict[str, dict[str, Columns]] = {}
    for run in report["runs"]:
        chosen = (policy == run["policy"]) & (arrivals == run["arrivals"])
        if chosen.sum() != run["requests"]:
            raise InputError(
                f"{path} holds {chosen.sum()} requests of {run['policy']}, {run['arrivals']}, and "
                f"report.json {run['requests']}: they are not of one benchmark"
            )
        rows.setdefault(run["arrivals"], {})[run["policy"]] = {
            name: np.asarray(table[name], dtype=np.float64)[chosen]
            for name in ("ttft", "ttlt", "tokens")
        }
    return rows


def terminal_table(report: Report) -> str:
    """The table as plain text, with the answers above it."""
    policies = [NAMES[policy] for policy in policies_of(report)]
    lines = []
    for pattern in patterns_of(report):
        requests = max(run["requests"] for run in report["runs"] if run["arrivals"] == pattern)
        lines += ["", f"{PATTERN_NAMES.get(pattern, pattern)}, {requests} requests (seconds)"]
        rows = table_rows(report, pattern)
        width = max(len(row.label) for row in rows if row.cells) + 2
        columns = [max(len(name), 8) + 2 for name in policies]
        lines.append(
            " " * width + "".join(n.rjust(c) for n, c in zip(policies, columns, strict=True))
        )
        for row in rows:
            cells = "".join(cell.rjust(c) for cell, c in zip(row.cells, columns, strict=False))
            lines.append(f"  {row.label.ljust(width - 2)}{cells}".rstrip() if cells else row.label)
        lines += ["", *map(_wrapped, headline(report, pattern))]
    lines += ["", *map(_wrapped, losses(report))]
    lines += ["", *(f"{name}: {value}" for name, value in predictor_pairs(report["predictor"]))]
    return "\n".join(lines).strip("\n")


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, width=96, initial_indent="- ", subsequent_indent="  ")


def _subtitle(report: Report) -> str:
    environment = report["environment"]
    settings = environment.get("settings")
    facts = settings if isinstance(settings, Mapping) else {}
    versions = environment.get("versions")
    vllm = versions.get("vllm", "") if isinstance(versions, Mapping) else ""
    requests = max(run["requests"] for run in report["runs"])
    return (
        f"{facts.get('model', 'one model')}, {requests} requests, {facts.get('slots', '?')} slots, "
        f"greedy, at most {facts.get('max_tokens', '?')} response tokens; vLLM {vllm}; "
        f"orders: {', '.join(NAMES[policy] for policy in policies_of(report))}."
    )


def _answer_card(report: Report, pattern: str) -> str:
    title = escape(PATTERN_NAMES.get(pattern, pattern))
    subject = subject_of(report)
    fcfs, run = find(report, "fcfs", pattern), find(report, subject or "", pattern)
    big = ""
    if fcfs is not None and run is not None:
        before, after = value_of(fcfs, "ttlt", "mean"), value_of(run, "ttlt", "mean")
        if before and after:
            who = escape(f"{NAMES[run['policy']]} against arrival order")
            big = (
                f'<p class="big"><b>{percent(after / before)}</b>'
                f"<span>mean time to last token, {who}</span></p>"
            )
    sentences = items(headline(report, pattern))
    return f'<section class="card"><h3>{title}</h3>{big}<ul>{sentences}</ul></section>'


def _table(report: Report, pattern: str) -> str:
    columns = [(NAMES[policy], policy) for policy in policies_of(report)]
    return table(PATTERN_NAMES.get(pattern, pattern), columns, table_rows(report, pattern))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars bench report``."""
    parser.add_argument("folder", type=Path, help="results folder of `pars bench serving`")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write it as Markdown too")
    parser.add_argument("--readme", type=Path, help="put the headline between this file's marks")
    parser.add_argument("--command", default="pars bench serving", help="named as PAGE's source")


def run(args: argparse.Namespace) -> int:
    """Write the page again and print the table."""
    if args.readme and not args.markdown:
        raise ConfigError("--readme needs --markdown PAGE: the headline links to that page")
    path = write_report(args.folder)
    if args.markdown:
        write_markdown(args.folder, args.markdown, args.command, args.readme)
    print(terminal_table(read_report(args.folder / "report.json")))
    print(f"\nreport: {path}")
    return 0
