"""Measure what an order of the waiting queue gains, side by side."""

from __future__ import annotations

import argparse
import importlib

# name -> (module with add_arguments and run, one line of help)
BENCHMARKS: dict[str, tuple[str, str]] = {
    "serving": ("pars_bench.serving", "a real vLLM server under load, one order after another"),
    "scheduler": ("pars_bench.scheduler", "what ordering costs the engine, beside stock vLLM"),
    "engine": ("pars_bench.engine", "tokens per second with scoring, beside stock vLLM"),
    "predictor": (
        "pars_bench.predictor.bench",
        "what scoring a prompt costs, beside the baselines",
    ),
    "modelopt": (
        "pars_bench.predictor.modelopt",
        "what nvidia-modelopt's int8 and fp16 keep of the order, beside ours",
    ),
    "report": ("pars_bench.report", "write report.html and plots again from a results folder"),
    "policy": ("pars_bench.policy.sweep", "patience and share in a simulated queue"),
    "replay": ("pars_bench.study.bench", "what every order gains, by traffic, load and engine"),
    "kv": ("pars_bench.kv.bench", "ordering by memory on a small KV cache"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand per benchmark."""
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    for name, (module_name, summary) in BENCHMARKS.items():
        module = importlib.import_module(module_name)
        module.add_arguments(
            benchmarks.add_parser(
                name,
                help=summary,
                description=(module.__doc__ or summary).strip(),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    module_name, _ = BENCHMARKS[args.benchmark]
    return int(importlib.import_module(module_name).run(args))
