"""Is the replay right? The same bursts on this machine's live engine and in virtual time.

Both get the same prompts and forced lengths, all queued before the first step. The live engine
gives the steps it took and their seconds; the step-time model is fitted to one burst and the replay
of another, which it has not seen, is compared with it: step for step, and in time.

`python -m pars_bench.replay.validate --model DIR --out steps.json` prints the comparison and writes
the first burst's steps, as `pars replay --fit` reads them; `--page` writes the comparison as a
page. It needs a vLLM that can run the model, and runs it in its own process. The exit status is 1
where a step differs or a time is further off than ``TIME_BOUND``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pars_bench.environment import describe_machine
from pars_bench.facts import flatten
from pars_bench.replay.columns import read_columns
from pars_bench.replay.costmodel import StepTime
from pars_bench.replay.driver import Clock, Driver, work_of
from pars_bench.replay.engine import EngineOptions, make_engine
from pars_bench.replay.fit import fit_step_time
from pars_bench.replay.record import Record
from pars_bench.replay.requests import RequestMaker, prompt_ids
from pars_bench.replay.traffic import TrafficRequest
from pars_export.files import atomic_file

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.scheduler import Scheduler

CONTEXT = 2048
SHARED = 64
"""Prompt tokens of a block that several requests share."""
CPU_BLOCK = 32
"""Tokens of a KV block: the fewest that vLLM's CPU attention takes."""

TIME_BOUND = 0.2
"""How far off the times of a burst and of its mean request may be."""


@dataclass(frozen=True)
class Step:
    """One step, live or replayed."""

    requests: int
    tokens: int
    context: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A burst that was served."""

    steps: list[Step]
    ended_s: list[float]
    """Seconds from the first step to each request's last token, by request."""


@dataclass(frozen=True)
class Comparison:
    """A burst live, and replayed with a step-time model fitted to another."""

    same_steps: bool
    """Whether every step had the same requests, tokens and context."""
    steps: int
    live_s: float
    replayed_s: float
    mean_latency_error: float
    """Of the mean time to last token: replayed over live, less one."""
    request_latency_error: float
    """Median over requests of how far off each one's time to last token is, without its sign."""
    fit_relative_error: float
    """Median error of a single step in the burst that was fitted to."""

    @property
    def time_error(self) -> float:
        """Of the whole burst's time: replayed over live, less one."""
        return self.replayed_s / self.live_s - 1

    @property
    def in_time(self) -> bool:
        """Whether the burst and the mean request end within ``TIME_BOUND`` of the live ones."""
        return max(abs(self.time_error), abs(self.mean_latency_error)) <= TIME_BOUND


def burst(seed: int, count: int) -> list[TrafficRequest]:
    """Requests of mixed lengths, all at second 0; some share the start of their prompt."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        blocks = draw.choice(((), (1,), (1, 2)))
        prompt_tokens = SHARED * len(blocks) + draw.choice((5, 40, 200))
        length = min(200, max(1, int(draw.lognormvariate(3.0, 0.8))))
        found.append(TrafficRequest(0.0, prompt_tokens, length, blocks=blocks))
    return found


def live_engine(model: Path, slots: int, budget: int, dtype: str = "bfloat16") -> LLM:
    """The live engine in this process, in arrival order by our class."""
    from vllm import LLM

    return LLM(
        model=str(model),
        dtype=dtype,
        enforce_eager=True,
        max_model_len=CONTEXT,
        max_num_seqs=slots,
        max_num_batched_tokens=budget,
        block_size=CPU_BLOCK,
        enable_prefix_caching=True,
        scheduler_cls="pars_vllm.ParsScheduler",
        additional_config={"pars": {"ranking": "off"}},
    )


def serve_live(
    engine: LLM,
    requests: Sequence[TrafficRequest],
    prefix: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Serve a burst on the live engine; ``prefix`` makes its request ids unlike other bursts'."""
    from vllm import SamplingParams

    core = engine.llm_engine.engine_core.engine_core
    core.scheduler.reset_prefix_cache()
    for index, request in enumerate(requests):
        engine.llm_engine.add_request(
            f"{prefix}{index}",
            {"prompt_token_ids": prompt_ids(request, index, SHARED)},
            SamplingParams(max_tokens=request.output_tokens, ignore_eos=True, temperature=0),
        )
    ended = [0.0] * len(requests)
    seconds: list[float] = []
    start = before = clock()
    with _Watch(core.scheduler) as watch:
        while engine.llm_engine.has_unfinished_requests():
            outputs = engine.llm_engine.step()
            now = clock()
            seconds.append(now - before)
            before = now
            for output in outputs:
                if output.finished:
                    ended[int(output.request_id.removeprefix(prefix))] = now - start
    steps = [
        Step(step.requests, step.tokens, step.context, taken)
        for step, taken in zip(watch.steps, seconds, strict=True)
        if step.tokens
    ]
    return Outcome(steps, ended)


def options_of(engine: LLM) -> EngineOptions:
    """The live engine's own sizes, for the replay."""
    config = engine.llm_engine.vllm_config
    return EngineOptions(
        kv_blocks=config.cache_config.num_gpu_blocks,
        max_model_len=CONTEXT,
        max_num_seqs=config.scheduler_config.max_num_seqs,
        max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
        block_tokens=config.cache_config.block_size,
        asynchronous=config.scheduler_config.async_scheduling,
    )


def serve_replayed(
    options: EngineOptions, requests: Sequence[TrafficRequest], step_time: StepTime
) -> Outcome:
    """Serve the same burst in virtual time."""
    record = Record(read_columns(requests, options))
    scheduler = make_engine(options, {"ranking": "off"})
    maker = RequestMaker(options, SHARED, forced_lengths=True)
    with _Watch(scheduler) as watch:
        Driver(scheduler, iter(requests), step_time, maker, record, Clock()).run()
    scheduler.shutdown()
    record.check()
    return Outcome([step for step in watch.steps if step.tokens], record.last_token_s.tolist())


