"""From what a user asks for to the cells that answer it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pars_bench.replay.cells import Setting
from pars_bench.replay.costmodel import Roofline, StepTime, find_gpu, find_llm
from pars_bench.replay.engine import BLOCK_TOKENS, EngineOptions
from pars_bench.replay.fit import read_step_times
from pars_bench.replay.hardware import Gpu
from pars_bench.replay.llms import Llm
from pars_bench.replay.policies import DEFAULT, choose_orders
from pars_bench.replay.scorer import ScorerSpeed
from pars_bench.replay.sweep import Sweep
from pars_bench.replay.traffic import Traffic, read_traffic, traces_named
from pars_export.errors import ConfigError, InputError
from pars_export.files import sha256_file

RESERVE_GIB = 2.0
"""Of each GPU, for activations and CUDA graphs: a round figure, not a published one."""
_SEEDS = 2**63


@dataclass(frozen=True)
class ReplayConfig:
    """One replay."""

    trace: Path
    """Traffic, as ``read_traffic`` takes it."""
    llm: str = "llama-3.1-8b"
    """One of ``llms.LLMS``."""
    gpu: str = "h100"
    """One of ``hardware.GPUS``."""
    tp: int | None = None
    """GPUs in tensor parallel; None takes the fewest whose KV cache holds a request of the LLM's
    longest context, as ``vllm serve`` demands unless ``--max-model-len`` is given."""
    fit: Path | None = None
    """Measured steps to fit the step time to, in place of the roofline."""
    step_overhead: float = 2e-3
    """Seconds of the host in each step of the roofline."""
    max_num_seqs: int | None = None
    """None: what vLLM's server would choose on the GPU."""
    max_num_batched_tokens: int | None = None
    """None: what vLLM's server would choose on the GPU."""
    max_model_len: int | None = None
    """Longest context; None: the LLM's own, or what the KV cache holds."""
    gpu_memory_utilization: float = 0.92
    """As in vLLM."""
    kv_blocks: int | None = None
    """Blocks of 16 tokens; None: what fits beside the weights."""
    prefix_caching: bool = True
    asynchronous: bool = True
    """Asynchronous scheduling: two batches in flight."""
    orders: tuple[str, ...] = DEFAULT
    """Names of ``policies.KINDS``."""
    predictor: Path | None = None
    """Predictor folder whose scores ``pars`` uses; needs prompts as text."""
    tau: tuple[float, ...] = ()
    """Taus of score models in place of a predictor; 0.5 where nothing is said."""
    noise: float | None = None
    """Log-normal noise of a score model, in place of a tau."""
    score_latency: float = 0.02
    """Seconds that a score takes."""
    score_rate: float = 200.0
    """Prompts scored per second."""
    patience: float | None = None
    """As in serving; None: the scheduler's default."""
    share: float | None = None
    """As in serving; None: the scheduler's default."""
    load: tuple[float, ...] = (1.0,)
    """Times as densely as in the traffic."""
    seed: tuple[int, ...] = (0,)
    """Of what is drawn: arrivals, windows of a trace, a score model's noise."""
    arrivals: str | None = None
    """Arrival process; None: the traffic's own."""
    rate: float | None = None
    """Mean requests per second; None: the traffic's own."""
    max_requests: int | None = None
    """Most requests; None: all."""

    def __post_init__(self) -> None:
        """Check ranges that nobody else checks; raise ConfigError."""
        for name, least in (("score_latency", 0.0), ("patience", 0.0), ("share", 0.0)):
            value = getattr(self, name)
            if value is not None and not (value >= least and math.isfinite(value)):
                raise ConfigError(f"--{name.replace('_', '-')} is {value}: expected 0 or more.")
        if self.share is not None and self.share > 1:
            raise ConfigError(f"--share is {self.share}: expected at most 1.")
        if not 0 < self.score_rate < math.inf:
            raise ConfigError(
                f"--score-rate is {self.score_rate}: expected a finite number, more than 0."
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"--gpu-memory-utilization is {self.gpu_memory_utilization}: expected more than 0, "
                "up to 1."
            )
        for option, values in (("--load", self.load), ("--seed", self.seed)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{option}: expected one or more values, each given once.")
        wrong = [seed for seed in self.seed if not 0 <= seed < _SEEDS]
        if wrong:
            raise ConfigError(f"--seed is {wrong[0]}: expected 0 to {_SEEDS - 1}.")


@dataclass(frozen=True)
class TraceSource:
    """A trace file and how it is read; sent to other processes, so without its content."""

    path: Path
    arrivals: str | None
    rate: float | None
    limit: int | None

    def read(self, seed: int) -> Traffic:
        """The traffic of a seed."""
        return read_traffic(
            self.path, arrivals=self.arrivals, rate=self.rate, limit=self.limit, seed=seed
        )

    def identity(self) -> list[object]:
        """What the traffic depends on beside the seed."""
        if not self.path.is_file():
            raise InputError(f"--trace {self.path}: there is no such file.")
        named = traces_named(self.path)
        missing = next((trace for trace in named if not trace.is_file()), None)
        if missing is not None:
            raise InputError(f"--trace {self.path} names {missing}: there is no such file.")
        digests = [sha256_file(file) for file in (self.path, *named)]
        return [digests, self.arrivals, self.rate, self.limit]


def make_sweep(config: ReplayConfig) -> Sweep:
    """Every cell of the replay.

    Raises:
        ConfigError: an option is out of range, or the LLM does not fit on the GPUs.
        InputError: the trace or the measured steps cannot be used.
    """
    orders = choose_orders(config.orders, config.predictor, config.tau, config.noise)
    if config.predictor is not None:
        from pars_export.artifact import read_manifest

        read_manifest(config.predictor)  # an hour later would be a poor time to complain
    engine, roofline = _engine(config)
    step_time: StepTime = roofline
    if config.fit is not None:
        step_time = read_step_times(config.fit)
    pars = {"patience": config.patience, "share": config.share}
    source = TraceSource(config.trace, config.arrivals, config.rate, config.max_requests)
    return Sweep(
        setting=Setting(
            engine,
            step_time,
            ScorerSpeed(config.score_latency, config.score_rate),
            {name: value for name, value in pars.items() if value is not None},
        ),
        read=source.read,
        identity=source.identity(),
        orders=orders,
        loads=config.load,
        seeds=config.seed,
    )


def _engine(config: ReplayConfig) -> tuple[EngineOptions, Roofline]:
    llm, gpu = find_llm(config.llm), find_gpu(config.gpu)
    roofline, blocks = _machine(config, llm, gpu)
    seqs, budget = vllm_defaults(gpu)
    if config.max_num_seqs is not None:
        seqs = config.max_num_seqs
    budget = max(budget, seqs)
    if config.max_num_batched_tokens is not None:
        budget = config.max_num_batched_tokens
    options = EngineOptions(
        kv_blocks=blocks,
        max_model_len=min(llm.max_context, (blocks - 1) * BLOCK_TOKENS),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        prefix_caching=config.prefix_caching,
        asynchronous=config.asynchronous,
    )
    return _with_context(options, config, llm.max_context), roofline


def _machine(config: ReplayConfig, llm: Llm, gpu: Gpu) -> tuple[Roofline, int]:
    """The GPUs, and the KV blocks on them: those that were asked for, or all that fit."""
    degrees: Sequence[int] = (config.tp,) if config.tp is not None else _degrees(gpu)
    if config.fit is not None and config.kv_blocks is not None:
        # A live engine was measured, and has what it has.
        return Roofline(llm, gpu, degrees[0], config.step_overhead), config.kv_blocks
    for degree in degrees:
        roofline = Roofline(llm, gpu, degree, config.step_overhead)
        try:
            fit = roofline.kv_blocks(BLOCK_TOKENS, config.gpu_memory_utilization, RESERVE_GIB)
        except ConfigError:
            if degree == degrees[-1]:
                raise
            continue
        if (fit - 1) * BLOCK_TOKENS >= llm.max_context:
            break
    if config.kv_blocks is not None and config.kv_blocks > fit:
        raise ConfigError(
            f"--kv-blocks is {config.kv_blocks}: expected at most {fit}, which fit beside the "
            f"weights of {llm.name} on {roofline.gpus} x {gpu.name}; use more GPUs (--tp), or "
            "--fit where you have an engine that holds more."
        )
    return roofline, fit if config.kv_blocks is None else config.kv_blocks


def _with_context(options: EngineOptions, config: ReplayConfig, longest: int) -> EngineOptions:
    if config.max_model_len is None:
        return options
    most = min(longest, options.kv_tokens)
    if not 2 <= config.max_model_len <= most:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}: expected 2 to {most}, for {config.llm} "
            f"has a context of {longest} tokens and the KV cache holds {options.kv_tokens}; use "
            "more GPUs (--tp) for a larger KV cache."
        )
    return replace(options, max_model_len=config.max_model_len)


def _degrees(gpu: Gpu) -> list[int]:
    return [2**power for power in range(int(math.log2(gpu.max_gpus)) + 1)]


def vllm_defaults(gpu: Gpu) -> tuple[int, int]:
    """(max_num_seqs, max_num_batched_tokens) as vLLM 0.32's server chooses them on a GPU."""
    large = gpu.memory_gib >= 70 and "a100" not in gpu.name
    return (1024, 8192) if large else (256, 2048)
