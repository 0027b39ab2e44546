"""One order measured on one real server: warm up, a burst, then Poisson arrivals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pars_bench.arrivals import Pattern, burst, poisson
from pars_bench.client import Answer, Load, Prompt, drive
from pars_bench.progress import Progress
from pars_bench.server import ServerConfig, ServingError, last_error, running_server
from pars_export.files import atomic_file

WARM_UP_TOKENS = 24
WARM_UP_ROUNDS = 2

# What pars_vllm's scheduler logs once its scorer process answers.
SCORER_READY = "PARS: the scorer process is ready"
SCORER_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class PatternRun:
    """One arrival pattern of one order."""

    answers: list[Answer]
    """In submission order."""
    client_lag_s: float
    """Longest time that the client did not get to run."""
    preemptions: int | None
    """Requests that the engine put back into its queue; None where it does not say."""
    load_average: tuple[float, float]
    """The machine's one-minute load average before and after."""

    def capacity(self, slots: int) -> float:
        """Requests finished per second while more were there than ``slots``: meant for a burst.

        Once the last ``slots`` requests run, slots fall idle one by one, for as long as the longest
        answer takes; that time says nothing about what the server can do under a steady load. With
        no more requests than slots there is no queue, and the whole run counts.
        """
        start = min(answer.arrival_s for answer in self.answers)
        ends = sorted(answer.arrival_s + answer.ttlt for answer in self.answers)
        finished = len(ends) - slots if len(ends) > slots else len(ends)
        return finished / (ends[finished - 1] - start)


@dataclass(frozen=True)
class OrderRun:
    """Both arrival patterns of one order."""

    digest: str
    """Digest of everything that the run depends on."""
    rate: float
    """Requests per second of the Poisson arrivals."""
    capacity: float
    """Requests per second that this server finished in its burst while no slot was idle."""
    seconds: float
    """Wall clock, server start included."""
    measured_at: str
    """When the measurement began: ISO 8601, UTC, to the second."""
    patterns: Mapping[str, PatternRun]
    scorer: dict[str, int] | None = None
    """The scheduler's counters over the server's life; None where it has no scorer."""

    def save(self, path: Path) -> None:
        """Write the run as JSON, whole or not at all."""
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")


def load_run(path: Path, digest: str) -> OrderRun | None:
    """The stored run, if there is one and it was measured under the same ``digest``."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("digest") != digest:
        return None
    patterns = {
        name: PatternRun(
            answers=[Answer(**answer) for answer in pattern["answers"]],
            client_lag_s=pattern["client_lag_s"],
            preemptions=pattern["preemptions"],
            load_average=(pattern["load_average"][0], pattern["load_average"][1]),
        )
        for name, pattern in stored["patterns"].items()
    }
    return OrderRun(
        digest=digest,
        rate=stored["rate"],
        capacity=stored["capacity"],
        seconds=stored["seconds"],
        measured_at=stored["measured_at"],
        patterns=patterns,
        scorer=stored["scorer"],
    )


@dataclass(frozen=True)
class Plan:
    """What one server is asked."""

    name: str
    """The order's name, for progress and errors."""
    prompts: Sequence[Prompt]
    """In submission order."""
    max_tokens: int
    slots: int
    seed: int
    load: float
    """Poisson rate over the burst's capacity; used where ``rate`` is None."""
    scored: bool
    """Whether the order has a scorer process, which must be ready before anything counts."""
    rate: float | None
    """Requests per second of the Poisson arrivals; None takes it from this run's own burst."""