def compare(
    engine: LLM, count: int, clock: Callable[[], float] = time.perf_counter, first: int = 0
) -> tuple[Comparison, Outcome]:
    """Fit to the burst of seed ``first``, replay the next; also the burst that was fitted to."""
    # A burst before them, uncounted: an engine's first steps are slow.
    serve_live(engine, burst(first + 2, max(2, count // 4)), "warm-")
    fitted_to = serve_live(engine, burst(first, count), "fit-", clock)
    requests = burst(first + 1, count)
    live = serve_live(engine, requests, "live-", clock)
    tokens, context, seconds = (
        np.asarray([getattr(step, name) for step in fitted_to.steps], dtype=np.float64)
        for name in ("tokens", "context", "seconds")
    )
    model = fit_step_time(tokens, context, seconds, "this machine")
    replayed = serve_replayed(options_of(engine), requests, model)
    shapes = [
        [(step.requests, step.tokens, step.context) for step in outcome.steps]
        for outcome in (live, replayed)
    ]
    comparison = Comparison(
        same_steps=shapes[0] == shapes[1],
        steps=len(live.steps),
        live_s=max(live.ended_s),
        replayed_s=max(replayed.ended_s),
        mean_latency_error=float(np.mean(replayed.ended_s) / np.mean(live.ended_s) - 1),
        request_latency_error=float(
            np.median(np.abs(np.divide(replayed.ended_s, live.ended_s) - 1))
        ),
        fit_relative_error=model.relative_error,
    )
    return comparison, fitted_to


class _Watch:
    """Notes what a scheduler decides, while it is watched."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.steps: list[Step] = []
        self._scheduler = scheduler

    def __enter__(self) -> _Watch:
        schedule = self._scheduler.schedule

        def watched(*args: object, **kwargs: object) -> SchedulerOutput:
            output: SchedulerOutput = schedule(*args, **kwargs)
            tokens, context, _ = work_of(output)
            self.steps.append(Step(len(output.num_scheduled_tokens), tokens, context))
            return output

        self._scheduler.schedule = watched
        return self

    def __exit__(self, *_: object) -> None:
        del self._scheduler.schedule


def render(comparison: Comparison, args: argparse.Namespace) -> str:
    """The comparison as a page; ``args`` are those of the command."""
    clock = "processor" if args.processor_time else "wall-clock"
    same = "the same" if comparison.same_steps else "not the same"
    signed = (
        ("error of the burst's time", comparison.time_error),
        ("error of the mean time to last token", comparison.mean_latency_error),
    )
    unsigned = (
        ("median error of a request's time to last token", comparison.request_latency_error),
        ("median error of a step of the fit", comparison.fit_relative_error),
    )
    rows = [
        ("steps", f"{comparison.steps}, {same} in requests, tokens and context"),
        (f"{clock} seconds of the burst, live", f"{comparison.live_s:.1f}"),
        ("seconds of the burst, replayed", f"{comparison.replayed_s:.1f}"),
        *((name, f"{100 * error:+.1f} %") for name, error in signed),
        *((name, f"{100 * error:.1f} %") for name, error in unsigned),
        *flatten(describe_machine()),
    ]
    return "\n".join(
        (
            "# Is the replay right?",
            "",
            "Made by `python -m pars_bench.replay.validate --model DIR --out steps.json --requests "
            f"{args.requests} --slots {args.slots} --budget {args.budget} --dtype {args.dtype}"
            f"{' --processor-time' if args.processor_time else ''} --page FILE`, the model being "
            f"{args.model.name}: a burst of {args.requests} requests of mixed lengths on the live "
            f"engine, {args.slots} slots and {args.budget} tokens a step, and the same burst in "
            "virtual time, with a step-time model fitted to another burst. Errors are those of "
            "replayed against live; those of a request or a step are without sign. The command "
            "fails where a step differs, or where the burst's time or the mean time to last token "
            f"is off by more than {100 * TIME_BOUND:.0f} %: here they are "
            f"{'within' if comparison.in_time else 'beyond'} that bound.",
            "",
            "| what | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--requests", type=int, default=64, metavar="N")
    parser.add_argument("--slots", type=int, default=8, metavar="N")
    parser.add_argument("--budget", type=int, default=256, metavar="N", help="tokens of a step")
    parser.add_argument(
        "--dtype", default="bfloat16", help="of the weights; float32 where a CPU has no bfloat16"
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count processor seconds, of one thread, and so not what others take of the machine",
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a Markdown page, too")
    args = parser.parse_args(argv)
    if not (args.model / "config.json").is_file():
        parser.error(f"--model {args.model} has no config.json: give the folder of an LLM.")
    for name in ("requests", "slots", "budget"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}: expected at least 1.")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    clock = time.process_time if args.processor_time else time.perf_counter
    engine = live_engine(args.model, args.slots, args.budget, args.dtype)
    comparison, fitted_to = compare(engine, args.requests, clock)
    engine.llm_engine.engine_core.shutdown()
    with atomic_file(args.out) as temporary:
        temporary.write_text(json.dumps([asdict(step) for step in fitted_to.steps]) + "\n")
    print(json.dumps({**asdict(comparison), "time_error": comparison.time_error}, indent=2))
    if args.page is not None:
        with atomic_file(args.page) as temporary:
            temporary.write_text(render(comparison, args), encoding="utf-8")
    return 0 if comparison.same_steps and comparison.in_time else 1


if __name__ == "__main__":
    raise SystemExit(main())
