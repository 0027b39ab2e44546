"""Serve the same prompts in several orders with the real `vllm serve`, and compare.

Each order gets a server of its own, with pars_vllm.ParsScheduler and few slots. It answers the
prompts once as a burst and once as Poisson arrivals at a load that queues; the rate comes from the
burst in arrival order and is the same for all. Finished orders are kept in OUT/runs: the same
command again goes on where it stopped. Results: OUT/report.html, report.json, requests.parquet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pars_bench.orders import (
    POLICIES,
    Order,
    check_orders,
    folder_of,
    identity,
    parse_order,
    scheduler_arguments,
)
from pars_bench.progress import Progress, TerminalProgress
from pars_export.errors import ConfigError
from pars_export.files import sha256_file

if TYPE_CHECKING:
    from pars_bench.client import Prompt
    from pars_bench.live import OrderRun
    from pars_bench.schema import Report
    from pars_bench.server import ServerConfig

# Raised whenever the meaning of a stored run changes: older runs are then measured again.
RUN_FORMAT = 2


@dataclass(frozen=True)
class ServingConfig:
    """One comparison."""

    model: str
    """Model folder or hub name."""
    prompts: Path
    """JSONL, Parquet or CSV with ``prompt`` or ``messages``."""
    out: Path
    """Folder of the results."""
    orders: tuple[Order, ...]
    """Orders to compare; arrival order (``fcfs``) must be among them."""
    slots: int = 8
    """Requests that the engine runs at once (``--max-num-seqs``)."""
    requests: int | None = None
    """How many prompts to send, drawn with the seed; all when None."""
    max_tokens: int = 512
    """Response tokens after which an answer is cut."""
    max_model_len: int = 2048
    """Tokens of prompt and response together."""
    load: float = 1.1
    """Poisson rate over the rate at which arrival order finishes requests in its burst while no
    slot is idle; above 1 it queues."""
    seed: int = 0
    """Seed of the submission order and of the arrival times."""
    port: int = 0
    """TCP port on 127.0.0.1; 0 takes a free one."""
    server_args: tuple[str, ...] = ()
    """More arguments of ``vllm serve``; they come last and so win."""
    predictor_facts: Mapping[str, object] | None = None
    """Facts about the predictor measured elsewhere (tau, interval, ceiling, ...)."""


@dataclass(frozen=True)
class ServingResult:
    """What was measured."""

    report: Report
    """The content of report.json."""
    folder: Path
    """Where report.html, report.json, requests.parquet, plots/, logs/ and runs/ are."""
    seconds: Mapping[str, float]
    """Wall-clock seconds that each order took when it was measured, server start included."""


def run_serving(config: ServingConfig, progress: Progress | None = None) -> ServingResult:
    """Measure every order that is not yet measured, and write the report.

    Raises:
        ConfigError: a setting is out of range.
        InputError: the prompts cannot be used.
        ServingError: a server did not start, or a request failed.
    """
    from pars_bench.live import Plan, load_run, measure
    from pars_bench.report import write_report
    from pars_bench.results import write_results

    progress = progress or TerminalProgress()
    config = replace(config, out=config.out.resolve())
    orders = _check(config)
    prompts = _choose_prompts(config)
    runs: dict[str, OrderRun] = {}
    lengths: dict[str, int] = {}
    for order in orders:
        rate = runs["fcfs"].rate if runs else None
        digest = _digest(config, order, prompts, rate, lengths)
        stored = config.out / "runs" / f"{order.policy}.json"
        run = load_run(stored, digest)
        if run is None:
            folder = folder_of(order, config.out / "orders", lengths)
            plan = Plan(
                name=order.policy,
                prompts=prompts,
                max_tokens=config.max_tokens,
                slots=config.slots,
                seed=config.seed,
                load=config.load,
                scored=folder is not None,
                rate=rate,
            )
            server = _server(config, order.policy, folder)
            run = measure(plan, server, served_name(config.model), digest, progress)
            run.save(stored)
        else:
            progress.say(f"{order.policy}: measured before and nothing changed")
        runs[order.policy] = run
        if order.policy == "fcfs":
            answers = run.patterns["burst"].answers
            lengths = {p.text: a.tokens for p, a in zip(prompts, answers, strict=True)}
    report = write_results(
        config.out,
        runs,
        settings=_settings(config, len(prompts), runs["fcfs"].rate),
        predictor=_predictor_facts(config, prompts, runs["fcfs"]),
    )
    write_report(config.out)
    return ServingResult(report, config.out, {name: run.seconds for name, run in runs.items()})


def served_name(model: str) -> str:
    """The name that a model is served and reported under: a folder's own name, never its path."""
    return Path(model).resolve().name if Path(model).exists() else model