def measure(
    plan: Plan, server: ServerConfig, model: str, digest: str, progress: Progress
) -> OrderRun:
    """Start the server, run both patterns, stop the server.

    Raises:
        ServingError: the server did not start or did not answer every request; the sentence
            names order and pattern and quotes the server's last error.
    """
    started = time.monotonic()
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    progress.say(f"{plan.name}: starting vllm serve (log: {server.log})")
    patterns: dict[str, PatternRun] = {}
    rate = plan.rate
    with running_server(server) as running:
        progress.say(f"{plan.name}: ready after {time.monotonic() - started:.0f} s")
        load = Load(url=running.url, model=model, max_tokens=plan.max_tokens)
        stage = "warm-up"
        try:
            asyncio.run(_warm_up(load, plan))
            if plan.scored:
                _await_scorer(server.log, load)
            running.check()
            stage = "burst"
            arrivals = burst(len(plan.prompts))
            patterns["burst"] = _run_pattern(load, plan, "burst", arrivals.tolist(), progress)
            running.check()
            if rate is None:
                rate = plan.load * patterns["burst"].capacity(plan.slots)
            stage = "poisson"
            arrivals = poisson(len(plan.prompts), rate, plan.seed)
            patterns["poisson"] = _run_pattern(load, plan, "poisson", arrivals.tolist(), progress)
            running.check()
        except ServingError as error:
            raise ServingError(
                f"{plan.name}, {stage}: {error} (the server's log ends with: "
                f"{last_error(server.log)}; whole log: {server.log})"
            ) from error
    counters = _scorer_counters(server.log) if plan.scored else None
    return OrderRun(
        digest=digest,
        rate=rate,
        capacity=patterns["burst"].capacity(plan.slots),
        seconds=time.monotonic() - started,
        measured_at=measured_at,
        patterns=patterns,
        scorer=counters,
    )


def _await_scorer(log: Path, load: Load) -> None:
    """Wait for the scheduler's word that its scorer process answers.

    Requests do not wait for it, so a benchmark that began earlier would measure arrival order. The
    scheduler hears of its scorer only while it schedules, which an idle engine does not: each turn
    sends one short request, whose answer is thrown away.
    """
    deadline = time.monotonic() + SCORER_TIMEOUT_S
    one = Load(load.url, load.model, 1, load.stall_s)
    # Always the same text: the scorer then has one prompt to catch up with, not one per turn.
    prompts = [_chat("warm-up-scorer", "Warm-up: is the scorer process there?")]
    while SCORER_READY not in log.read_text(errors="replace"):
        if time.monotonic() > deadline:
            raise ServingError(
                f"the scorer process was not ready {SCORER_TIMEOUT_S:.0f} s after the server"
            )
        asyncio.run(drive(one, prompts, [0.0]))
        time.sleep(0.2)


def _scorer_counters(log: Path) -> dict[str, int] | None:
    """The counters that the scheduler logs when it shuts down; None if it did not."""
    lines = re.findall(r"PARS: (requests \d+, .*)\.", log.read_text(errors="replace"))
    if not lines:
        return None
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", lines[-1])}


async def _warm_up(load: Load, plan: Plan) -> None:
    # The first requests pay for lazily built kernels and for the start of the scorer process.
    # Their texts are none of the benchmark's: no cache may know those beforehand.
    short = Load(load.url, load.model, min(WARM_UP_TOKENS, load.max_tokens), load.stall_s)
    for turn in range(WARM_UP_ROUNDS):
        prompts = [
            _chat(f"warm-up-{turn}-{i}", f"Warm-up {turn}.{i}: count from {i} upwards. " * (1 + i))
            for i in range(plan.slots)
        ]
        await drive(short, prompts, burst(len(prompts)).tolist())


def _chat(name: str, text: str) -> Prompt:
    return Prompt(name, "warm-up", ({"role": "user", "content": text},), text)


def _run_pattern(
    load: Load, plan: Plan, pattern: Pattern, arrivals: Sequence[float], progress: Progress
) -> PatternRun:
    label, total = f"{plan.name} {pattern}", len(plan.prompts)
    progress.count(label, 0, total)
    before, before_load = _preemptions(load.url), os.getloadavg()[0]
    driven = asyncio.run(
        drive(load, plan.prompts, arrivals, lambda done: progress.count(label, done, total))
    )
    after = _preemptions(load.url)
    return PatternRun(
        answers=driven.answers,
        client_lag_s=driven.client_lag_s,
        preemptions=None if before is None or after is None else after - before,
        load_average=(before_load, os.getloadavg()[0]),
    )


def _preemptions(url: str) -> int | None:
    """The engine's preemption counter, summed over its engines; None if it has none."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:  # noqa: S310
            text = answer.read().decode()
    except OSError:
        return None
    found = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("vllm:num_preemptions_total")
    ]
    return int(sum(found)) if found else None
