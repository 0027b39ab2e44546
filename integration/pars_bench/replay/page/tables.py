"""The tables of a replay's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pars_bench.findings import MEASURES, SHORT, percent, seconds
from pars_bench.replay.page.compare import (
    Number,
    Replay,
    Spread,
    attained,
    limits,
    longest_tenth,
    mean_depth,
    most_waiting,
    statistic,
)
from pars_bench.replay.page.names import KNOWING
from pars_bench.replay.page.need import FEWEST, AtDepth
from pars_bench.schema import STATISTICS
from pars_bench.tables import NOTHING, Row, best

Shape = Callable[[float], str]


def measures(replay: Replay, load: float) -> list[Row]:
    """All measures at one load, one column per order."""
    rows = []
    for measure, label in {**MEASURES, "slowdown": "Slowdown"}.items():
        unit = ", latency over service time" if measure == "slowdown" else f" ({SHORT[measure]})"
        rows.append(Row(f"{label}{unit}"))
        for name in STATISTICS:
            rows.append(_row(replay, load, name, statistic(measure, name), seconds, compete=True))
    rows.append(Row("The rest"))
    rows += [_row(replay, load, label, number, shape) for label, number, shape in _REST]
    for measure, limit in limits(replay.report["runs"]):
        label = f"{MEASURES.get(measure, measure)} within {limit:g} s"
        rows.append(_row(replay, load, label, attained(measure, limit), share))
    return rows


def sweep(replay: Replay) -> list[Row]:
    """Change against arrival order at every load, one column per order."""
    rows = []
    for label, number in (
        ("Mean time to last token", statistic("ttlt", "mean")),
        ("p99 of time to last token", statistic("ttlt", "p99")),
        ("Mean latency per response token", statistic("per_token", "mean")),
    ):
        rows.append(Row(label))
        for load in replay.loads:
            ratios = [replay.ratio(look.policy, load, number) for look in replay.looks]
            cells = tuple(
                NOTHING if ratio is None or look is replay.base else percent(ratio.mean)
                for look, ratio in zip(replay.looks, ratios, strict=True)
            )
            place = best([_mean(ratio) for ratio in ratios], _rivals(replay))
            won = place is not None and replay.looks[place] is not replay.base
            rows.append(Row(f"load {load:g}", cells, place if won else None))
    return rows


def deciles(replay: Replay, figure: str) -> list[Row]:
    """``ttlt`` or ``slowdown`` by tenths of the response length, one column per order."""
    orders = [replay.tenths(look.policy, replay.load) for look in replay.looks]
    rows = []
    for place, tenth in enumerate(orders[0]):
        numbers = [
            tenths[place]["ttlt" if figure == "ttlt" else "slowdown"]
            if place < len(tenths)
            else None
            for tenths in orders
        ]
        cells = tuple(NOTHING if number is None else seconds(number) for number in numbers)
        label = f"{tenth['fewest_tokens']} to {tenth['most_tokens']} tokens"
        rows.append(Row(label, cells, best(numbers, _rivals(replay))))
    return rows


def queue(depths: Sequence[AtDepth]) -> list[Row]:
    """What requests gain by the depth of the queue that they met."""
    return [
        Row(
            _depth(each) + ("" if each.requests >= FEWEST else ", too few to say"),
            (
                f"{each.requests}",
                seconds(each.before),
                seconds(each.after),
                percent(each.after / each.before) if each.before else NOTHING,
            ),
        )
        for each in depths
    ]


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.0f} %".replace("-", "\u2212")


def _depth(each: AtDepth) -> str:
    if each.most is None:
        return f"{each.least} or more waiting"
    if each.least == each.most:
        return "nobody waiting" if each.least == 0 else f"{each.least} waiting"
    return f"{each.least} to {each.most} waiting"


def _rivals(replay: Replay) -> list[bool]:
    return [look.kind not in KNOWING for look in replay.looks]


def _row(
    replay: Replay, load: float, label: str, number: Number, shape: Shape, compete: bool = False
) -> Row:
    found = [replay.value(look.policy, load, number) for look in replay.looks]
    means = [_mean(each) for each in found]
    return Row(
        label,
        tuple(_shown(each, shape) for each in found),
        best(means, _rivals(replay)) if compete else None,
    )


def _mean(found: Spread | None) -> float | None:
    return None if found is None else found.mean


def _shown(found: Spread | None, shape: Shape) -> str:
    if found is None:
        return NOTHING
    if shape(found.low) == shape(found.high):
        return shape(found.mean)
    return f"{shape(found.mean)} [{shape(found.low)}..{shape(found.high)}]"


def _whole(value: float) -> str:
    return f"{value:.0f}"


_REST: tuple[tuple[str, Number, Shape], ...] = (
    ("requests", lambda run: run["requests"], _whole),
    ("output tokens", lambda run: run["output_tokens"], _whole),
    ("throughput, tokens/s", lambda run: run["throughput"], _whole),
    ("makespan, s", lambda run: run["makespan"], seconds),
    ("oracle gap closed", lambda run: run["oracle_gap_closed"], share),
    ("longest tenth, mean TTLT", longest_tenth("ttlt"), seconds),
    ("longest tenth, mean slowdown", longest_tenth("slowdown"), seconds),
    ("mean queue", mean_depth, seconds),
    ("deepest queue", most_waiting, _whole),
    ("preemptions", lambda run: run["preemptions"], _whole),
    ("recomputed tokens", lambda run: run["recomputed_tokens"], _whole),
    ("prompt tokens from the cache", lambda run: run["cached_tokens"], _whole),
    ("steps", lambda run: run["steps"], _whole),
)