def _check(config: ServingConfig) -> tuple[Order, ...]:
    for name in ("slots", "max_tokens", "max_model_len"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}: expected at least 1")
    if not config.load > 0:
        raise ConfigError(f"load is {config.load}: expected more than 0 (above 1 a queue forms)")
    if config.requests is not None and config.requests < 2:
        raise ConfigError(f"requests is {config.requests}: expected at least 2")
    for order in config.orders:
        if order.predictor is not None:
            from pars_export.artifact import read_manifest

            read_manifest(order.predictor)  # an hour later would be a poor time to complain
    return check_orders(config.orders)


def _choose_prompts(config: ServingConfig) -> list[Prompt]:
    from pars_bench.arrivals import submission_order
    from pars_bench.promptfile import read_prompts

    every = read_prompts(config.prompts)
    count = len(every) if config.requests is None else config.requests
    if not 2 <= count <= len(every):
        raise ConfigError(
            f"{config.prompts} holds {len(every)} prompts and {count} requests are to be sent: "
            "expected at least 2, and no more than there are prompts"
        )
    return [every[i] for i in submission_order(len(every), count, config.seed)]


def _server_options(config: ServingConfig) -> tuple[str, ...]:
    from pars_bench.server import is_cpu_build
    from pars_model.device import engine_dtype

    return (
        *("--served-model-name", served_name(config.model)),
        *("--max-num-seqs", str(config.slots)),
        *("--max-model-len", str(config.max_model_len)),
        *("--dtype", engine_dtype(is_cpu_build())),
        # Compilation would cost minutes per server and is not what is compared.
        "--enforce-eager",
        # Both patterns send the same prompts to one server: with a prefix cache the second would
        # find every prompt computed, and each order would find the others' leftovers differently.
        "--no-enable-prefix-caching",
        "--disable-uvicorn-access-log",
        # Without it vLLM kills its engine at once, before the scheduler has logged its counters.
        *("--shutdown-timeout", "10"),
        *config.server_args,
    )


def _server(config: ServingConfig, policy: str, folder: Path | None) -> ServerConfig:
    from pars_bench.server import ServerConfig, free_port, vllm_program

    port = config.port or free_port()
    command = (
        *(vllm_program(), "serve", config.model),
        *("--host", "127.0.0.1", "--port", str(port)),
        *scheduler_arguments(policy, folder),
        *_server_options(config),
    )
    return ServerConfig(command=command, port=port, log=config.out / "logs" / f"{policy}.log")


