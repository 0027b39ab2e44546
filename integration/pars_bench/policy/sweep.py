"""Patience and share over loads and predictors, in a simulated queue: what each setting costs.

Log-normal lengths in 64 slots, Poisson arrivals at three loads and a burst, predictors of three
qualities. The waiting order is the real one, ``pars_vllm.order.WaitingOrder``. Interrupted, it goes
on where it was.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from pars_bench import experiment
from pars_bench.experiment import Facts, compute
from pars_bench.policy.page import write_page
from pars_bench.policy.slots import Array, draw_traffic, expectations, serve
from pars_bench.progress import TerminalProgress
from pars_export.signals import exit_on_sigterm
from pars_vllm.policy import Policy

SLOTS = 64
LOADS: dict[str, float | None] = {"0.95": 0.95, "1.05": 1.05, "1.30": 1.3, "burst": None}
TAUS = (0.62, 0.5, 0.38)
PATIENCES = (5.0, 10.0, 20.0, 50.0)
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
BURST_PART = 5
"""A burst has one fifth of the requests: it only drains, and drains alike at any size."""
NEVER = 1e9
"""A patience that nobody runs out of."""
MODULES = ("pars_vllm.order", "pars_vllm.policy", "pars_bench.policy.slots", __name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars bench policy``."""
    experiment.add_arguments(parser, 20_000)


def run(args: argparse.Namespace) -> int:
    """Compute what is not there yet; write the page."""
    cells = {
        f"load-{load}-tau-{tau}-seed-{seed}": Facts(
            load=LOADS[load], tau=tau, seed=seed, requests=args.requests
        )
        for load, tau, seed in itertools.product(LOADS, TAUS, range(args.seeds))
    }
    with exit_on_sigterm():
        results = compute(args.out, cells, measure, MODULES, TerminalProgress())
    if args.page is not None:
        command = f"pars bench policy --out DIR --requests {args.requests} --seeds {args.seeds}"
        write_page(args.page, cells, results, command)
    return 0


def measure(parameters: Facts) -> Facts:
    """All settings on one drawn traffic: each one's ``[gain kept, p99 ratio, slowdown ratio]``.

    Gain kept: (arrival order - setting) / (arrival order - oracle) of mean latency, the oracle
    being least true length first without any bound. The others are ratios to arrival order.
    """
    load, tau, seed = parameters["load"], parameters["tau"], parameters["seed"]
    requests = parameters["requests"]
    assert isinstance(tau, float)
    assert isinstance(seed, int)
    assert isinstance(requests, int)
    assert load is None or isinstance(load, float)
    rng = np.random.default_rng([seed, 7])  # the same traffic for every tau
    traffic = draw_traffic(rng, requests if load else requests // BURST_PART, SLOTS, load)
    expected = expectations(np.random.default_rng([seed, 8]), traffic.lengths, tau)
    unbounded = Policy(patience=NEVER, share=0.0)
    arrival = serve(traffic, SLOTS, unbounded, None)
    oracle = serve(traffic, SLOTS, unbounded, traffic.lengths)

    def against_arrival(latencies: Array) -> list[float]:
        slowdown = (latencies / traffic.lengths).max() / (arrival / traffic.lengths).max()
        tail = np.percentile(latencies, 99) / np.percentile(arrival, 99)
        gain = (arrival.mean() - latencies.mean()) / (arrival.mean() - oracle.mean())
        return [float(gain), float(tail), float(slowdown)]

    settings = {setting_name(*pair): pair for pair in itertools.product(PATIENCES, SHARES)}
    return {
        "oracle_ratio": float(arrival.mean() / oracle.mean()),
        "oracle": against_arrival(oracle),
        "unbounded": against_arrival(serve(traffic, SLOTS, unbounded, expected)),
    } | {
        name: against_arrival(serve(traffic, SLOTS, Policy(patience, share), expected))
        for name, (patience, share) in settings.items()
    }


def setting_name(patience: float, share: float) -> str:
    """How a setting is called in the results: ``20/0.1``."""
    return f"{patience:g}/{share:g}"
