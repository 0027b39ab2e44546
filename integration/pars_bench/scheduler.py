"""Measure what ordering costs the engine: our waiting queue and scheduler against stock vLLM's.

vLLM's real scheduler and KV cache manager with a model that is described but not loaded, a live
scorer process, and three contestants that take turns: ours, stock FCFS, stock priority. Operations
on the queue, a whole schedule() call and add_request, at several lengths of the waiting queue.
OUT holds `environment` and `cases`; ratios are ours over stock's, below 1 where ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pars_bench.outputs import add_output_arguments
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from pars_bench.progress import Progress
    from pars_bench.sidebyside import Case

WAITING = (100, 10_000, 100_000)
ROUNDS = 25


class SchedulerReport(TypedDict):
    """The content of OUT."""

    environment: dict[str, object]
    cases: list[Case]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of ``pars bench scheduler``."""
    add_output_arguments(parser)
    parser.add_argument(
        "--waiting",
        type=_at_least_two,
        nargs="+",
        default=WAITING,
        metavar="N",
        help=f"lengths of the waiting queue ({' '.join(map(str, WAITING))})",
    )
    parser.add_argument(
        "--rounds",
        type=_at_least_two,
        default=ROUNDS,
        help="samples of each; schedule() gets eight times as many (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the load (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure, write OUT, and the page where one is wanted."""
    from pars_bench.progress import TerminalProgress

    # One configuration after another is made here; what vLLM says of each is not our result.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    report = measure(args.waiting, args.rounds, args.seed, TerminalProgress())
    with atomic_file(args.json) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.markdown is not None:
        from pars_bench.scheduler_page import write_page

        write_page(args.markdown, report, f"pars bench scheduler {_arguments(args)}")
    return 0


def measure(
    waiting: tuple[int, ...], rounds: int, seed: int, progress: Progress
) -> SchedulerReport:
    """Every case at every length of the queue; minutes at 100,000."""
    from pars_bench.environment import describe_machine
    from pars_bench.modelless import describe_model
    from pars_bench.queue_costs import measure_queue
    from pars_bench.schedule_costs import measure_scheduler

    environment = describe_machine() | {"load_average": round(os.getloadavg()[0], 1)}
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        model = describe_model(Path(folder) / "model")
        for length in waiting:
            progress.say(f"{length} waiting: operations on the queue")
            cases += measure_queue(length, rounds, seed)
            progress.say(f"{length} waiting: schedule() and add_request")
            cases += measure_scheduler(model, length, rounds, seed)
    return {"environment": environment, "cases": cases}


def _arguments(args: argparse.Namespace) -> str:
    given = [f"--json {args.json}", f"--markdown {args.markdown}"]
    if tuple(args.waiting) != WAITING:
        given.append(f"--waiting {' '.join(map(str, args.waiting))}")
    if args.rounds != ROUNDS:
        given.append(f"--rounds {args.rounds}")
    if args.seed:
        given.append(f"--seed {args.seed}")
    return " ".join(given)


def _at_least_two(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is too few, 2 or more are needed")
    return value
