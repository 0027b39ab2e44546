"""What would I gain? Replay traffic through vLLM's real scheduler in virtual time.

Requests arrive as in the trace; vLLM's own scheduler and KV-cache manager decide every step, under
the very class that serves (pars_vllm.ParsScheduler); the forward pass takes the time that a model
of the GPU and the LLM says. No GPU, no weights, no network. Finished cells (an order at a load with
a seed) are kept in OUT/cells: the same command again goes on where it stopped.
Results: OUT/report.html, OUT/report.json and OUT/requests.parquet.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pars_export.errors import ConfigError

if TYPE_CHECKING:
    from pars_bench.progress import Progress
    from pars_bench.replay.plan import ReplayConfig
    from pars_bench.replay.schema import ReplayReport

MEASURES = ("ttft", "ttlt", "per_token", "tpot")
LIMITS = ("ttft=2", "per_token=0.2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``pars replay``; where one has no default here, ``ReplayConfig`` has it."""
    from pars_bench.replay.hardware import GPUS
    from pars_bench.replay.llms import LLMS
    from pars_bench.replay.policies import DEFAULT, KINDS

    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--trace", type=Path, metavar="FILE", help="the traffic")
    either.add_argument(
        "--report", type=Path, metavar="DIR", help="only write the page of an earlier replay again"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the results of --trace")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (1)")
    parser.add_argument(
        *("--slo",),
        nargs="+",
        default=LIMITS,
        metavar="NAME=S",
        help=f"limits in seconds, of {', '.join(MEASURES)} ({' '.join(LIMITS)})",
    )
    machine = parser.add_argument_group("engine")
    _add(machine, "--llm", str, "LLM preset (llama-3.1-8b)")
    _add(machine, "--gpu", str, "GPU preset (h100)")
    _add(machine, "--tp", int, "GPUs in tensor parallel (the fewest that fit)")
    _add(machine, "--fit", Path, "steps of a live engine to fit the step time to (CSV or JSON)")
    _add(machine, "--step-overhead", float, "seconds of the host in each step (0.002)")
    _add(machine, "--max-num-seqs", int, "as in vllm serve, with its default on the GPU")
    _add(machine, "--max-num-batched-tokens", int, "as in vllm serve, with its default")
    _add(machine, "--max-model-len", int, "longest context (the LLM's, or what fits)")
    _add(machine, "--gpu-memory-utilization", float, "as in vllm serve (0.92)")
    _add(machine, "--kv-blocks", int, "KV blocks of 16 tokens (what fits)")
    for name, what in (("prefix-caching", "vLLM's prefix cache"), ("async", "two batches ahead")):
        machine.add_argument(
            f"--{name}",
            dest="asynchronous" if name == "async" else None,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=f"{what} (on)",
        )
    orders = parser.add_argument_group("orders")
    _add(orders, "--orders", str, f"orders to compare ({' '.join(DEFAULT)})", many=True)
    _add(orders, "--predictor", Path, "predictor folder that pars uses; needs prompts as text")
    _add(orders, "--tau", float, "taus of a score model in its place (0.5)", many=True)
    _add(orders, "--noise", float, "log-normal noise of a score model, in place of a tau")
    _add(orders, "--score-latency", float, "seconds that a score takes (0.02)")
    _add(orders, "--score-rate", float, "prompts scored per second (200)")
    _add(orders, "--patience", float, "as in serving")
    _add(orders, "--share", float, "as in serving")
    traffic = parser.add_argument_group("traffic")
    _add(traffic, "--load", float, "times as densely as in the trace (1)", many=True)
    _add(traffic, "--seed", int, "seeds, one run for each (0)", many=True)
    _add(traffic, "--arrivals", str, "arrival process in place of the trace's own times")
    _add(traffic, "--rate", float, "mean requests per second")
    _add(traffic, "--max-requests", int, "a window of so many requests")
    kinds = "\n".join(f"  {name:15}{what}" for name, what in KINDS.items())
    parser.epilog = (
        f"LLMs: {', '.join(LLMS)}\nGPUs: {', '.join(GPUS)}\n\norders:\n{kinds}\n\n"
        "Without --predictor the scores of pars are the true lengths with as much noise as --tau\n"
        "asks for, and its name in the report says so."
    )


def _add(
    group: argparse._ArgumentGroup, option: str, kind: type, text: str, many: bool = False
) -> None:
    metavar = {int: "N", float: "X", Path: "PATH", str: "NAME"}[kind]
    if many:
        group.add_argument(
            option, type=kind, nargs="+", default=argparse.SUPPRESS, metavar=metavar, help=text
        )
    else:
        group.add_argument(option, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=text)


def run(args: argparse.Namespace) -> int:
    """Replay, write the results, print the means; or only write the page again."""
    from pars_bench.replay.plan import ReplayConfig

    if args.report is not None:
        from pars_bench.replay.page.page import write_page

        print(write_page(args.report))
        return 0
    if args.out is None:
        raise ConfigError("--trace needs --out DIR, the folder for the results.")
    names = {field.name for field in fields(ReplayConfig)}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(args).items()
        if name in names
    }
    report = run_replay(ReplayConfig(**given), args.out, args.jobs, args.slo)
    for found in report["runs"]:
        assert found["ttlt"] is not None
        print(
            f"load {found['load']:g}, seed {found['seed']}, {found['policy']}: mean time to last "
            f"token {found['ttlt']['mean']:.2f} s, p99 {found['ttlt']['p99']:.2f} s, "
            f"{found['throughput']:.0f} tokens/s"
        )
    print(args.out / "report.html")
    return 0


def run_replay(
    config: ReplayConfig,
    out: Path,
    jobs: int = 1,
    limits: Sequence[str] = LIMITS,
    progress: Progress | None = None,
) -> ReplayReport:
    """Run every cell that is not there yet, and write report.json, requests.parquet and the page.

    Args:
        config: The replay.
        out: Folder of the results.
        jobs: Processes.
        limits: ``NAME=SECONDS`` of each SLO.
        progress: Where to say how far it is; the terminal by default.

    Raises:
        ConfigError: an option is out of range.
        InputError: the traffic cannot be used, or not by this engine.
    """
    from pars_bench.progress import TerminalProgress
    from pars_bench.replay.page.page import write_page
    from pars_bench.replay.plan import make_sweep
    from pars_bench.replay.results import report_of, write_results
    from pars_bench.replay.sweep import run_sweep

    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}: expected at least 1.")
    parsed = parse_limits(limits)
    sweep = make_sweep(config)
    cells = run_sweep(sweep, out, jobs, progress or TerminalProgress())
    settings = {**sweep.setting.facts(), "loads": list(config.load), "seeds": list(config.seed)}
    traffics = {seed: sweep.read(seed) for seed in config.seed}
    report = report_of(out, cells, traffics, settings, parsed)
    write_results(out, cells, report)
    write_page(out)
    return report


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """Seconds by measure, out of ``NAME=SECONDS``; ConfigError where one cannot be read."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if name not in MEASURES or not 0 < limit < math.inf:
            raise ConfigError(
                f"--slo {text}: expected NAME=SECONDS with one of {', '.join(MEASURES)} and a "
                "finite number, more than 0."
            )
        found[name] = limit
    return found
