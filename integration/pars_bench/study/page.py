"""The study as a Markdown page: the median over cells first, every loss by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

from pars_bench.findings import WORTH_SAYING, percent, seconds
from pars_bench.markdown import bullets as _list
from pars_bench.replay.page.compare import mean_depth
from pars_bench.replay.page.findings import NOT_MODELLED, start, worse_in
from pars_bench.study.conditions import machine, traffic
from pars_bench.study.costs import costs
from pars_bench.study.design import (
    BURST,
    ENGINES,
    LLM,
    LOADS,
    LOW,
    SCORE_RATE,
    STUDENT_RATE,
    TAU,
    TRAFFIC,
)
from pars_bench.study.figures import tau_of, write_pictures
from pars_bench.study.gains import (
    BASE,
    LONGEST,
    MEAN,
    ORACLE,
    PARS,
    PER_TOKEN,
    READER,
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
        f"{TAU:g}; [a predictor that reads prompts](#other-orders) stands beside it where there "
        f"are prompts. Scores come after 20 ms, at most {SCORE_RATE:g} a second{_faster(study)}. "
        f"Figures are means over the seeds {', '.join(map(str, study['seeds']))}, ± the 95 % "
        "interval over seeds.",
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
        f"The paper's setting: {BURST} requests are there before the first step.",
    ),
    (
        "sweep",
        "From light load to overload",
        "Load 1 is the rate at which the engine finishes the same requests in arrival order while "
        "anybody waits. Chat, code, maths and reasoning arrive as a Poisson process, traces at "
        "their own times, made as dense. Above 1 the queue grows as long as the run lasts, and so "
        "do the gains: a run brings "
        f"{min(each.requests for each in TRAFFIC.values()) // LOW} to "
        f"{max(each.requests for each in TRAFFIC.values()) // LOW} requests for each slot. "
        "*Waiting* is the mean depth of the queue in arrival order.",
    ),
    (
        "engines",
        "Default batch sizes",
        "What vLLM 0.32's server takes where `--max-num-seqs` is not given: 256 on an RTX 4090, "
        "1024 on an H100. A burst's first batch starts before any score is there. Scores come in "
        f"the order of arrival, and at {SCORE_RATE:g} a second a fast GPU with a large batch has "
        "admitted the rest before they have reached it.",
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
    kinds = "; ".join(
        f"{name} {median(part):.2f} ({len(part)} cells)"
        for name, part in (
            ("loads below 1", _means(cell for cell in cells if not _crowded(cell))),
            ("loads above 1", _means(cell for cell in cells if _crowded(cell) and cell.load > 1)),
            ("bursts", _means(cell for cell in cells if cell.part["burst"])),
        )
        if part
    )
    worse = sum(gain < 1 - WORTH_SAYING for gain in mean)
    tails = sum(gain < 1 - WORTH_SAYING for gain in tail)
    return (
        f"**Over all {len(cells)} cells (a traffic on an engine at a load) the median gain of PARS "
        f"over arrival order is {median(mean):.2f} times in mean time to last token and "
        f"{median(per_token):.2f} times in mean latency per response token; for p99 of the time "
        f"to last token the median is {median(tail):.2f} (below 1 is worse).** In the mean the "
        f"median is by kind of cell: {kinds}. The mean gain lies "
        f"between {min(mean):.2f} and {max(mean):.2f}, per token between {min(per_token):.2f} and "
        f"{max(per_token):.2f}. The mean is more than 2 % worse in {worse} of the {len(cells)} "
        f"cells, p99 in {tails}."
    )


def _crowded(cell: Place) -> bool:
    return cell.part["burst"] or cell.load > 1


def _means(cells: Iterable[Place]) -> list[float]:
    return [fmean(cell.gain(PARS, MEAN)) for cell in cells]


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
        "| traffic | engine | arrivals | waiting | arrival order, mean TTLT, s | PARS: mean TTLT "
        "| per token | p99 TTLT | longest tenth | oracle: mean TTLT | per token | gap closed |",
        "|---|---|---|" + "---:|" * 9,
    ]
    lines += [
        f"| {cell.traffic} | {cell.engine} | {cell.arrivals} "
        f"| {fmean(cell.values(BASE, mean_depth)):.1f} | {seconds(fmean(cell.values(BASE, MEAN)))} "
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
            title = TRAFFIC[part["traffic"]].title
            words = " ".join(start(replay, replay.subject))
            gpu = ENGINES[part["engine"]].name
            lines.append(f"{title[0].upper()}{title[1:]}, {gpu}: {words}")
    return _list(lines)


def _orders(study: StudyFile) -> list[str]:
    lines = [
        "| traffic | engine | arrivals | order | tau that it had | mean TTLT | per token "
        "| p99 TTLT | longest tenth | gap closed |",
        "|---|---|---|---|" + "---:|" * 6,
    ]
    sections = ("burst", "orders", "engines")
    found = [cell for section in sections for cell in _places(study, section)]
    cells = [cell for cell in found if {look.policy for look in cell.orders} - {PARS, ORACLE}]
    for cell in cells:
        for look in cell.orders:
            gains = " | ".join(
                times(cell.gain(look.policy, number)) for number in (MEAN, PER_TOKEN, TAIL, LONGEST)
            )
            name = _reader(study) if look.policy == READER else look.name
            lines.append(
                f"| {cell.traffic} | {cell.engine} | {cell.arrivals} | {name} "
                f"| {tau_of(cell, look.policy):.2f} | {gains} | {share(cell.gap(look.policy))} |"
            )
    if not cells:
        return []
    words = (
        f"HRRN and vLLM's priority get the score model's expected lengths as PARS does, but "
        "without their delay; all start from the same base class as arrival order. "
        f"The {_reader(study)} is PARS with real scores of the prompts' texts"
    )
    if study["predictor"] is None:
        words += (
            ": what is in the package, trained on other data sets and on no length of these LLMs. "
            "It is what an operator gets [before any training](../default-predictor.md)"
        )
    return ["## Other orders", f"{words}.", *_readers(study, cells), "\n".join(lines)]


def _reader(study: StudyFile) -> str:
    name = study["predictor"]
    return "default predictor" if name is None else f"predictor {name}"


def _faster(study: StudyFile) -> str:
    if study["predictor"] is not None:
        return ""
    return (
        f", as from an encoder on one core; those of the default predictor {STUDENT_RATE:g} a "
        "second, a fifth of [what it reaches alone](engines.md)"
    )


def _readers(study: StudyFile, cells: Sequence[Place]) -> list[str]:
    """What the predictor that reads prompts gains at least and at most."""
    known = [cell for cell in cells if cell.values(READER, MEAN)]
    if not known:
        return []
    gains = [fmean(cell.gain(READER, MEAN)) for cell in known]
    taus = [tau_of(cell, READER) for cell in known]
    return [
        f"With the {_reader(study)}, whose tau is {min(taus):.2f} to {max(taus):.2f} here, the "
        f"mean time to last token is {min(gains):.2f} to {max(gains):.2f} times better than in "
        f"arrival order in these {len(known)} cells, with the score model of tau {TAU:g} "
        f"{min(_means(known)):.2f} to {max(_means(known)):.2f} times."
    ]


def _taus(study: StudyFile) -> list[str]:
    cells = _places(study, "tau")
    if not cells:
        return []
    lines = [
        "| traffic | arrivals | order | tau that it had | mean TTLT | per token | p99 TTLT "
        "| gap closed |",
        "|---|---|---|" + "---:|" * 5,
    ]
    for cell in cells:
        for look in cell.orders:
            policy = look.policy
            gains = " | ".join(
                times(cell.gain(policy, number)) for number in (MEAN, PER_TOKEN, TAIL)
            )
            lines.append(
                f"| {cell.traffic} | {cell.arrivals} | {look.name} "
                f"| {tau_of(cell, policy):.2f} | {gains} "
                f"| {share(cell.gap(policy))} |"
            )
    words = (
        f"{cells[0].engine}. The rerun oracle orders by another response of the same LLM to the "
        "same prompt: the ceiling that a ranker is held against."
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
        f"Runs have {min(each.requests for each in TRAFFIC.values())} to {2 * BURST} requests. "
        f"At loads above 1 (of {', '.join(f'{load:g}' for load in LOADS)}) a longer run queues "
        "more and gains more; p99 of a small run hangs on few requests.",
        f"{LOW} requests at once are few for such GPUs: with more, load 1 is more requests a "
        "second, and a queue as deep for each slot takes as many times more requests.",
        f"Intervals are over {len(study['seeds'])} seeds, each with requests, arrivals and noise "
        "of its own.",
    ]
