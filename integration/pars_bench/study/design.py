"""What the study replays: traffics, engines, and which orders meet where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pars_bench.study.lengths import LengthSource, Samples

TAU = 0.5
"""Of the score model that stands for PARS, where the page says nothing else."""
LLM = "llama-3.1-8b"
LOW = 16
"""``--max-num-seqs`` of an operator who wants short time per token."""
LOADS = (0.6, 0.9, 1.1, 1.3, 1.7)
"""Arriving work over what the engine finishes in arrival order while it is full."""
FEWER_LOADS = (0.6, 0.9, 1.3)
"""Where the whole sweep is not run."""
OVERLOAD = 1.3
TAUS = (0.2, 0.35, 0.5, 0.65, 0.9)
WINDOWS: tuple[int | None, ...] = ()
"""Requests of Azure's conversation trace by which time and memory are told; None: all, an hour."""
BURST = 2000
"""Requests of the paper's burst."""


@dataclass(frozen=True)
class TrafficKind:
    """One kind of traffic."""

    title: str
    requests: int
    """Of a run: of a trace a contiguous window of so many."""
    lengths: LengthSource | None = None
    trace: str = ""
    """File under ``traces`` of the data root, in place of ``lengths``."""
    burst: int = 0
    """Requests of the large burst; 0: none is run."""


@dataclass(frozen=True)
class Engine:
    """One GPU and one batch size."""

    gpu: str
    max_num_seqs: int | None
    """None: vLLM's default on the GPU."""

    @property
    def title(self) -> str:
        """For the page."""
        size = "default" if self.max_num_seqs is None else str(self.max_num_seqs)
        return f"{self.gpu.upper()}, max_num_seqs {size}"


TRAFFIC: dict[str, TrafficKind] = {
    "chat": TrafficKind(
        "chat",
        500,
        LengthSource(
            ("alpaca_vicuna7b_20k",),
            Samples("vicuna-7b-v1.1", "T=0.7"),
            "Llama tokens",
            Samples("vicuna-7b-v1.1", "T=0.5"),
        ),
        burst=BURST,
    ),
    "code": TrafficKind(
        "code",
        600,
        LengthSource(("gpteacher_codegen",), Samples("gpt-4"), "cl100k tokens"),
        burst=BURST,
    ),
    "maths": TrafficKind(
        "maths",
        120,
        LengthSource(
            ("zeroeval_gsm", "zeroeval_math_l5"),
            Samples("Llama-3.1-405B-Inst@sambanova"),
            "cl100k tokens",
            Samples("Meta-Llama-3.1-405B-Instruct@hyperbolic"),
        ),
        burst=500,
    ),
    "reasoning": TrafficKind(
        "reasoning",
        80,
        LengthSource(
            ("r1distill_gsm8k", "r1distill_math500"),
            Samples("DeepSeek-R1-Distill-Qwen-7B"),
            "words, each replayed as one token",
        ),
        burst=300,
    ),
    "azure-conv": TrafficKind(
        "Azure conversation", 200, trace="AzureLLMInferenceTrace_conv.csv.gz"
    ),
    "azure-code": TrafficKind("Azure code", 400, trace="AzureLLMInferenceTrace_code.csv.gz"),
    "mooncake": TrafficKind(
        "Mooncake conversation", 60, trace="mooncake_conversation_trace.jsonl.gz"
    ),
}

ENGINES: dict[str, Engine] = {
    "low": Engine("h100", LOW),
    "default": Engine("h100", None),
    "a100-low": Engine("a100", LOW),
}


@dataclass(frozen=True)
class Comparison:
    """Orders on one traffic and engine, in one way of arriving."""

    section: str
    """Of the page."""
    traffic: str
    engine: str
    orders: tuple[str, ...]
    loads: tuple[float, ...] = ()
    """Empty: all at once."""
    requests: int = 0
    """0: the traffic's own number."""
    taus: tuple[float, ...] = (TAU,)

    @property
    def size(self) -> int:
        """Requests of a run."""
        return self.requests or TRAFFIC[self.traffic].requests


CORE: tuple[str, ...] = ("fcfs", "pars", "oracle")
SIMPLE: tuple[str, ...] = ("fcfs", "prompt_length", "pars", "oracle")
EVERY = (*SIMPLE, "hrrn", "vllm_priority")


def comparisons() -> Iterator[Comparison]:
    """All of them."""
    for name, kind in TRAFFIC.items():
        if kind.burst:
            orders = SIMPLE if kind.burst == BURST else CORE
            yield Comparison("burst", name, "low", orders, requests=kind.burst)
    yield Comparison("tau", "chat", "low", (*CORE, "rerun"), (OVERLOAD,), taus=TAUS)
    for name in TRAFFIC:
        yield Comparison("sweep", name, "low", CORE, LOADS if name == "chat" else FEWER_LOADS)
    yield Comparison("orders", "chat", "low", EVERY, (OVERLOAD,))
    yield Comparison("engines", "chat", "low", CORE, (OVERLOAD,))
    yield Comparison("engines", "chat", "a100-low", CORE, (OVERLOAD,))
    yield Comparison("engines", "chat", "low", CORE, requests=BURST)
    yield Comparison("engines", "chat", "default", CORE[:2], requests=BURST)
