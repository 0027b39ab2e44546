"""How long a forward pass takes: the one thing of an engine that the replay does not run.

A pass is told by three numbers (:class:`Pass`). :class:`Roofline` makes its time out of published
figures; ``fit.FittedStepTime`` out of a live engine's own steps. Both take arrays as well as
numbers, so that the time a request takes alone comes from the very same model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pars_bench.replay.hardware import GIB, GPUS, Gpu
from pars_bench.replay.llms import LLMS, Llm
from pars_export.errors import ConfigError

Array = NDArray[np.float64]
Number = float | Array
_MOST_HOST_S = 60


class StepTime(Protocol):
    """Time of one step of an engine."""

    @property
    def host_s(self) -> float:
        """Seconds of scheduling and preparing; hidden behind the pass when asynchronous."""

    def device_s(self, tokens: Number, context: Number, pairs: Number) -> Number:
        """Seconds of the forward pass itself.

        Args:
            tokens: Tokens computed, over all requests of the step.
            context: Tokens whose keys and values are read: every request's context, the tokens
                computed now included.
            pairs: Pairs of a computed token and a token that it attends to.
        """

    def facts(self) -> dict[str, object]:
        """Every figure it uses, with its source; plain JSON."""


def alone_s(
    model: StepTime, prompt: Array, output: Array, budget: int, asynchronous: bool
) -> Array:
    """Seconds that requests take by themselves in an empty engine with an empty prefix cache.

    Prompts are computed in equal chunks of at most ``budget`` tokens, and both phases are taken
    at their mean context. Arrays have shape (n,).
    """
    chunks = np.ceil(prompt / budget)
    chunk = prompt / chunks
    before = (prompt - chunk) / 2
    prefill = model.device_s(chunk, before + chunk, chunk * (before + (chunk + 1) / 2))
    context = prompt + output / 2
    decode = model.device_s(np.ones_like(context), context, context)
    host = model.host_s
    if asynchronous:  # the host prepares a step behind the one before it, the first one excepted
        prefill, decode = np.maximum(prefill, host), np.maximum(decode, host)
        return np.asarray(host + chunks * prefill + (output - 1) * decode)
    return np.asarray(chunks * (host + prefill) + (output - 1) * (host + decode))


@dataclass(frozen=True)
class Roofline:
    """Matrices and attention each at the slower of memory and arithmetic, then the all-reduces.

    The efficiencies and the overhead are assumptions, not published figures: round values of what
    well-tuned engines reach. A report names them as such; fit them where you can measure.
    """

    llm: Llm
    gpu: Gpu
    gpus: int = 1
    """Degree of tensor parallelism."""
    host_s: float = 2e-3
    bandwidth_efficiency: float = 0.8
    """Share of the memory's published bandwidth that a pass reaches."""
    compute_efficiency: float = 0.6
    """Share of the published peak that a pass reaches."""

    def __post_init__(self) -> None:
        """Refuse what cannot be; raise ConfigError."""
        if not 1 <= self.gpus <= self.gpu.max_gpus:
            raise ConfigError(
                f"--tp {self.gpus}: expected 1 to {self.gpu.max_gpus} {self.gpu.name} GPUs."
            )
        if self.llm.hidden % self.gpus:
            raise ConfigError(
                f"--tp {self.gpus}: the hidden size of {self.llm.name} ({self.llm.hidden}) cannot "
                f"be split into {self.gpus} equal parts; use a power of two."
            )
        for name in ("bandwidth_efficiency", "compute_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}: expected more than 0, up to 1."
                )
        if not 0 <= self.host_s <= _MOST_HOST_S:
            raise ConfigError(
                f"--step-overhead is {self.host_s}: expected 0 to {_MOST_HOST_S} seconds."
            )

    def device_s(self, tokens: Number, context: Number, pairs: Number) -> Number:
        """See :class:`StepTime`."""
        llm, bandwidth = self.llm, self.gpu.bandwidth * self.bandwidth_efficiency
        flops_16 = self.gpu.flops_16 * self.compute_efficiency
        flops = flops_16
        if llm.weight_bytes == 1.0 and self.gpu.flops_8 is not None:
            flops = self.gpu.flops_8 * self.compute_efficiency
        touched = llm.parameters - llm.expert_parameters * self._idle_experts(tokens)
        matrices = np.maximum(
            touched * llm.weight_bytes / (self.gpus * bandwidth),
            2 * llm.active * tokens / (self.gpus * flops),
        )
        # A decoding token makes one pair with each token of its context; what goes beyond is of
        # prompts.
        arithmetic = llm.attention_flops * context + llm.prefill_flops * (pairs - context)
        attention = np.maximum(
            llm.kv_bytes_per_token * context / (self.kv_parts * bandwidth),
            llm.layers * arithmetic / (self.gpus * flops_16),
        )
        return matrices + attention + self._reduce_s(tokens)  # type: ignore[no-any-return]

    @property
    def kv_parts(self) -> int:
        """Parts of the KV cache: with more GPUs than KV heads, some hold the same ones."""
        return min(self.gpus, self.llm.kv_heads)

    def _idle_experts(self, tokens: Number) -> Number:
        """Share of routed experts that no token chose, if every choice were equally likely."""
        return (1 - self.llm.experts_per_token / self.llm.experts) ** tokens

    def _reduce_s(self, tokens: Number) -> Number:
        """Two all-reduces a layer, of the hidden states in 16 bits."""
        if self.gpus == 1:
            return 0.0
        sent = 2 * (self.gpus - 1) / self.gpus * tokens * self.llm.hidden * 2
        return 2 * self.llm.layers * (self.gpu.link_latency_s + sent / self.gpu.link)

    def kv_blocks(self, block_tokens: int, utilization: float, reserve_gib: float) -> int:
        """Blocks that fit beside the weights.

        Args:
            block_tokens: Tokens of a block.
            utilization: Share of the memory that the engine may use (``gpu_memory_utilization``).
            reserve_gib: GiB of each GPU for activations and CUDA graphs.

        Raises:
            ConfigError: the weights leave no room for a single block.
        """
        weights = self.llm.parameters * self.llm.weight_bytes / self.gpus
        usable = self.gpu.memory_gib * GIB * utilization - reserve_gib * GIB
        free = usable - weights
        block = self.llm.kv_bytes_per_token * block_tokens / self.kv_parts
        if free < block:
            fits = math.ceil(self.llm.parameters * self.llm.weight_bytes / max(usable, 1.0))
            degree = 2 ** math.ceil(math.log2(max(fits, 1)))
            advice = (
                f"use --tp {degree} or more"
                if self.gpus < degree <= self.gpu.max_gpus
                else "use a GPU with more memory or a smaller LLM"
            )
            raise ConfigError(
                f"{self.llm.name} does not fit on {self.gpus} x {self.gpu.name}: its weights take "
                f"{weights / GIB:.1f} GiB of each GPU, which has {usable / GIB:.1f} GiB for them "
                f"and the KV cache; {advice}."
            )
        return int(free // block)

    def facts(self) -> dict[str, object]:
        """See :class:`StepTime`."""
        return {
            "kind": "roofline",
            "llm": asdict(self.llm),
            "gpu": asdict(self.gpu),
            "tensor_parallel": self.gpus,
            "assumed": {
                "host_s": self.host_s,
                "bandwidth_efficiency": self.bandwidth_efficiency,
                "compute_efficiency": self.compute_efficiency,
                "link_latency_s": self.gpu.link_latency_s,
            },
        }


def find_llm(name: str) -> Llm:
    """A preset; ConfigError with the known names otherwise."""
    if name not in LLMS:
        raise ConfigError(f"--llm {name}: unknown LLM; known: {', '.join(LLMS)}.")
    return LLMS[name]


def find_gpu(name: str) -> Gpu:
    """A preset; ConfigError with the known names otherwise."""
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: unknown GPU; known: {', '.join(GPUS)}.")
    return GPUS[name]
