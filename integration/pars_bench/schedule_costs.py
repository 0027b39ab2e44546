"""What a whole ``schedule()`` call and ``add_request`` cost: ours against stock vLLM's policies.

**The steady state of a busy server.** ``SLOTS`` requests run and decode one token a step; a
response ends after ``MEAN_TOKENS`` tokens on average (geometric, so that the state is steady from
the start); then the scheduler admits the next of its ``waiting`` requests, and a new one arrives in
the place of that. So most of a call is vLLM's own pass over the running requests, about
``SLOTS / MEAN_TOKENS`` requests are admitted in a call, and as many scores come in. The scorer
process is alive and answers what it is asked. In an overload that lasts, each request becomes
urgent once, some time after it was scored; patience is small here, so that this happens at its true
rate from the start.

In a server that has run for hours, requests that wait lie scattered in memory, as each took what
others had left. So the requests that wait at the start are made in random order, for all three
alike: made in a row, arrival order alone would find them side by side, which is worth some percent
and is true of no server.

All three see the same load: the k-th request that a scheduler admits gets the k-th response length,
and scores say nothing about lengths, so that in every step as many requests run, end and are
admitted here as there, whatever the order; ``min_concordance`` is 0, or such scores would lose the
order. KV blocks do not run out. What is timed is the call alone, not the made-up model output
between two calls.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vllm.config import VllmConfig
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from pars_bench.modelless import (
    STOP,
    bytes_tokenizer,
    make_config,
    make_request,
    make_scheduler,
)
from pars_bench.sidebyside import FCFS, OURS, PRIORITY, Case, Stopwatch, case_of, take_turns
from pars_export.errors import PredictorError
from pars_export.table import write_table_predictor
from pars_vllm import ParsScheduler

SLOTS = 256
"""Running requests: vLLM's usual ``--max-num-seqs``."""
BUDGET = 8192
"""Tokens of a step."""
BLOCKS = 60_000
"""KV blocks; more than the running requests ever need."""
PROMPT_TOKENS = 64
MEAN_TOKENS = 300
STEPS = 3
"""Calls in a sample: few, so that the three are measured in the same moment of a busy machine."""
OFTEN = 8
"""Rounds of ``schedule()`` for each of any other operation: its ratio lies so near the goal that
few would not decide on which side."""
WARM = 1_024
"""Requests that end before anything is measured: by then the predictor is judged at its usual pace,
which is faster at the start."""
PROMPTS_OF = (100, 1_000, 100_000)
"""Prompt tokens of the requests added, in as many cases."""
ADDED = 8
"""Requests added in a sample."""
_OTHER = 65
_PATIENCE = 0.05
"""Of the policy: works are some hundred steps, so a request is urgent after a dozen or two."""
_WAIT_S = 600.0


@dataclass(frozen=True)
class Job:
    """A request to come."""

    prompt: list[int]
    work: int
    """What our predictor expects, and what stock's priority queue gets as the priority."""


