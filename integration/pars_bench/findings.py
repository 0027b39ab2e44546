"""What a report's numbers say, in sentences: gains first, then who pays and what to doubt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from pars_bench.schema import STATISTICS, Report, RunFacts, find, patterns_of, policies_of

NAMES = {
    "fcfs": "arrival order",
    "pars": "PARS",
    "oracle": "oracle",
    "prompt_length": "prompt length",
}
MEASURES = {
    "ttft": "Time to first token",
    "ttlt": "Time to last token",
    "per_token": "Latency per response token",
    "tpot": "Time per output token after the first",
}
SHORT = {"ttft": "TTFT", "ttlt": "TTLT", "per_token": "TTLT / tokens", "tpot": "TPOT"}
PATTERN_NAMES = {"burst": "Burst", "poisson": "Poisson arrivals"}

# Below this a difference between two runs on one machine is not worth a word.
WORTH_SAYING = 0.02

# Ratio of median times per output token up to which two runs count as equally fast.
SAME_SPEED = 1.15

# Seconds without the processor from which the client's clock is not to be trusted.
MOST_LAG_S = 1.0

# Throughput is over the whole run, its last answers included, which run beside idle slots.
_WHY_SPEED_DIFFERS = (
    "The requests are the same but the batches are not: an order that leaves long answers for the "
    "end, as shortest first does, runs them beside idle slots, and that alone can cost throughput. "
    "The machine's own changes of speed come on top, and latencies carry both."
)


def seconds(value: float) -> str:
    """Three significant digits, never in exponent form."""
    if value >= 100:
        return f"{value:.0f}"
    digits = 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}" if value >= 0.1 else f"{value:.4f}"


def percent(ratio: float) -> str:
    """A ratio's distance from one, with its sign."""
    return f"{round(100 * (ratio - 1)):+d}\u00a0%".replace("-", "\u2212")


def subject_of(report: Report) -> str | None:
    """The order that the report is about: PARS, else the oracle."""
    measured = policies_of(report)
    return next((name for name in ("pars", "oracle") if name in measured), None)


def headline(report: Report, pattern: str) -> list[str]:
    """The answers for one arrival pattern, the gain first and the price last."""
    subject = subject_of(report)
    fcfs = find(report, "fcfs", pattern)
    run = find(report, subject, pattern) if subject else None
    if subject is None or run is None or fcfs is None:
        return ["Only arrival order was measured: nothing to compare."]
    return [
        *_speed_warning(fcfs, run),
        *([] if subject == "pars" else ["An order by the true lengths, which no order can know:"]),
        f"Mean time to last token: {_change(fcfs, run, 'ttlt', 'mean')}.",
        *([_gap_sentence(run)] if subject == "pars" else []),
        *([_work_sentence(fcfs, run)] if pattern == "burst" else []),
        f"Median time to last token: {_change(fcfs, run, 'ttlt', 'p50')}; "
        f"mean time to first token: {_change(fcfs, run, 'ttft', 'mean')}; "
        f"mean latency per token: {_change(fcfs, run, 'per_token', 'mean')}.",
        _price_sentence(fcfs, run),
    ]


def value_of(run: RunFacts, measure: str, statistic: str) -> float | None:
    """One number of a run: ``measure`` of ``MEASURES``, ``statistic`` of ``STATISTICS``."""
    summary = cast("Mapping[str, Mapping[str, float] | None]", run)[measure]
    return None if summary is None else summary[statistic]


def _change(fcfs: RunFacts, run: RunFacts, measure: str, statistic: str) -> str:
    before, after = value_of(fcfs, measure, statistic), value_of(run, measure, statistic)
    if before is None or after is None:
        return "was not measured"
    return f"{seconds(after)} s instead of {seconds(before)} s ({percent(after / before)})"


def _speed_warning(fcfs: RunFacts, run: RunFacts) -> list[str]:
    lines = []
    before, after = value_of(fcfs, "tpot", "p50"), value_of(run, "tpot", "p50")
    if before and after and max(before, after) / min(before, after) > SAME_SPEED:
        lines.append(
            f"Careful: the machine was not equally fast in both runs (median time per output token "
            f"{seconds(after)} s, in arrival order {seconds(before)} s), so the seconds below mix "
            "the order with the machine."
        )
    lag = max(fcfs["client_lag_s"], run["client_lag_s"])
    if lag > MOST_LAG_S:
        lines.append(
            f"Careful: the client did not get to run for up to {seconds(lag)} s; measure on a "
            "machine that does nothing else."
        )
    return lines


