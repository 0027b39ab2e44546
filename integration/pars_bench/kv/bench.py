"""Victim by remaining work, and passing over what does not fit, on a small KV cache.

vLLM's real scheduler and KV cache manager in virtual time, overloaded with log-normal answers and
some giant prompts among them. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from pars_bench import experiment
from pars_bench.experiment import Facts, compute, interval_text
from pars_bench.policy.slots import expectations
from pars_bench.progress import TerminalProgress
from pars_export.files import atomic_file
from pars_export.signals import exit_on_sigterm
from pars_export.table import write_table_predictor

SLOTS, BUDGET = 32, 512
BLOCKS = (120, 240)
"""Of 16 tokens; with all slots taken the requests of this traffic want about 420."""
TAUS = (1.0, 0.5)
MEDIAN, SPREAD, LONGEST, GIANT = 60.0, 1.0, 900, 900
"""Answers and giant prompts; together they fit into the smallest cache, as vLLM demands."""
RATE = 0.2
"""Arrivals per step: more than the caches above let through, so that a queue forms."""
PREFILL_COST = 0.01
ARMS: dict[str, dict[str, object]] = {
    "arrival order (stock)": {"ranking": "off"},
    "least work first": {},
    "+ preempt_longest": {"preempt_longest": True},
    "+ pass_over": {"pass_over": True},
    "+ both": {"preempt_longest": True, "pass_over": True},
}
MEASURES = ("recomputed", "preemptions", "mean", "p99", "makespan")
MODULES = (
    "pars_vllm.scheduler",
    "pars_vllm.kv",
    "pars_vllm.ratio",
    "pars_vllm.order",
    "pars_vllm.policy",
    "pars_bench.kv.drive",
    __name__,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars bench kv``."""
    experiment.add_arguments(parser, 200)


def run(args: argparse.Namespace) -> int:
    """Compute what is not there yet; write the page."""
    cells = {
        f"blocks-{blocks}-tau-{tau}-seed-{seed}": Facts(
            blocks=blocks, tau=tau, seed=seed, requests=args.requests
        )
        for blocks, tau, seed in itertools.product(BLOCKS, TAUS, range(args.seeds))
    }
    with exit_on_sigterm():
        results = compute(args.out, cells, measure, MODULES, TerminalProgress())
    if args.page is not None:
        command = f"pars bench kv --out DIR --requests {args.requests} --seeds {args.seeds}"
        with atomic_file(args.page) as temporary:
            temporary.write_text(render(cells, results, command), encoding="utf-8")
    return 0


def measure(parameters: Facts) -> Facts:
    """Every arm on one drawn traffic."""
    from pars_bench.kv.drive import Job, drive
    from pars_bench.modelless import describe_model

    seed, requests = cast(int, parameters["seed"]), cast(int, parameters["requests"])
    tau, blocks = cast(float, parameters["tau"]), cast(int, parameters["blocks"])
    rng = np.random.default_rng([seed, 3])
    arrivals = np.cumsum(rng.exponential(1 / RATE, size=requests))
    lengths = np.clip(MEDIAN * np.exp(SPREAD * rng.standard_normal(requests)), 1, LONGEST).round()
    prompts = np.exp(np.log(80) + 0.8 * rng.standard_normal(requests)).clip(16, 600)
    prompts = np.where(rng.random(requests) < 0.05, GIANT, prompts).astype(int)
    expected = lengths if tau == 1 else expectations(rng, lengths, tau, MEDIAN, SPREAD)
    texts = [f"{index:06d}".ljust(size, ".") for index, size in enumerate(prompts)]
    jobs = [
        Job(float(at), _byte_ids(text), int(length))
        for at, text, length in zip(arrivals, texts, lengths, strict=True)
    ]
    found: Facts = {}
    with tempfile.TemporaryDirectory() as name:
        model = describe_model(Path(name) / "model")
        table = Path(name) / "table"
        write_table_predictor(table, dict(zip(texts, expected.tolist(), strict=True)))
        for arm, settings in ARMS.items():
            pars = settings if "ranking" in settings else {"predictor": str(table), **settings}
            outcome = drive(
                model,
                jobs,
                pars,
                slots=SLOTS,
                blocks=blocks,
                budget=BUDGET,
                prefill_cost=PREFILL_COST,
            )
            found[arm] = {
                "recomputed": outcome.recomputed,
                "preemptions": outcome.preemptions,
                "mean": statistics.fmean(outcome.latencies),
                "p99": float(np.percentile(outcome.latencies, 99)),
                "makespan": outcome.makespan,
            }
    return found


def _byte_ids(text: str) -> list[int]:
    from pars_bench.modelless import bytes_tokenizer

    return list(bytes_tokenizer().encode(text).ids)


def render(cells: Mapping[str, Facts], results: Mapping[str, Facts], command: str) -> str:
    """The page."""
    parts = [
        "# Ordering by memory",
        f"Made by `{command}`: vLLM's own scheduler and KV cache manager without a model, in "
        f"virtual time (a step takes 1, each prefilled token {PREFILL_COST:g} more), {SLOTS} "
        f"slots, blocks of 16 tokens, no prefix caching; log-normal answers (median {MEDIAN:g}, "
        f"spread {SPREAD:g}, at most {LONGEST}), one prompt in twenty of {GIANT} tokens. Mean over "
        "seeds; the last three columns are ratios to least work first on the same traffic, ± "
        "their 95 % interval.",
    ]
    for blocks, tau in itertools.product(BLOCKS, TAUS):
        seeds = [
            cast(dict[str, dict[str, float]], results[name])
            for name, parameters in cells.items()
            if (parameters["blocks"], parameters["tau"]) == (blocks, tau)
        ]
        predictor = "true lengths" if tau == 1 else f"a predictor of tau {tau:g}"
        parts += [f"## {blocks} blocks, {predictor}", _table(seeds)]
    return "\n\n".join(parts) + "\n"


def _table(seeds: list[dict[str, dict[str, float]]]) -> str:
    lines = [
        "| order | preemptions | tokens recomputed | recomputed | mean time to last token | p99 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in ARMS:
        cells = [
            f"{statistics.fmean(facts[arm][name] for facts in seeds):.0f}"
            for name in ("preemptions", "recomputed")
        ]
        for name in ("recomputed", "mean", "p99"):
            ratios = [
                facts[arm][name] / facts["least work first"][name]
                for facts in seeds
                if facts["least work first"][name]
            ]
            cells.append(interval_text(ratios) if ratios else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)
