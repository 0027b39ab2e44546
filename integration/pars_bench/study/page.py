"""The study as a Markdown page: the median over cells first, every loss by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

from pars_bench.findings import WORTH_SAYING, percent, seconds
from pars_bench.markdown import bullets as _list
from pars_bench.replay.page.compare import Replay
from pars_bench.replay.page.findings import NOT_MODELLED, start, worse_in
from pars_bench.study.conditions import machine, traffic
from pars_bench.study.costs import costs
from pars_bench.study.design import BURST, CORE, LLM, LOADS, TAU, TRAFFIC
from pars_bench.study.figures import tau_of, write_pictures
from pars_bench.study.gains import (
    BASE,
    LONGEST,
    MEAN,
    ORACLE,
    PARS,
    PER_TOKEN,
    TAIL,
    Place,
    places,
    share,
    times,
)
from pars_bench.study.schema import StudyFile
from pars_export.files import atomic_file

PAPER = 15.7
"""Latency per token of arrival order over that of the paper's order, at best."""


def write_page(path: Path, study: StudyFile, command: str) -> None:
    """Write the page, and its pictures beside it."""
    pictures = write_pictures(study, path.parent, path.stem)
    with atomic_file(path) as temporary:
        temporary.write_text(render(study, command, pictures), encoding="utf-8")


def render(study: StudyFile, command: str, pictures: Iterable[tuple[str, str]] = ()) -> str:
    """The whole page; ``pictures`` are file names with captions."""
    parts = [
        "# What an order gains",
        _headline(study),
        _paper(study),
        f"Made by `{command}`, in virtual time: vLLM's own scheduler and KV-cache manager under "
        f"the class that serves, {LLM} by the [step-time model](../replay.md#time-of-a-step); "
        "asynchronous scheduling and prefix cache on, everything else vLLM's default. "
        f"*Times better* is arrival order's figure over the order's: below 1 the order loses. PARS "
        f"is a score model: the true lengths with so much log-normal noise that Kendall's tau is "
        f"{TAU:g}; its scores come after 20 ms, at most 200 a second. Figures are means over the "
        f"seeds {', '.join(map(str, study['seeds']))}, ± the 95 % interval over seeds.",
        *(f"![{caption}]({name})" for name, caption in pictures),
    ]
    for section, title, words in _SECTIONS:
        cells = _places(study, section)
        if cells:
            parts += [f"## {title}", words, _table(cells)]
            parts += [_starts(study)] if section == "sweep" else []
    parts += [
        *_orders(study),
        *_taus(study),
        "## Where PARS loses",
        _losses(study),
        "## What the replay costs",
        costs(study),
        "## Traffic",
        traffic(study),
        "## What to doubt",
        _list(_doubts(study)),
        "## Engine and machine",
        machine(study),
    ]
    return "\n\n".join(parts) + "\n"


_SECTIONS = (
    (
        "burst",
        "Everything at once",
        f"The paper's setting: {BURST} requests are there before the first step. Maths and "
        "reasoning have fewer, of longer answers.",
    ),
    (
        "sweep",
        "From light load to overload",
        "Load 1 is the rate at which the engine finishes the same requests in arrival order while "
        "anybody waits. Chat, code, maths and reasoning arrive as a Poisson process, traces at "
        "their own times, made as dense. Above 1 the queue grows as long as the run lasts, and so "
        "do the gains. These runs are short: with a few requests for each of the slots hardly a "
        "queue forms at any load.",
    ),
    (
        "engines",
        "Other GPUs and batch sizes",
        "By default vLLM 0.32 runs up to 1024 requests at once on an H100: a smaller burst would "
        "not queue at all, and of this one the rest starts before the scores, which come in the "
        "order of arrival and 200 a second, have reached it. So PARS is arrival order there; only "
        "a faster predictor could change that.",
    ),
)


def _places(study: StudyFile, section: str) -> list[Place]:
    return places(part for part in study["parts"] if part["section"] == section)


def _headline(study: StudyFile) -> str:
    cells = places(study["parts"])
    gains = {
        number: [fmean(cell.gain(PARS, number)) for cell in cells]
        for number in (MEAN, PER_TOKEN, TAIL)
    }
    mean, per_token, tail = gains.values()
    worse = sum(gain < 1 - WORTH_SAYING for gain in mean)
    tails = sum(gain < 1 - WORTH_SAYING for gain in tail)
    return (
        f"**Over all {len(cells)} cells (a traffic on an engine at a load) the median gain of PARS "
        f"over arrival order is {median(mean):.2f} times in mean time to last token and "
        f"{median(per_token):.2f} times in mean latency per response token; for p99 of the time "
        f"to last token the median is {median(tail):.2f} (below 1 is worse).** The mean gain lies "
        f"between {min(mean):.2f} and {max(mean):.2f}, per token between {min(per_token):.2f} and "
        f"{max(per_token):.2f}. The mean is more than 2 % worse in {worse} of the {len(cells)} "
        f"cells, p99 in {tails}."
    )