def _work_sentence(fcfs: RunFacts, run: RunFacts) -> str:
    before, after = (r["ttlt_in_tokens"] for r in (fcfs, run))
    if before is None or after is None:
        return "Nothing was delivered to count by."
    closed = run["oracle_gap_closed_in_tokens"]
    share = (
        f", {100 * closed:.0f} % of the oracle's gain" if closed and run["policy"] == "pars" else ""
    )
    return (
        "Counted in tokens that the server delivered to all meanwhile, which does not depend on "
        f"the machine's speed: {after['mean']:.0f} instead of {before['mean']:.0f} "
        f"({percent(after['mean'] / before['mean'])}{share})."
    )


def _gap_sentence(run: RunFacts) -> str:
    closed, interval = run["oracle_gap_closed"], run["oracle_gap_closed_interval"]
    if closed is None or interval is None:
        return (
            "The share of the oracle's gain is not given: the oracle was not measured, or its gain "
            "cannot be told from zero."
        )
    return (
        f"That is {100 * closed:.0f} % of what knowing every length in advance gains "
        f"(95 % interval {100 * interval[0]:.0f} to {100 * interval[1]:.0f} %).".replace(
            "-", "\u2212"
        )
    )


def _price_sentence(fcfs: RunFacts, run: RunFacts) -> str:
    price, before = run["price"], fcfs["price"]
    ratio = price["longest_tenth_ratio"]
    verb = "pays" if ratio > 1 else "does not pay"
    return (
        f"The longest tenth {verb}: its answers end after {seconds(price['longest_tenth'])} s on "
        f"average instead of {seconds(before['longest_tenth'])} s ({percent(ratio)}); "
        f"{100 * price['slower_share']:.0f} % of all requests end later than in arrival order. "
        f"{_slowdown(before['worst_slowdown'], price['worst_slowdown'])}"
    ).rstrip()