class BusyServer:
    """A scheduler in the steady state; each method is one sample in microseconds."""

    def __init__(
        self,
        scheduler: Scheduler,
        jobs: Sequence[Job],
        waiting: int,
        seed: int,
        warm: int = WARM,
    ) -> None:
        self._scheduler = scheduler
        self._jobs = jobs
        lengths = random.Random(seed)
        self._lengths = iter(lambda: 1 + int(lengths.expovariate(1 / MEAN_TOKENS)), None)
        self._left: dict[str, int] = {}
        self._arrived = 0
        self._ended = 0
        self._added = 0
        numbers = list(range(waiting + SLOTS))
        lengths.shuffle(numbers)
        made = {number: self._make(number) for number in numbers}
        for number in range(waiting + SLOTS):
            self._arrive(made.pop(number))
        self._await_scores()
        while len(scheduler.running) < SLOTS or self._ended < warm:
            self._run(scheduler.schedule())

    def schedule(self) -> float:
        """Calls of ``schedule()``; between two of them the model's output is made up."""
        watch = Stopwatch()
        for _ in range(STEPS):
            with watch.running():
                output = self._scheduler.schedule()
            self._run(output)
        return watch.each(STEPS)

    def add_request(self, tokens: int) -> float:
        """Calls of ``add_request`` with prompts of ``tokens`` tokens never seen before."""
        requests = []
        for _ in range(ADDED):
            self._added += 1
            prompt = [self._added, *range(100, 99 + tokens)]
            requests.append(make_request(f"added{self._added}", prompt, hashing=False))
        watch = Stopwatch()
        with watch.running():
            for request in requests:
                self._scheduler.add_request(request)
        names = [request.request_id for request in requests]
        self._scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)
        self._await_scores()
        self._run(self._scheduler.schedule())
        return watch.each(ADDED)

    def _make(self, number: int) -> Request:
        job = self._jobs[number]
        return make_request(f"r{number}", job.prompt, priority=job.work, arrival=float(number))

    def _arrive(self, request: Request) -> None:
        self._arrived += 1
        self._scheduler.add_request(request)

    def _await_scores(self) -> None:
        if not isinstance(self._scheduler, ParsScheduler):
            return
        assert self._scheduler.pars_scorer is not None
        if not self._scheduler.pars_scorer.wait(_WAIT_S):
            raise PredictorError(
                f"The scorer process has not answered for {_WAIT_S:g} s: its log lines above "
                f"say why; run the benchmark again on a less busy machine."
            )

    def _run(self, output: SchedulerOutput) -> None:
        """Make up the model's output of a step; each ended request is followed by a new arrival."""
        for new in output.scheduled_new_reqs:
            self._left[new.req_id] = next(self._lengths)
        names = list(output.num_scheduled_tokens)
        sampled = []
        ended = 0
        for name in names:
            self._left[name] -= 1
            if self._left[name] == 0:
                del self._left[name]
                ended += 1
                sampled.append([STOP])
            else:
                sampled.append([_OTHER])
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        self._scheduler.update_from_output(output, result)
        self._ended += ended
        for _ in range(ended):
            self._arrive(self._make(self._arrived))


def make_jobs(count: int, seed: int, predictor: Path) -> list[Job]:
    """Jobs whose prompts are equally long, so that each costs the KV cache the same.

    Writes the ``predictor`` folder that knows their expected lengths.
    """
    draw = random.Random(seed)
    tokenizer = bytes_tokenizer()
    texts = [f"{index:08d}".ljust(PROMPT_TOKENS, "x") for index in range(count)]
    works = [1 + int(draw.lognormvariate(5, 1)) for _ in texts]
    write_table_predictor(predictor, dict(zip(texts, map(float, works), strict=True)))
    return [Job(tokenizer.encode(text).ids, work) for text, work in zip(texts, works, strict=True)]


def busy_config(
    model: Path, policy: str = "fcfs", pars: dict[str, object] | None = None
) -> VllmConfig:
    """Configuration of the busy server."""
    return make_config(model, slots=SLOTS, budget=BUDGET, blocks=BLOCKS, policy=policy, pars=pars)


def measure_scheduler(model: Path, waiting: int, rounds: int, seed: int) -> list[Case]:
    """A ``schedule()`` call and ``add_request`` with ``waiting`` requests in the queue.

    ``model``: a folder of :func:`pars_bench.modelless.describe_model`; the predictor's is made
    beside it.
    """
    # More than can arrive: about a request ends in a step.
    count = waiting + SLOTS + 2 * WARM + 4 * (rounds + 1) * (OFTEN * STEPS + len(PROMPTS_OF))
    predictor = model.parent / f"predictor-{waiting}"
    jobs = make_jobs(count, seed, predictor)
    pars: dict[str, object] = {
        "predictor": str(predictor),
        "max_pending": waiting + SLOTS,
        "patience": _PATIENCE,
        "min_concordance": 0.0,
    }
    configs = {
        OURS: (ParsScheduler, busy_config(model, pars=pars)),
        FCFS: (Scheduler, busy_config(model)),
        PRIORITY: (Scheduler, busy_config(model, policy="priority")),
    }
    with ExitStack() as stack:
        servers = {}
        for name, (cls, config) in configs.items():
            scheduler = make_scheduler(cls, config)
            stack.callback(scheduler.shutdown)
            servers[name] = BusyServer(scheduler, jobs, waiting, seed)
        samples = take_turns(
            {name: each.schedule for name, each in servers.items()}, OFTEN * rounds
        )
        cases = [case_of("schedule", waiting, samples)]
        for tokens in PROMPTS_OF:
            samples = take_turns(
                {name: _adding(server, tokens) for name, server in servers.items()}, rounds
            )
            cases.append(case_of(f"add_request, {tokens} tokens", waiting, samples))
    return cases


def _adding(server: BusyServer, tokens: int) -> Callable[[], float]:
    return lambda: server.add_request(tokens)
