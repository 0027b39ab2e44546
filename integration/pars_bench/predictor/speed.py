"""Everyone takes turns on the same texts, in a process that has so many threads and no more.

The process is started with `python -m pars_bench.predictor.speed`. It reads orders as lines of
JSON and answers each with one. It is bound to as many CPUs as it may have threads, before any
library starts a thread, and reports the cores that each call really used.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pars_bench.collector import no_collection
from pars_bench.predictor.contestants import Contestant
from pars_bench.predictor.grid import TOKENS
from pars_bench.predictor.report import PROFILED, Parts, Speed

BURST_S = 0.03
"""A sample is the mean over calls for at least this long."""
WARMED_S = 0.5
"""Calls that took less have another one before each sample: after the others' weights a single cold
one may take ten times as long, and would seem too long to be made more than once."""
MOST_CALLS = 1000
"""Of a sample."""
_SETTLE_S = 0.002
"""Threads of the contestant before may still be spinning; they are left that long to stop."""


class Speeds:
    """Everyone, loaded once for this process's number of threads."""

    def __init__(
        self, contestants: Sequence[Contestant], threads: int, longest: int, prompts: Path
    ) -> None:
        from pars_bench.predictor.contestants import read_encoder
        from pars_bench.predictor.products import LIBRARIES, products_by, products_name
        from pars_bench.predictor.rates import rate_calls
        from pars_bench.predictor.texts import makers_of
        from pars_bench.promptfile import read_prompts

        self._threads, self._longest = threads, longest
        self._contestants = {each.name: each for each in contestants}
        self._scorers = {each.name: each.open(threads, longest) for each in contestants}
        self._rates = rate_calls(threads)
        alike = {
            (each.folder, work.precision, library)
            for each in contestants
            if (library := LIBRARIES.get(each.what)) and (work := each.work()) is not None
        }
        self._products = {
            products_name(Path(folder).name, precision, library): products_by(
                library, read_encoder(Path(folder)), precision, threads
            )
            for folder, precision, library in sorted(alike)
        }
        self._prompts = [prompt.text for prompt in read_prompts(prompts)]
        self._makers = makers_of(contestants, longest, self._prompts)

    def cell(self, length: int, batch: int, rounds: int) -> dict[str, Speed]:
        """Everyone, and every rate, on ``batch`` texts of ``length`` tokens.

        Where those are more than `TOKENS` the predictor folders alone, and the rates.
        """
        texts = {name: maker.draw(length, batch) for name, maker in self._makers.items()}
        others = next(iter(texts.values()))
        calls: dict[str, Callable[[], object]] = dict(self._rates)
        for name, products in self._products.items():
            if length * batch <= TOKENS:
                calls[name] = products.of(length * batch)
        for name, contestant in self._contestants.items():
            if contestant.takes(length * batch):
                scorer, given = self._scorers[name], texts.get(contestant.folder, others)
                calls[name] = partial(scorer.score, given)
        return take_turns(calls, rounds, self._threads)

    def parts(self, length: int, batch: int, rounds: int) -> dict[str, Parts]:
        """Where calls of such texts spend their time in each of the `PROFILED` engines."""
        from pars_bench.predictor import openvino_parts
        from pars_bench.predictor.parts import Profiled
        from pars_export.runtimes.openvino_engine import OPENVINO

        found = {}
        for name, contestant in self._contestants.items():
            if contestant.what not in PROFILED:
                continue
            texts = self._makers[contestant.folder].draw(length, batch)
            with tempfile.TemporaryDirectory() as folder:
                profiled: Profiled | openvino_parts.Profiled
                if contestant.what == OPENVINO:
                    profiled = openvino_parts.Profiled(contestant, self._threads, self._longest)
                    most = MOST_CALLS
                else:
                    profiled = Profiled(contestant, self._threads, self._longest, Path(folder))
                    most = profiled.most(texts, rounds + 1)
                calls: dict[str, Callable[[], object]] = {
                    "plain": partial(self._scorers[name].score, texts),
                    "profiled": partial(profiled.score, texts),
                }
                plain = take_turns(calls, rounds, self._threads, most)["plain"]["seconds"]
                found[name] = profiled.parts(float(np.median(plain)))
        return found

    def burst(
        self, names: Sequence[str], count: int, few: int, turn: int
    ) -> dict[str, dict[str, float]]:
        """Seconds in which each ranks ``count`` prompts, cut as its folder says.

        All in one call (`all`), and ``few`` of them in one call (`together`) and each in a call of
        its own (`alone`).
        """
        from pars_bench.predictor.texts import repeated
        from pars_export.parity import evenly

        texts = repeated(self._prompts, count)
        some = [texts[row] for row in evenly(count, few)]
        found: dict[str, dict[str, float]] = {}
        place = turn % len(names)
        for name in [*names[place:], *names[:place]]:
            found[name] = {
                "all": self._ranked(name, [texts]),
                "together": self._ranked(name, [some]),
                "alone": self._ranked(name, [[text] for text in some]),
            }
        return found

    def _ranked(self, name: str, calls: Sequence[Sequence[str]]) -> float:
        """Seconds of these calls.

        The predictor is loaded anew, so that nothing it remembers of earlier ones helps it; loading
        does not count.
        """
        from pars_export.predictor import Predictor

        contestant = self._contestants[name]
        predictor = Predictor.load(contestant.folder, contestant.what, self._threads)
        predictor.score(["What is warm runs at full speed."])
        gc.collect()
        clock = clock_of(self._threads)
        start = clock()
        for texts in calls:
            predictor.score(texts)
        return clock() - start

    def order(self, name: str) -> dict[str, object]:
        """How well it ranks the demonstration's test prompts: tau, its interval, and of what."""
        from pars_bench.predictor.ridge import LENGTHS
        from pars_export.predictor import Predictor
        from pars_model.evaluate import evaluate

        contestant = self._contestants[name]
        found = evaluate(
            self._scorers[name]
            if contestant.baseline
            else Predictor.load(contestant.folder, contestant.what, self._threads),
            LENGTHS,
            "test",
        )
        return {key: found[key] for key in ("tau", "interval", "prompts", "of")}