def _slowdown(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    return f"Worst slowdown (wait and service over service): {after:.0f}x instead of {before:.0f}x."


def losses(report: Report) -> list[str]:
    """Every measure in which the report's order is worse than arrival order, by pattern."""
    subject = subject_of(report)
    lines = []
    for pattern in patterns_of(report):
        fcfs = find(report, "fcfs", pattern)
        run = find(report, subject, pattern) if subject else None
        if fcfs is None or run is None:
            continue
        worse = []
        for measure, label in MEASURES.items():
            parts = []
            for statistic in STATISTICS:
                before, after = (
                    value_of(fcfs, measure, statistic),
                    value_of(run, measure, statistic),
                )
                if before and after and after / before > 1 + WORTH_SAYING:
                    parts.append(f"{statistic} {percent(after / before)}")
            if parts:
                worse.append(f"{label.lower()}: {', '.join(parts)}")
        if run["throughput"] < fcfs["throughput"] * (1 - WORTH_SAYING):
            worse.append(f"throughput {percent(run['throughput'] / fcfs['throughput'])}")
        name = NAMES[subject or "fcfs"]
        where = PATTERN_NAMES.get(pattern, pattern)
        lines += _simpler_is_better(report, run, pattern, where)
        lines.append(
            f"{where}: {name} is worse than arrival order in {'; '.join(worse)}."
            if worse
            else f"{where}: {name} is in no measure of the table more than 2 % worse."
        )
    return lines


def _simpler_is_better(report: Report, run: RunFacts, pattern: str, where: str) -> list[str]:
    rival = find(report, "prompt_length", pattern)
    ours, theirs = (value_of(r, "ttlt", "mean") if r else None for r in (run, rival))
    if run["policy"] != "pars" or not ours or not theirs or ours / theirs <= 1 + WORTH_SAYING:
        return []
    return [
        f"{where}: plain prompt length does better than {NAMES['pars']} here, mean time to last "
        f"token {seconds(theirs)} s against {seconds(ours)} s."
    ]


def doubts(report: Report) -> list[str]:
    """What a reader must know before trusting the numbers, each from the data itself."""
    lines = [
        "Each order was measured once. The intervals come from drawing requests again, as if they "
        "were independent. Neighbours in a queue are not, so the true intervals are wider, and "
        "they do not know how much a second run on this machine would differ."
    ]
    for pattern in patterns_of(report):
        runs = [run for run in report["runs"] if run["arrivals"] == pattern]
        rates = [run["throughput"] for run in runs]
        tpots = [run["tpot"]["p50"] for run in runs if run["tpot"]]
        spread = f", median time per output token {seconds(min(tpots))} to {seconds(max(tpots))} s"
        lines.append(
            f"{PATTERN_NAMES.get(pattern, pattern)}: throughput lay between {min(rates):.0f} and "
            f"{max(rates):.0f} tokens per second over the orders{spread if tpots else ''}. "
            f"{_WHY_SPEED_DIFFERS}"
        )
    lines += _doubts_of_runs(report)
    return lines


def _doubts_of_runs(report: Report) -> list[str]:
    runs = report["runs"]
    lines: list[str] = []
    others = [run for run in runs if run["policy"] != "fcfs"]
    if others:
        same = min(run["same_text_as_fcfs"] for run in others)
        lines.append(
            "The order changes which requests share a batch, and that changes floating point: "
            + (
                "here every answer was the same text in every order, which is not promised."
                if same == 1
                else f"down to {100 * same:.1f} % of an order's answers were the same text as in "
                "arrival order. The oracle and the deciles use arrival order's lengths."
            )
        )
    cut = max(run["cut_share"] for run in runs)
    lines.append(
        f"At most {100 * cut:.1f} % of a run's answers were cut at the token limit; their true "
        "lengths are unknown."
    )
    preempted = max((run["preemptions"] or 0) for run in runs)
    if preempted:
        lines.append(f"The engine preempted up to {preempted} times in a run.")
    weak = [
        run
        for run in runs
        if run["policy"] == "oracle"
        and run["arrivals"] == "burst"
        and (run["order_tau"] is None or run["order_tau"] < 0.5)
    ]
    if weak:
        lines.append(
            "In the burst the oracle's answers hardly "
            "started in order of their length: little queued, or the order never reached the "
            "engine."
        )
    for policy in policies_of(report):
        if policy != "fcfs":
            run = next(run for run in runs if run["policy"] == policy)
            lines += _scorer_doubts(NAMES[policy], run["scorer"])
    loads = [run["offered_load"] for run in runs if run["offered_load"] is not None]
    if loads:
        lines.append(
            f"The Poisson load was {min(loads):.2f} to {max(loads):.2f} of the requests per second "
            "that each server finished in its own burst while no slot was idle; it was set by "
            "arrival order's. An order that leaves long answers for the end of the burst finishes "
            "more requests until then, not more work."
        )
    lag = max(run["send_lag_max_s"] for run in runs)
    nap = max(run["client_lag_s"] for run in runs)
    lines.append(
        f"Latencies count from the intended arrival; the client sent at most {seconds(lag)} s "
        f"late, and at most for {seconds(nap)} s the machine did not let it run."
    )
    return lines


def _scorer_doubts(name: str, counters: Mapping[str, int] | None) -> list[str]:
    """What the scheduler's counters (``pars_vllm.metrics.Counters``) say about missing scores."""
    if counters is None:
        return [
            f"Careful: {name}: the server's log holds no counters of its scorer, so it is not "
            "known how many requests went in arrival order after all."
        ]
    requests, scored, unknown, not_sent, failures, losses = (
        counters.get(key, 0)
        for key in ("requests", "scored", "unknown", "not_sent", "failures", "losses")
    )
    missed = max(0, requests - scored)
    if losses:
        # Whoever still waited was asked about again, and counts twice where both were answered;
        # an answer that was lost on its way is counted nowhere. Only the bounds are certain.
        count = f"at least {missed} and at most {requests}" if missed < requests else f"{requests}"
    else:
        count = f"{missed}"
    lines = [
        f"{name}: {count} of {requests} requests of its server, warm-up included, got no expected "
        "length."
    ]
    if losses + failures + not_sent:
        lines.append(
            f"Careful: {name}: its scorer did not work throughout: its process was lost {losses} "
            f"times, {failures} batches failed, {not_sent} questions stayed without an answer "
            f"({unknown} more prompts it did not know). Such requests went in arrival order, so "
            "the figures are not those of this order alone."
        )
    if fallbacks := counters.get("fallbacks", 0):
        lines.append(
            f"Careful: {name}: it fell back to arrival order {fallbacks} times, because its "
            "expected lengths were no better than chance, so the figures are not those of this "
            "order alone."
        )
    return lines
