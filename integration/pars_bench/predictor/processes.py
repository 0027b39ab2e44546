"""Child processes that measure: started with a thread count that holds, ended with this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from pars_bench.predictor.contestants import Contestant
from pars_export.errors import ParsError


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a process whose libraries may start so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(names, str(threads)),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


class Child:
    """A module of this package as a process that answers lines of JSON; a context manager."""

    def __init__(self, module: str, threads: int) -> None:
        # Bound before it starts: a thread keeps the CPUs of the one that started it. The last
        # ones, for the first serves the machine's interrupts.
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(before)[-threads:])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"pars_bench.predictor.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(threads),
                text=True,
            )
        finally:
            os.sched_setaffinity(0, before)
        self._module = module

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def send(self, order: Mapping[str, object]) -> None:
        """Write one order."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """The next answer.

        Raises:
            ParsError: the process ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ParsError(
                f"The process that measures ({self._module}) ended with status "
                f"{self._process.wait()}; its last words stand above."
            )
        return json.loads(line)

    def ask(self, **order: object) -> Any:
        """Send an order, wait for its answer."""
        self.send(order)
        return self.receive()


def measure_start(contestant: Contestant, longest: int, texts: Sequence[str]) -> dict[str, object]:
    """Seconds until a fresh process with one thread can score, and its memory before and after."""
    start = time.perf_counter()
    with Child("loading", threads=1) as child:
        loaded = child.ask(
            contestant=asdict(contestant),
            threads=1,
            longest=longest if contestant.baseline else None,
        )
        seconds = time.perf_counter() - start
        child.ask(texts=list(texts), anew=False)
        peak = child.ask(texts=[" ".join(texts)], anew=False)
        return {"seconds": seconds, **loaded, "peak_mib": peak}


def measure_memory(
    contestant: Contestant, threads: int, longest: int, calls: Iterable[Sequence[str]]
) -> list[float | None]:
    """The most memory, in MiB, of one fresh process in each of some calls, one after another."""
    with Child("loading", threads) as child:
        child.ask(contestant=asdict(contestant), threads=threads, longest=longest)
        return [child.ask(texts=list(texts), anew=True) for texts in calls]


def start_speeds(
    contestants: Sequence[Contestant], threads: int, longest: int, prompts: Path
) -> Child:
    """The process in which everyone takes turns, ready."""
    child = Child("speed", threads)
    try:
        child.send(
            {
                "threads": threads,
                "contestants": [asdict(each) for each in contestants],
                "longest": longest,
                "prompts": str(prompts),
            }
        )
        child.receive()
    except BaseException as error:
        child.__exit__(type(error), error, None)
        raise
    return child
