"""Write report.html of a replay from report.json and requests.parquet, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from pars_bench.facts import flatten
from pars_bench.findings import percent
from pars_bench.htmlparts import figure, items, page, pairs, table
from pars_bench.replay.page import pictures, tables
from pars_bench.replay.page.compare import Replay, statistic
from pars_bench.replay.page.findings import answers, doubts, headline, load_name, losses
from pars_bench.replay.page.names import Look
from pars_bench.replay.page.need import AtDepth, by_depth
from pars_bench.replay.page.pictures import Picture
from pars_bench.replay.page.rows import Array, Requests
from pars_bench.replay.page.shape import read_report
from pars_export.files import atomic_file

WORDS = {
    "load": "times as densely as in the traffic the requests arrive; the requests stay the same",
    "TTFT": "time to first token, from the arrival of the request",
    "TTLT": "time to last token, from the arrival of the request",
    "per token": "TTLT over response tokens: what a reader of a short answer feels",
    "TPOT": "(TTLT - TTFT) / (tokens - 1): the pace once the answer has begun",
    "slowdown": "TTLT over the time that the request takes alone on the machine",
    "oracle gap closed": "(arrival order - this order) / (arrival order - oracle) of mean TTLT; "
    "not given where the 95 % interval of the denominator reaches zero",
    "arrival order": "the same scheduler class with its ranking off",
    "PARS": "the same class with a real predictor's expected lengths",
    "score model": "the same class with the true lengths under so much noise that their tau is "
    "the stated one: for traces that have no text",
    "oracle": "the same class with the true lengths, which no order can know",
    "rerun oracle": "the same class with the length of another response of the same LLM to the "
    "same prompt: the most that a predictor can know",
    "prompt length": "the same class taking a longer prompt for a longer response",
    "HRRN": "highest response ratio next: waiting time over expected service time",
    "vLLM priority": "vLLM's own priority queue, given the same expected lengths as priorities",
    "tau": "Kendall's tau-b of expected and true lengths: 1 is the same order, 0 is none",
}


def write_page(folder: Path) -> Path:
    """Write ``folder/report.html`` and return its path.

    Raises:
        InputError: report.json or requests.parquet is missing, damaged, or does not fit the other.
    """
    replay = Replay(read_report(folder / "report.json"))
    requests = Requests(folder / "requests.parquet")
    requests.check(replay.report)
    depths = by_depth(replay, requests)
    orders = _legend(replay.looks)
    report = replay.report
    html = page(
        "pars_bench.replay.page",
        "page.html",
        title="What would another order do to this traffic?",
        answer=escape(headline(replay, depths)),
        subtitle=escape(_subtitle(replay)),
        big=_big(replay),
        answers=items(answers(replay)),
        losses=items(losses(replay)),
        legend=orders,
        load=escape(load_name(replay.load)),
        distributions=_figures(_distributions(replay, requests)),
        sweep=_sweep(replay, orders),
        payers=_figures(_payers(replay)),
        payers_table=_decile_tables(replay),
        queue=_figure(_queue(replay)),
        depths=_depth_table(replay, depths),
        tables=_tables(replay),
        doubts=items(doubts(replay)),
        words=pairs(WORDS.items()),
        traffic=pairs(flatten(report["traffic"])),
        cost_model=pairs(flatten(report["cost_model"])),
        scores=pairs(_scores(replay)),
        environment=pairs(flatten(report["environment"])),
    )
    path = folder / "report.html"
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _subtitle(replay: Replay) -> str:
    traffic = replay.report["traffic"]
    name = traffic.get("name", traffic.get("source", "the traffic"))
    runs, seeds = replay.report["runs"], len(replay.seeds)
    return (
        f"{name}: {_counted(run['requests'] for run in runs)} requests, "
        f"{_counted(run['output_tokens'] for run in runs)} response tokens, replayed "
        f"through vLLM's own scheduler in virtual time; loads "
        f"{', '.join(f'{load:g}' for load in replay.loads)}; "
        f"{'one seed' if seeds == 1 else f'{seeds} seeds'}."
    )


def _counted(numbers: Iterable[int]) -> str:
    """A number that all seeds share, or the least and the greatest."""
    known = set(numbers)
    return f"{min(known)}" if len(known) == 1 else f"{min(known)} to {max(known)}"


def _big(replay: Replay) -> str:
    subject = replay.subject
    if subject is None:
        return ""
    parts = []
    for which, label in (("mean", "mean time to last token"), ("p99", "its 99th percentile")):
        ratio = replay.ratio(subject.policy, replay.load, statistic("ttlt", which))
        if ratio:
            parts.append(f'<p class="big"><b>{percent(ratio.mean)}</b><span>{label}</span></p>')
    return "".join(parts)


def _legend(looks: Sequence[Look]) -> str:
    entries = "".join(
        f'<li><i style="border-top:3px {look.dash} var(--{look.role.replace("_", "-")})"></i>'
        f"{escape(look.name)}</li>"
        for look in looks
    )
    return f'<ul class="legend">{entries}</ul>'


def _figures(found: Iterable[Picture]) -> str:
    cards = "".join(map(_figure, found))
    return f'<div class="grid">{cards}</div>'


def _figure(picture: Picture) -> str:
    return figure(picture.name, picture.svg(), picture.caption)


def _distributions(replay: Replay, requests: Requests) -> list[Picture]:
    curves: dict[str, list[tuple[Look, Array]]] = {"ttlt": [], "ttft": [], "per_token": []}
    for look in replay.looks:
        for run in replay.sample(look.policy, replay.load):
            rows = requests.read(run)
            for measure, values in (
                ("ttlt", rows.ttlt),
                ("ttft", rows.ttft),
                ("per_token", rows.per_token),
            ):
                curves[measure].append((look, pictures.quantiles(values)))
    captions = {
        "ttlt": (
            "Share of requests whose answer is complete within a time.",
            "time to last token, s",
        ),
        "ttft": (
            "Share of requests whose answer has begun within a time.",
            "time to first token, s",
        ),
        "per_token": (
            "Time to last token over response tokens: a short answer behind long ones waits "
            "seconds for each of its tokens.",
            "seconds per response token",
        ),
    }
    found = [
        pictures.distribution(
            f"distribution-{measure.replace('_', '-')}",
            caption + _of_seed(replay),
            label,
            curves[measure],
        )
        for measure, (caption, label) in captions.items()
    ]
    slow = f"The slowest requests: share that takes longer than a time.{_of_seed(replay)}"
    return [*found, pictures.tail("tail-ttlt", slow, "time to last token, s", curves["ttlt"])]


def _sweep(replay: Replay, legend: str) -> str:
    if len(replay.loads) < 2:
        return (
            '<p class="soft">One load was replayed. Give <code>--load</code> several values to see '
            "where the gain starts.</p>"
        )
    charts = [
        pictures.load_sweep(
            replay, "sweep-mean", "Mean time to last token as requests arrive more densely.", "mean"
        ),
        pictures.load_sweep(
            replay, "sweep-p99", "The slowest hundredth of requests, by load.", "p99"
        ),
    ]
    change = table("Change against arrival order", _columns(replay), tables.sweep(replay))
    return f"{legend}{_figures(charts)}<br>{change}"


def _payers(replay: Replay) -> list[Picture]:
    return [
        pictures.who_pays(
            replay,
            "who-pays-slowdown",
            "Slowdown of requests in ten equal groups, from the shortest answers to the longest.",
            "slowdown",
        ),
        pictures.who_pays(
            replay, "who-pays-ttlt", "Mean time to last token of the same groups.", "ttlt"
        ),
    ]


def _decile_tables(replay: Replay) -> str:
    both = (("slowdown", "Mean slowdown"), ("ttlt", "Mean time to last token, s"))
    return "".join(
        table(f"{label}, by response length", _columns(replay), tables.deciles(replay, name))
        for name, label in both
    )


def _queue(replay: Replay) -> Picture:
    caption = f"Requests that wait, over the time of the replay.{_of_seed(replay)}"
    return pictures.queue_over_time(replay, "queue-over-time", caption)


def _of_seed(replay: Replay) -> str:
    return f" Of seed {replay.seeds[0]} alone." if len(replay.seeds) > 1 else ""


def _depth_table(replay: Replay, depths: Sequence[AtDepth]) -> str:
    if not depths or replay.subject is None:
        return ""
    heads = ["requests", "arrival order, s", f"{replay.subject.name}, s", "change"]
    roles = ["line", "fcfs", replay.subject.role, "line"]
    return table(
        "Mean time to last token by the queue that a request met, over all loads and seeds",
        list(zip(heads, roles, strict=True)),
        tables.queue(depths),
    )


def _tables(replay: Replay) -> str:
    parts = []
    for load in replay.loads:
        shown = " open" if load == replay.load else ""
        content = table(f"Load {load:g}", _columns(replay), tables.measures(replay, load))
        name = escape(f"Load {load:g}: {load_name(load)}")
        parts.append(f"<details{shown}><summary>{name}</summary>{content}</details>")
    return "".join(parts)


def _columns(replay: Replay) -> list[tuple[str, str]]:
    return [(look.name, look.role) for look in replay.looks]


def _scores(replay: Replay) -> Iterable[tuple[str, str]]:
    for look in replay.looks:
        for run in replay.runs(look.policy, replay.load):
            seed = f", seed {run['seed']}" if len(replay.seeds) > 1 else ""
            yield from flatten(run["scores"] or {"scores": "none"}, f"{look.name}{seed}: ")