def clock_of(threads: int) -> Callable[[], float]:
    """CPU time where one thread does all the work, so that nobody else's work counts.

    With several threads it is the clock: what one waits.
    """
    return time.process_time if threads == 1 else time.perf_counter


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    threads: int | None = None,
    most: int = MOST_CALLS,
) -> dict[str, Speed]:
    """One sample of each a round; the first round only warms up and is left out.

    ``threads`` that compute: with one, seconds are of its CPU time, else of the clock. A sample is
    of ``most`` calls at most, beside the one that comes first.
    """
    names = list(calls)
    found: dict[str, Speed] = {name: {"seconds": [], "cores": (np.inf, 0.0)} for name in names}
    often, last = dict.fromkeys(names, 1), dict.fromkeys(names, 0.0)
    for turn in range(rounds + 1):
        place = turn % len(names)
        for name in names[place:] + names[:place]:
            seconds, cores = _sample(calls[name], often[name], warm=last[name] < WARMED_S)
            last[name] = seconds
            often[name] = max(1, min(most, round(BURST_S / max(seconds, 1e-6))))
            if turn:
                found[name]["seconds"].append(seconds * cores if threads == 1 else seconds)
                least, largest = found[name]["cores"]
                found[name]["cores"] = min(least, cores), max(largest, cores)
    return found


def _sample(call: Callable[[], object], often: int, warm: bool) -> tuple[float, float]:
    """(seconds of a call on the clock, cores it used), after one that only warms up or none."""
    time.sleep(_SETTLE_S)
    with no_collection():
        if warm:  # what the contestant before threw out of the caches comes back
            call()
        start, used = time.perf_counter(), time.process_time()
        for _ in range(often):
            call()
        seconds, used = time.perf_counter() - start, time.process_time() - used
    return seconds / often, used / seconds


def main() -> None:
    """Answer orders until the input ends."""
    # Libraries print as they like; answers have the output for themselves.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        setting = json.loads(sys.stdin.readline())
        threads = int(setting["threads"])
        speeds = Speeds(
            [Contestant(**each) for each in setting["contestants"]],
            threads,
            int(setting["longest"]),
            Path(setting["prompts"]),
        )
        print(json.dumps("ready"), file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            action = getattr(speeds, order.pop("do"))
            print(json.dumps(action(**order)), file=answers, flush=True)


if __name__ == "__main__":
    main()
