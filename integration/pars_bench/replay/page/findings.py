"""What a replay's numbers say, in sentences: the answer first, then the price and the doubts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pars_bench.findings import MEASURES, WORTH_SAYING, percent, seconds
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
from pars_bench.replay.page.names import KNOWING, Look
from pars_bench.replay.page.need import FEWEST, AtDepth, enough, gaining
from pars_bench.replay.schema import ReplayRun
from pars_bench.schema import STATISTICS

NOT_COMPARED = "Only one order was replayed: nothing to compare."

NOT_MODELLED = (
    "The forward pass is a formula. Times are as good as the step-time model below; order, "
    "batches, chunked prefill, prefix cache and preemption are vLLM's own.",
    "Not modelled: the HTTP server, tokenisation, the network, clients that wait for an answer "
    "before they send the next request or give up, several replicas behind a router, and "
    "speculative decoding.",
    "Response lengths are the traffic's and the same in every order.",
)


def load_name(load: float) -> str:
    """A load in words."""
    return "the traffic as it is" if load == 1 else f"{load:g} times the traffic"


def headline(replay: Replay, depths: Sequence[AtDepth]) -> str:
    """The answer in a sentence."""
    subject, load = replay.subject, replay.load
    mean = _ratio(replay, subject, "mean")
    tail = _ratio(replay, subject, "p99")
    if subject is None or mean is None or tail is None:
        return NOT_COMPARED
    where = "At your load" if load == 1 else f"At {load_name(load)}"
    return (
        f"{where}, {subject.name} against arrival order: mean time to last token "
        f"{percent(mean.mean)}, p99 {percent(tail.mean)}; {_need(depths)}."
    )


def _need(depths: Sequence[AtDepth]) -> str:
    classes = enough(depths)
    if not classes:
        return (
            "how deep a queue it needs cannot be said, for no class of depths was met by "
            f"{FEWEST} requests"
        )
    found = gaining(classes)
    if found is None:
        return f"no depth of the queue that {FEWEST} requests or more met gained more than 2\u00a0%"
    first, last, behind = found
    if behind is not None:
        where = f"{first.least} to {last.most} are" if last.most else "nobody is"
        return f"requests gain where {where} waiting, but not where {behind.least} or more are"
    if first.least == 0:
        return "even requests that found nobody waiting gain"
    return f"it needs a queue: requests gain where {first.least} or more are waiting"


def answers(replay: Replay) -> list[str]:
    """What stands behind the answer, at the chosen load."""
    subject, base, load = replay.subject, replay.base, replay.load
    if subject is None or base is None:
        return []
    lines = [
        f"{label}: {_both(replay, subject, statistic(measure, 'mean'))} on average, "
        f"{_both(replay, subject, statistic(measure, 'p99'))} at p99."
        for measure, label in MEASURES.items()
    ]
    lines += [_gap(replay, subject), _price(replay, subject)]
    depth = replay.value(base.policy, load, mean_depth)
    most = replay.value(base.policy, load, most_waiting)
    if depth and most:
        lines.append(
            f"In arrival order {_count(depth.mean)} requests waited on average and {most.high:.0f} "
            "at most."
        )
    lines += start(replay, subject)
    return [line for line in lines if line]


def _gap(replay: Replay, subject: Look) -> str:
    runs = replay.runs(subject.policy, replay.load)
    if subject.kind in KNOWING:
        return "The lengths are known in advance here, which no order can have."
    known = [run["oracle_gap_closed"] for run in runs]
    values = [value for value in known if value is not None]
    if not values or len(values) < len(known):
        return (
            "The share of the oracle's gain is not given: the oracle was not replayed, or its gain "
            "cannot be told from zero."
        )
    share = f"{100 * sum(values) / len(values):.0f}\u00a0%"
    if len(values) > 1:
        reach = f"{100 * min(values):.0f} to {100 * max(values):.0f}\u00a0% over the seeds"
    else:
        low, high = runs[0]["oracle_gap_closed_interval"] or (values[0], values[0])
        reach = f"95\u00a0% interval {100 * low:.0f} to {100 * high:.0f}\u00a0%"
    return _minus(f"That is {share} of what knowing every length in advance gains ({reach}).")


def _price(replay: Replay, subject: Look) -> str:
    latency = replay.ratio(subject.policy, replay.load, longest_tenth("ttlt"))
    if latency is None:
        return ""
    verb = "pays" if latency.mean > 1 + WORTH_SAYING else "does not pay"
    slow = statistic("slowdown", "max")
    return (
        f"The longest tenth of the responses {verb}: mean time to last token "
        f"{_both(replay, subject, longest_tenth('ttlt'))}. "
        f"Worst slowdown of any request: {_both(replay, subject, slow, unit='x')}."
    )


def start(replay: Replay, subject: Look) -> list[str]:
    """At which load of a sweep the gain starts."""
    if len(replay.loads) < 2:
        return []
    gains = [
        load
        for load in replay.loads
        if (ratio := replay.ratio(subject.policy, load, statistic("ttlt", "mean")))
        and ratio.mean < 1 - WORTH_SAYING
    ]
    if not gains:
        return ["At no load of the sweep does the mean time to last token fall by more than 2 %."]
    if gains[0] == replay.loads[0]:
        return [f"The gain is there at the lightest load of the sweep already ({gains[0]:g})."]
    below = max(load for load in replay.loads if load < gains[0])
    return [f"The gain starts between the loads {below:g} and {gains[0]:g}."]


def losses(replay: Replay) -> list[str]:
    """Every load and measure in which the subject is worse, and every simpler order that is not."""
    subject = replay.subject
    if subject is None or replay.base is None:
        return [NOT_COMPARED]
    lines = []
    for load in replay.loads:
        if not replay.runs(subject.policy, load):
            continue
        worse = worse_in(replay, subject, load)
        lines.append(
            f"Load {load:g}: {subject.name} is worse than arrival order in {'; '.join(worse)}."
            if worse
            else f"Load {load:g}: {subject.name} is in no measure more than 2 % worse."
        )
        lines += _better_ones(replay, subject, load)
    return lines


def worse_in(replay: Replay, subject: Look, load: float) -> list[str]:
    """Every measure in which an order is worse than arrival order at a load, in words."""
    worse = []
    for measure, label in {**MEASURES, "slowdown": "Slowdown"}.items():
        ratios = {
            name: replay.ratio(subject.policy, load, statistic(measure, name))
            for name in STATISTICS
        }
        parts = [
            f"{name} {_change(ratio)}"
            for name, ratio in ratios.items()
            if ratio and ratio.mean > 1 + WORTH_SAYING
        ]
        if parts:
            worse.append(f"{label.lower()}: {', '.join(parts)}")
    pace = replay.ratio(subject.policy, load, lambda run: run["throughput"])
    if pace and pace.mean < 1 - WORTH_SAYING:
        worse.append(f"throughput {_change(pace)}")
    for measure, limit in limits(replay.report["runs"]):
        share = attained(measure, limit)
        own = replay.value(subject.policy, load, share)
        base = replay.value(replay.base.policy, load, share) if replay.base else None
        if own and base and own.mean < base.mean - WORTH_SAYING:
            worse.append(
                f"{MEASURES.get(measure, measure).lower()} within {limit:g} s: "
                f"{100 * own.mean:.0f} % instead of {100 * base.mean:.0f} % of requests"
            )
    more = [
        f"{label} {own.mean:.0f} instead of {base.mean:.0f}"
        for label, number in _COUNTS
        if replay.base
        and (own := replay.value(subject.policy, load, number))
        and (base := replay.value(replay.base.policy, load, number))
        and own.mean > base.mean * (1 + WORTH_SAYING)
    ]
    return worse + more


_COUNTS: tuple[tuple[str, Number], ...] = (
    ("preemptions", lambda run: run["preemptions"]),
    ("recomputed tokens", lambda run: run["recomputed_tokens"]),
)


def _better_ones(replay: Replay, subject: Look, load: float) -> list[str]:
    mean = statistic("ttlt", "mean")
    ours = replay.value(subject.policy, load, mean)
    lines = []
    for look in replay.looks:
        theirs = replay.value(look.policy, load, mean)
        rival = look is not replay.base and look.kind not in (*KNOWING, "pars")
        if rival and ours and theirs and ours.mean > theirs.mean * (1 + WORTH_SAYING):
            lines.append(
                f"Load {load:g}: {look.name} does better than {subject.name}, mean time to last "
                f"token {seconds(theirs.mean)} s against {seconds(ours.mean)} s."
            )
    return lines


def doubts(replay: Replay) -> list[str]:
    """What a reader must know before trusting the numbers."""
    lines = list(NOT_MODELLED)
    lines += [f"Of the traffic was replayed{seed}: {kept}." for seed, kept in _kept(replay)]
    for look in replay.looks:
        scores = replay.sample(look.policy, replay.loads[0])
        facts = (scores[0]["scores"] if scores else None) or {}
        if facts.get("kind") == "score model":
            tau = replay.value(look.policy, replay.loads[0], _tau)
            if tau:
                lines.append(
                    f"{look.name}: its scores are the true lengths with noise (tau {tau.mean:.2f} "
                    "here), not a predictor's. Real errors are not spread so evenly."
                )
            else:
                lines.append(
                    f"{look.name}: its scores are noise and have no tau, for all responses have "
                    "one length."
                )
    seeds = len(replay.seeds)
    lines.append(
        "One seed was run. Intervals come from drawing requests again and do not know how much "
        "another draw of arrivals would differ: give several seeds to see it."
        if seeds == 1
        else f"Figures are means over {seeds} seeds; ranges in brackets are the least and the "
        "greatest of them. Curves over requests and over time are of one seed, which they name."
    )
    lines.append(
        "A request's queue is what waited in arrival order when it came, rounded up: the depth is "
        "kept at 500 points at most."
    )
    return lines


def _ratio(replay: Replay, look: Look | None, name: str) -> Spread | None:
    return None if look is None else replay.ratio(look.policy, replay.load, statistic("ttlt", name))


def _change(ratio: Spread) -> str:
    """A ratio's distance from one, with its range over seeds where it has one."""
    if percent(ratio.low) == percent(ratio.high):
        return percent(ratio.mean)
    return f"{percent(ratio.mean)} [{percent(ratio.low)} to {percent(ratio.high)}]"


def _kept(replay: Replay) -> list[tuple[str, object]]:
    """What was kept of the traffic, by seed where seeds differ in it."""
    traffic = replay.report["traffic"]
    seeds = cast("dict[str, dict[str, object]]", traffic.get("by_seed", {}))
    found = [
        (f" with seed {seed}", facts["kept"]) for seed, facts in seeds.items() if "kept" in facts
    ]
    return found or [("", traffic["kept"])] if "kept" in traffic else []


def _tau(run: ReplayRun) -> float | None:
    tau = (run["scores"] or {}).get("tau")
    return tau if isinstance(tau, float) else None


def _both(replay: Replay, look: Look, number: Number, unit: str = "\u00a0s") -> str:
    assert replay.base is not None
    own = replay.value(look.policy, replay.load, number)
    base = replay.value(replay.base.policy, replay.load, number)
    ratio = replay.ratio(look.policy, replay.load, number)
    if own is None or base is None or ratio is None:
        return "not measured"
    return f"{seconds(own.mean)}{unit} instead of {seconds(base.mean)}{unit} ({_change(ratio)})"


def _count(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
