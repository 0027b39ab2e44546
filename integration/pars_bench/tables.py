"""The rows of a report's table, shared by the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pars_bench.findings import MEASURES, SHORT, seconds, value_of
from pars_bench.schema import STATISTICS, Report, RunFacts, find, policies_of


@dataclass(frozen=True)
class Row:
    """One line: a heading when it has no cells."""

    label: str
    cells: tuple[str, ...] = ()
    """One per order."""
    best: int | None = None
    """Index of the best order, the oracle aside; None where best means nothing."""


NOTHING = "\u2013"  # en dash: not measured, or not defined

Number = Callable[[RunFacts], float | None]


def table_rows(report: Report, pattern: str) -> list[Row]:
    """All measures of one arrival pattern, one column per measured order."""
    policies = policies_of(report)
    runs = [find(report, policy, pattern) for policy in policies]
    # The oracle knows what no order can know, so it does not compete.
    rivals = [policy != "oracle" for policy in policies]
    rows = []
    for measure, label in MEASURES.items():
        rows.append(Row(f"{label} ({SHORT[measure]})"))
        for statistic in STATISTICS:
            numbers = [None if r is None else value_of(r, measure, statistic) for r in runs]
            cells = tuple(_shown(number, seconds) for number in numbers)
            rows.append(Row(statistic, cells, best(numbers, rivals)))
    rows.append(Row("The rest"))
    for label, number, shape in _REST:
        numbers = [None if run is None else number(run) for run in runs]
        rows.append(Row(label, tuple(_shown(n, shape) for n in numbers)))
        if number is _gap:
            cells = tuple(NOTHING if run is None else _interval(run) for run in runs)
            rows.append(Row("its 95 % interval, in %", cells))
    return rows


def best(numbers: Sequence[float | None], rivals: Sequence[bool]) -> int | None:
    """Place of the least number among the rivals; None where no digit that is shown differs."""
    known = [
        (number, place)
        for place, (number, rival) in enumerate(zip(numbers, rivals, strict=True))
        if number is not None and rival
    ]
    return min(known)[1] if len({seconds(number) for number, _ in known}) > 1 else None


def _shown(number: float | None, shape: Callable[[float], str]) -> str:
    return NOTHING if number is None else shape(number)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %".replace("-", "\u2212")


def _times(value: float) -> str:
    return f"{value:.0f}x"


def _interval(run: RunFacts) -> str:
    interval = run["oracle_gap_closed_interval"]
    if interval is None or run["policy"] in ("fcfs", "oracle"):  # 0 and 1 by definition
        return NOTHING
    return f"{100 * interval[0]:.0f}..{100 * interval[1]:.0f}".replace("-", "\u2212")


def _work(run: RunFacts) -> float | None:
    return None if run["ttlt_in_tokens"] is None else run["ttlt_in_tokens"]["mean"]


def _gap(run: RunFacts) -> float | None:
    return run["oracle_gap_closed"]


_REST: tuple[tuple[str, Number, Callable[[float], str]], ...] = (
    ("throughput, tokens/s", lambda run: run["throughput"], lambda value: f"{value:.0f}"),
    ("load by own burst", lambda run: run["offered_load"], lambda value: f"{value:.2f}"),
    ("mean TTLT, tokens served", _work, lambda value: f"{value:.0f}"),
    ("makespan", lambda run: run["makespan"], seconds),
    ("oracle gap closed (mean TTLT)", _gap, _share),
    ("the same in tokens served", lambda run: run["oracle_gap_closed_in_tokens"], _share),
    ("longest tenth, mean TTLT", lambda run: run["price"]["longest_tenth"], seconds),
    ("worst slowdown", lambda run: run["price"]["worst_slowdown"], _times),
    ("later than arrival order", lambda run: run["price"]["slower_share"], _share),
    ("tau of length and start", lambda run: run["order_tau"], lambda value: f"{value:.2f}"),
    ("answers cut", lambda run: run["cut_share"], _share),
    ("preemptions", lambda run: run["preemptions"], lambda value: f"{value:.0f}"),
    ("same text as arrival order", lambda run: run["same_text_as_fcfs"], _share),
)
