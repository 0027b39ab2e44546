"""vLLM's real scheduler without a model: made-up tokens, synchronous or two batches ahead."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

BLOCK = 16
STOP = 2
"""The token that ends a response."""
OTHER = 5


@dataclass
class Job:
    """A request to be made, and what will become of it."""

    id: str
    prompt: list[int]
    length: int
    """Tokens after which it stops by itself."""
    at: int = 0
    """Step before which it arrives."""
    abort_at: int | None = None
    max_tokens: int = 1000
    priority: int = 0


@dataclass
class Step:
    """What one schedule() decided."""

    tokens: list[tuple[str, int]]
    new: list[str]
    resumed: list[str]
    preempted: list[str]


@dataclass
class History:
    """What happened to a workload."""

    steps: list[Step] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    """In the order of their ends, aborted ones left out."""

    @property
    def admitted(self) -> list[str]:
        return [name for step in self.steps for name in step.new]

    @property
    def preemptions(self) -> int:
        return sum(len(step.preempted) for step in self.steps)


def make_config(
    model: Path,
    *,
    slots: int = 4,
    budget: int = 256,
    blocks: int = 1000,
    prefix_caching: bool = True,
    asynchronous: bool = False,
    policy: str = "fcfs",
    pars: dict[str, object] | None = None,
) -> VllmConfig:
    """vLLM's configuration for the tiny model, with a KV cache of ``blocks`` blocks."""
    config = EngineArgs(
        model=str(model),
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=slots,
        max_num_batched_tokens=budget,
        enable_prefix_caching=prefix_caching,
        block_size=BLOCK,
        scheduling_policy=policy,
        enforce_eager=True,
        additional_config={"pars": pars} if pars is not None else {},
    ).create_engine_config()
    config.cache_config.num_gpu_blocks = blocks
    # vLLM's CPU platform forces this off; the scheduler itself needs no GPU.
    config.scheduler_config.async_scheduling = asynchronous
    return config


def make_scheduler(cls: type[Scheduler], config: VllmConfig) -> Scheduler:
    """A scheduler as the engine core makes one."""
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=32, dtype=torch.bfloat16)
    kv_cache = KVCacheConfig(
        num_blocks=config.cache_config.num_gpu_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
    )
    return cls(
        vllm_config=config,
        kv_cache_config=kv_cache,
        structured_output_manager=StructuredOutputManager(config),
        include_finished_set=False,
        log_stats=False,
        block_size=BLOCK,
        hash_block_size=BLOCK,
    )


def make_request(job: Job, *, hashing: bool = True) -> Request:
    """A request as the engine core makes one."""
    params = SamplingParams(max_tokens=job.max_tokens, stop_token_ids=[STOP])
    function = get_hash_fn_by_name("sha256")
    init_none_hash(function)
    return Request(
        request_id=job.id,
        prompt_token_ids=list(job.prompt),
        sampling_params=params,
        pooling_params=None,
        arrival_time=float(job.at),
        priority=job.priority,
        block_hasher=get_request_block_hasher(BLOCK, function) if hashing else None,
    )


class Driver:
    """Steps a scheduler; with an asynchronous one, a second batch is scheduled before the first
    one's output is known, as the engine core does it."""

    def __init__(self, scheduler: Scheduler, jobs: Sequence[Job] = ()) -> None:
        self.scheduler = scheduler
        self.history = History()
        self._lengths: dict[str, int] = {}
        self._depth = 2 if scheduler.scheduler_config.async_scheduling else 1
        self._flying: deque[tuple[SchedulerOutput, list[str]]] = deque()
        self._future = sorted(jobs, key=lambda job: job.at)
        self._aborts = [job for job in jobs if job.abort_at is not None]
        self._step = 0

    def add(self, job: Job) -> Request:
        self._lengths[job.id] = job.length
        request = make_request(job)
        self.scheduler.add_request(request)
        return request

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def run(self, limit: int = 20_000) -> History:
        """Until all is done."""
        while self._future or self.scheduler.has_unfinished_requests() or self._flying:
            assert self._step < limit, "the workload does not end"
            self.step()
        return self.history

    def step(self) -> Step | None:
        """One turn of the engine's loop."""
        while self._future and self._future[0].at <= self._step:
            self.add(self._future.pop(0))
        for job in self._aborts:
            if job.abort_at == self._step:
                self.abort(job.id)
        self._step += 1
        output = self.scheduler.schedule()
        step = Step(
            tokens=list(output.num_scheduled_tokens.items()),
            new=[new.req_id for new in output.scheduled_new_reqs],
            resumed=sorted(output.scheduled_cached_reqs.resumed_req_ids),
            preempted=sorted(output.preempted_req_ids or ()),
        )
        self.history.steps.append(step)
        requests = self.scheduler.requests
        samples = [
            name for name in output.num_scheduled_tokens if not requests[name].is_prefill_chunk
        ]
        if output.num_scheduled_tokens:
            self._flying.append((output, samples))
        if len(self._flying) == self._depth or (self._flying and not output.num_scheduled_tokens):
            self._update()
        return step

    def _update(self) -> None:
        output, samples = self._flying.popleft()
        names = list(output.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for name in names:
            request = self.scheduler.requests.get(name)
            token = OTHER
            if request is not None and request.num_output_tokens + 1 >= self._lengths[name]:
                token = STOP
            sampled.append([token] if name in samples else [])
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        for outputs in self.scheduler.update_from_output(output, result).values():
            ended = [each.request_id for each in outputs.outputs if each.finish_reason is not None]
            self.history.finished += ended


def random_jobs(seed: int, count: int = 60, **fixed: Any) -> list[Job]:
    """A recorded workload: bursts, shared prefixes, long prompts, aborts, priorities."""
    draw = random.Random(seed)
    prefixes = [[draw.randrange(10, 250) for _ in range(64)] for _ in range(3)]
    jobs = []
    at = 0
    for index in range(count):
        at += draw.choice((0, 0, 0, 1, 5, 20))
        own = [draw.randrange(10, 250) for _ in range(draw.choice((3, 20, 90, 300)))]
        job = Job(
            id=f"r{index}",
            prompt=draw.choice(prefixes) + own if draw.random() < 0.5 else own,
            length=max(1, int(draw.lognormvariate(3, 1))),
            at=at,
            abort_at=at + draw.randrange(0, 60) if draw.random() < 0.15 else None,
            max_tokens=draw.choice((30, 200, 200)),
            priority=draw.choice((0, 0, 1, -3)),
        )
        for name, value in fixed.items():
            setattr(job, name, value)
        jobs.append(job)
    return jobs