def _digest(
    config: ServingConfig,
    order: Order,
    prompts: Sequence[Prompt],
    rate: float | None,
    lengths: Mapping[str, int],
) -> str:
    from pars_bench.provenance import provenance, server_environment

    facts = {
        "format": RUN_FORMAT,
        "order": order.policy,
        "identity": identity(order, lengths),
        "model": _model_identity(config.model),
        "prompts": [[p.prompt_id, p.kind, p.messages] for p in prompts],
        # The folder's content is told by the identity; where it lies makes no difference.
        "scheduler": scheduler_arguments(
            order.policy, None if order.policy == "fcfs" else Path("/")
        ),
        "options": _server_options(config),
        "max_tokens": config.max_tokens,
        "load": config.load,
        "rate": rate,
        "seed": config.seed,
        "provenance": provenance(server_environment()),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _model_identity(model: str) -> object:
    folder = Path(model)
    if not folder.is_dir():
        return model
    # Weights are told by name and size: hashing gigabytes would take longer than it is worth.
    return [
        [file.name, sha256_file(file) if file.suffix == ".json" else file.stat().st_size]
        for file in sorted(folder.iterdir())
        if file.is_file()
    ]


def _settings(config: ServingConfig, requests: int, rate: float) -> dict[str, object]:
    return {
        "model": served_name(config.model),
        "prompts": config.prompts.name,
        "requests": requests,
        "slots": config.slots,
        "max_tokens": config.max_tokens,
        "max_model_len": config.max_model_len,
        "load": config.load,
        "poisson_rate_per_s": rate,
        "poisson_rate_is": "load x requests per second that arrival order finished in its burst "
        "while no slot was idle",
        "seed": config.seed,
        "temperature": 0.0,
        "prefix_caching": False,
    }


def _predictor_facts(
    config: ServingConfig, prompts: Sequence[Prompt], fcfs: OrderRun
) -> dict[str, object]:
    from pars_bench.results import predictor_facts

    folders = [order.predictor for order in config.orders if order.predictor is not None]
    if not folders:
        return {"tau": None, "interval": None, "ceiling": None, "milliseconds": None}
    lengths = [answer.tokens for answer in fcfs.patterns["burst"].answers]
    measured = predictor_facts(folders[0], [prompt.text for prompt in prompts], lengths)
    # What was measured elsewhere, on more prompts, comes before what the served ones say; a fact
    # that nobody measured there does not hide one that was measured here.
    given = {k: v for k, v in (config.predictor_facts or {}).items() if v is not None}
    return {**measured, **given}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars bench serving``."""
    required = parser.add_argument_group("what to serve")
    required.add_argument("--model", required=True, help="model folder or hub name")
    required.add_argument(
        "--prompts", required=True, type=Path, help="JSONL, Parquet or CSV with prompt or messages"
    )
    required.add_argument("--out", required=True, type=Path, help="folder of the results")
    required.add_argument(
        "--order",
        action="append",
        metavar="NAME[=DIR]",
        help=f"one of {', '.join(POLICIES)}; repeat; pars=DIR names its predictor folder "
        "(default: fcfs, oracle, prompt_length: what an order could gain here)",
    )
    parser.add_argument("--slots", type=int, default=8, help="requests run at once (8)")
    parser.add_argument("--requests", type=int, help="how many prompts to send (all)")
    parser.add_argument("--max-tokens", type=int, default=512, help="cut answers here (512)")
    parser.add_argument("--max-model-len", type=int, default=2048, help="prompt and answer (2048)")
    parser.add_argument(
        "--load", type=float, default=1.1, help="Poisson load; above 1 a queue grows (1.1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of order and arrival times (0)")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one (0)")
    parser.add_argument(
        "--server-arg", action="append", default=[], help="one more argument of vllm serve; repeat"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write the report and print its table."""
    from pars_bench.report import terminal_table

    names = args.order or ["fcfs", "oracle", "prompt_length"]
    result = run_serving(
        ServingConfig(
            model=args.model,
            prompts=args.prompts,
            out=args.out,
            orders=tuple(parse_order(name) for name in names),
            slots=args.slots,
            requests=args.requests,
            max_tokens=args.max_tokens,
            max_model_len=args.max_model_len,
            load=args.load,
            seed=args.seed,
            port=args.port,
            server_args=tuple(args.server_arg),
        )
    )
    print(terminal_table(result.report))
    print(f"\nreport: {result.folder / 'report.html'}")
    return 0