def _paper(study: StudyFile) -> str:
    cells = places(study["parts"])
    best = max(cells, key=lambda cell: fmean(cell.gain(PARS, PER_TOKEN)))
    nearest = [
        f"{cell.traffic} {times(cell.gain(PARS, PER_TOKEN))}" for cell in _places(study, "burst")
    ]
    return (
        f"The paper reports up to {PAPER} times lower latency per token than arrival order. That "
        "is its best cell and not beside ours in any table, for the conditions do not match: it "
        "used vLLM 0.8.5, its own predictor, GPU and rates, and neither its batch size nor its "
        "base class for arrival order is known to us. Nearest to it are our bursts"
        f"{': ' + ', '.join(nearest) if nearest else ''}; our own best cell is "
        f"{times(best.gain(PARS, PER_TOKEN))} ({best.traffic}, {best.engine}, {best.arrivals})."
    )


def _table(cells: Sequence[Place]) -> str:
    lines = [
        "| traffic | engine | arrivals | arrival order, mean TTLT, s | PARS: mean TTLT | per token "
        "| p99 TTLT | longest tenth | oracle: mean TTLT | per token | gap closed |",
        "|---|---|---|" + "---:|" * 8,
    ]
    lines += [
        f"| {cell.traffic} | {cell.engine} | {cell.arrivals} "
        f"| {seconds(fmean(cell.values(BASE, MEAN)))} "
        + "".join(
            f"| {times(cell.gain(policy, number))} "
            for policy, number in (
                *((PARS, number) for number in (MEAN, PER_TOKEN, TAIL, LONGEST)),
                *((ORACLE, number) for number in (MEAN, PER_TOKEN)),
            )
        )
        + f"| {share(cell.gap(PARS))} |"
        for cell in cells
    ]
    return "\n".join(lines)


def _starts(study: StudyFile) -> str:
    lines = []
    for part in study["parts"]:
        replay = Place(part, 1.0).replay
        swept = part["section"] == "sweep" and len(replay.loads) > 1
        if swept and replay.subject is not None:
            title = TRAFFIC[part["traffic"]].title.capitalize()
            lines.append(f"{title}: {' '.join(start(replay, replay.subject))}")
    return _list(lines)


def _orders(study: StudyFile) -> list[str]:
    lines = [
        "| traffic | arrivals | order | mean TTLT | per token | p99 TTLT | longest tenth "
        "| gap closed |",
        "|---|---|---|" + "---:|" * 5,
    ]
    cells = [
        cell
        for cell in (*_places(study, "burst"), *_places(study, "orders"))
        if len(cell.replay.looks) > len(CORE)
    ]
    for cell in cells:
        for look in cell.replay.looks:
            if look.policy != BASE:
                gains = " | ".join(
                    times(cell.gain(look.policy, number))
                    for number in (MEAN, PER_TOKEN, TAIL, LONGEST)
                )
                lines.append(
                    f"| {cell.traffic} | {cell.arrivals} | {look.name} | {gains} "
                    f"| {share(cell.gap(look.policy))} |"
                )
    if not cells:
        return []
    words = (
        f"{cells[0].engine}. HRRN and vLLM's priority get the score model's expected lengths as "
        "PARS does, but without their delay; all start from the same base class as arrival order."
    )
    return ["## Other orders", words, "\n".join(lines)]


def _taus(study: StudyFile) -> list[str]:
    cells = _places(study, "tau")
    if not cells:
        return []
    lines = [
        "| arrivals | order | tau that it had | mean TTLT | per token | p99 TTLT | gap closed |",
        "|---|---|" + "---:|" * 5,
    ]
    for cell in cells:
        for look in Replay(cell.part["report"]).looks:
            policy = look.policy
            if policy == BASE:
                continue
            gains = " | ".join(
                times(cell.gain(policy, number)) for number in (MEAN, PER_TOKEN, TAIL)
            )
            lines.append(
                f"| {cell.arrivals} | {look.name} | {tau_of(cell, policy):.2f} | {gains} "
                f"| {share(cell.gap(policy))} |"
            )
    words = (
        f"{cells[0].traffic.capitalize()}, {cells[0].engine}. The rerun oracle orders by another "
        "response of the same LLM to the same prompt: the ceiling that a ranker is held against."
    )
    return ["## What a better ranker is worth", words, "\n".join(lines)]


def _losses(study: StudyFile) -> str:
    lines = [
        "Every cell, with each measure in which PARS is more than 2 % worse than arrival order "
        "(mean over seeds, in brackets the least and the greatest).",
        "",
        "| traffic | engine | arrivals | worse in |",
        "|---|---|---|---|",
    ]
    for cell in places(study["parts"]):
        subject = cell.replay.subject
        found = [] if subject is None else worse_in(cell.replay, subject, cell.load)
        longest = 1 / fmean(cell.gain(PARS, LONGEST))
        if longest > 1 + WORTH_SAYING:
            found.append(f"mean time to last token of the longest tenth: {percent(longest)}")
        lines.append(
            f"| {cell.traffic} | {cell.engine} | {cell.arrivals} "
            f"| {'; '.join(found) or 'nothing'} |"
        )
    return "\n".join(lines)


def _doubts(study: StudyFile) -> list[str]:
    return [
        *NOT_MODELLED,
        "A score model's errors are independent from request to request. A predictor errs in "
        "clusters of like prompts.",
        f"Runs are short: {min(each.requests for each in TRAFFIC.values())} to {BURST} requests. "
        f"At loads above 1 (of {', '.join(f'{load:g}' for load in LOADS)}) a longer run queues "
        "more and gains more; p99 of a small run hangs on few requests.",
        f"Intervals are over {len(study['seeds'])} seeds, each with requests, arrivals and noise "
        "of its own.",
    ]
