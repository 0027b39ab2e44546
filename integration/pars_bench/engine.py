"""Measure what scoring costs the engine: tokens per second with ParsScheduler beside stock vLLM.

Both engines are alive at once and take turns: the same prompts, each round others, so that no
score is remembered; every answer has exactly --tokens tokens, so that the order changes nothing
but the scoring's own cost. OUT holds `environment`, `rounds` and `ratio` (ours over stock's
tokens per second: 1 where scoring costs nothing).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pars_bench.outputs import add_output_arguments
from pars_export.errors import ConfigError
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from vllm import LLM

    from pars_bench.client import Prompt
    from pars_bench.progress import Progress

DEMO_PROMPTS = Path(__file__).parent / "demo" / "prompts.jsonl"


class Round(TypedDict):
    """Tokens per second, prompt tokens not counted, in one round."""

    stock: float
    ours: float


class EngineReport(TypedDict):
    """The content of OUT."""

    environment: dict[str, object]
    settings: dict[str, object]
    rounds: list[Round]
    ratio: float
    """Median over the rounds of ours / stock."""
    ratio_quartiles: tuple[float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line of ``pars bench engine``."""
    parser.add_argument("model", help="model folder or hub name")
    parser.add_argument("--predictor", type=Path, required=True, help="predictor folder")
    add_output_arguments(parser)
    parser.add_argument(
        "--prompts", type=Path, default=DEMO_PROMPTS, help="prompts (those of the demo)"
    )
    parser.add_argument("--requests", type=int, default=64, help="of a round (%(default)s)")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer (%(default)s)")
    parser.add_argument("--slots", type=int, default=16, help="running at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="that count (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure, write OUT, and the page where one is wanted."""
    from pars_bench.progress import TerminalProgress
    from pars_bench.server import child_environment, is_cpu_build

    os.environ.update(child_environment(os.environ, is_cpu_build()))
    report = measure(args, TerminalProgress())
    with atomic_file(args.json) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.markdown is not None:
        with atomic_file(args.markdown) as temporary:
            temporary.write_text(render(report, _command(args)), encoding="utf-8")
    return 0


def measure(args: argparse.Namespace, progress: Progress) -> EngineReport:
    """Start both engines, let them take turns, end them."""
    import numpy as np

    from pars_bench.environment import describe_machine
    from pars_bench.promptfile import read_prompts

    prompts = read_prompts(args.prompts)
    needed = args.requests * (args.rounds + 1)
    if len(prompts) < needed:
        raise ConfigError(
            f"{args.prompts} holds {len(prompts)} prompts; {args.rounds} rounds and one to warm up "
            f"need {needed}: give a larger file, or fewer --requests or --rounds."
        )
    random.Random(args.seed).shuffle(prompts)
    environment = describe_machine() | {"load_average": round(os.getloadavg()[0], 1)}
    pars = {"predictor": str(args.predictor.absolute())}
    rounds: list[Round] = []
    with ExitStack() as stack:
        progress.say("starting stock vLLM")
        stock = _engine(stack, args.model, args.slots)
        progress.say("starting vLLM with ParsScheduler")
        ours = _engine(
            stack,
            args.model,
            args.slots,
            scheduler_cls="pars_vllm.ParsScheduler",
            additional_config={"pars": pars},
        )
        for turn in range(args.rounds + 1):
            batch = prompts[turn * args.requests : (turn + 1) * args.requests]
            if turn % 2:
                ours_speed = _tokens_per_second(ours, batch, args.tokens)
                stock_speed = _tokens_per_second(stock, batch, args.tokens)
            else:
                stock_speed = _tokens_per_second(stock, batch, args.tokens)
                ours_speed = _tokens_per_second(ours, batch, args.tokens)
            progress.say(f"round {turn}: stock {stock_speed:.0f}, ours {ours_speed:.0f} tokens/s")
            if turn:  # the first one only warms up
                rounds.append({"stock": stock_speed, "ours": ours_speed})
    ratios = np.array([each["ours"] / each["stock"] for each in rounds])
    low, high = np.percentile(ratios, (25, 75))
    names = ("requests", "tokens", "slots", "seed")
    return {
        "environment": environment,
        "settings": {name: getattr(args, name) for name in names},
        "rounds": rounds,
        "ratio": float(np.median(ratios)),
        "ratio_quartiles": (float(low), float(high)),
    }


def render(report: EngineReport, command: str) -> str:
    """The page; ``command`` made ``report``."""
    from pars_bench.facts import flatten

    facts = [*flatten(report["environment"]), *flatten(report["settings"])]
    low, high = report["ratio_quartiles"]
    rows = [
        f"| {number} | {each['stock']:.1f} | {each['ours']:.1f} | "
        f"{each['ours'] / each['stock']:.3f} |"
        for number, each in enumerate(report["rounds"], start=1)
    ]
    return "\n".join(
        [
            "# What scoring costs in tokens per second",
            "",
            f"Made by `{command}`; run it again to get your own numbers.",
            "",
            *(f"- {name}: {value}" for name, value in facts),
            "",
            f"With scoring the engine makes **{report['ratio']:.3f}** times the tokens per second "
            f"of stock vLLM (median of the rounds; quartiles {low:.3f} to {high:.3f}).",
            "",
            "Two engines on the same machine take turns with the same prompts. All answers are "
            "equally long, so a better order gains nothing here: this is the price alone.",
            "",
            "| round | stock, tokens/s | with scoring, tokens/s | ratio |",
            "|---:|---:|---:|---:|",
            *rows,
            "",
        ]
    )


def _command(args: argparse.Namespace) -> str:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    named = ["predictor", "json", "markdown", "prompts", "requests", "tokens", "slots", "rounds"]
    given = [
        f"--{name} {getattr(args, name)}"
        for name in [*named, "seed"]
        if getattr(args, name) != parser.get_default(name)
    ]
    return " ".join(["pars bench engine", args.model, *given])


def _engine(stack: ExitStack, model: str, slots: int, **scheduler: object) -> LLM:
    from vllm import LLM

    from pars_bench.server import is_cpu_build
    from pars_model.device import engine_dtype

    llm = LLM(
        model=model,
        max_num_seqs=slots,
        max_model_len=2048,
        dtype=engine_dtype(is_cpu_build()),
        enforce_eager=True,
        disable_log_stats=True,
        **scheduler,
    )
    stack.callback(llm.llm_engine.engine_core.shutdown)
    return llm


def _tokens_per_second(llm: LLM, prompts: Sequence[Prompt], tokens: int) -> float:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    start = time.perf_counter()
    answers = llm.chat([list(prompt.messages) for prompt in prompts], sampling, use_tqdm=False)
    seconds = time.perf_counter() - start
    return sum(len(answer.outputs[0].token_ids) for answer in answers) / seconds
