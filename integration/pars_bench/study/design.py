"""What the study replays: traffics, engines, and which orders meet where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pars_bench.replay.costmodel import find_gpu
from pars_bench.replay.plan import vllm_defaults
from pars_bench.study.lengths import LengthSource, Samples

TAU = 0.5
"""Of the score model that stands for PARS, where the page says nothing else."""
LLM = "llama-3.1-8b"
LOW = 8
"""``--max-num-seqs`` of an operator who wants short time per token; small, so that runs which a
study can afford bring some thirty requests for each slot."""
LOADS = (0.6, 0.9, 1.1, 1.3, 1.7)
"""Arriving work over what the engine finishes in arrival order while it is full."""
FEWER_LOADS = (0.9, 1.3, 1.7)
"""Of the dearest traffic on the second GPU."""
OVERLOAD = 1.3
TAUS = (0.2, 0.35, 0.5, 0.65, 0.9)
WINDOWS: tuple[int | None, ...] = (1000, 5000, None)
"""Requests of Azure's conversation trace by which time and memory are told; None: all, an hour."""
BURST = 2000
"""Requests of the paper's burst."""
SCORE_RATE = 200.0
"""Prompts scored per second, as an encoder may on one core."""
STUDENT_RATE = 5000.0
"""The same of the default predictor and of students: a fifth of what they reach without decoding
token ids and taking the chat template off."""


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
    unseen: bool = False
    """Whether the prompts have text, of data sets that the default predictor was not trained on."""


@dataclass(frozen=True)
class Engine:
    """One GPU and one batch size."""

    gpu: str
    max_num_seqs: int | None
    """None: vLLM's default on the GPU."""

    @property
    def name(self) -> str:
        """Of the GPU, for the page."""
        return self.gpu.upper().replace("RTX", "RTX ")

    @property
    def title(self) -> str:
        """For the page."""
        size = self.max_num_seqs or f"{vllm_defaults(find_gpu(self.gpu))[0]} (default)"
        return f"{self.name}, max_num_seqs {size}"


TRAFFIC: dict[str, TrafficKind] = {
    "chat": TrafficKind(
        "chat",
        320,
        LengthSource(
            ("alpaca_vicuna7b_20k",),
            Samples("vicuna-7b-v1.1", "T=0.7"),
            "Llama tokens",
            Samples("vicuna-7b-v1.1", "T=0.5"),
        ),
        burst=BURST,
        unseen=True,
    ),
    "code": TrafficKind(
        "code",
        400,
        LengthSource(("gpteacher_codegen",), Samples("gpt-4"), "cl100k tokens"),
        burst=BURST,
        unseen=True,
    ),
    "maths": TrafficKind(
        "maths",
        240,
        LengthSource(
            ("zeroeval_gsm", "zeroeval_math_l5"),
            Samples("Llama-3.1-405B-Inst@sambanova"),
            "cl100k tokens",
            Samples("Meta-Llama-3.1-405B-Instruct@hyperbolic"),
        ),
        burst=BURST,
    ),
    "reasoning": TrafficKind(
        "reasoning",
        200,
        LengthSource(
            ("r1distill_gsm8k", "r1distill_math500"),
            Samples("DeepSeek-R1-Distill-Qwen-7B"),
            "words, each replayed as one token",
        ),
        burst=BURST,
    ),
    "azure-conv": TrafficKind(
        "Azure conversation", 240, trace="AzureLLMInferenceTrace_conv.csv.gz"
    ),
    "azure-code": TrafficKind("Azure code", 400, trace="AzureLLMInferenceTrace_code.csv.gz"),
    "mooncake": TrafficKind(
        "Mooncake conversation", 160, trace="mooncake_conversation_trace.jsonl.gz"
    ),
}

ENGINES: dict[str, Engine] = {
    "low": Engine("h100", LOW),
    "default": Engine("h100", None),
    "4090-low": Engine("rtx4090", LOW),
    "4090-default": Engine("rtx4090", None),
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
    predictor: bool = False
    """Whether a predictor that reads the prompts orders them, too."""
    score_rate: float = SCORE_RATE
    """Of every order with scores, but of the default predictor."""

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
            orders = SIMPLE if kind.unseen else CORE
            yield Comparison(
                "burst", name, "low", orders, requests=kind.burst, predictor=kind.unseen
            )
    for name in TRAFFIC:
        yield Comparison("sweep", name, "low", CORE, LOADS)
    for name in ("chat", "maths"):
        yield Comparison("tau", name, "low", (*CORE, "rerun"), (OVERLOAD,), taus=TAUS)
    for name in ("chat", "code", "maths"):
        orders = SIMPLE if name == "code" else EVERY
        unseen = TRAFFIC[name].unseen
        yield Comparison("orders", name, "low", orders, (OVERLOAD,), predictor=unseen)
    yield Comparison("engines", "chat", "4090-default", CORE, requests=BURST, predictor=True)
    yield Comparison(
        "engines", "chat", "4090-default", CORE, (OVERLOAD,), requests=BURST, predictor=True
    )
    for rate, orders in ((SCORE_RATE, CORE[:2]), (STUDENT_RATE, CORE)):
        yield Comparison(
            "engines",
            "chat",
            "default",
            orders,
            requests=2 * BURST,
            predictor=rate == STUDENT_RATE,
            score_rate=rate,
        )
    yield Comparison("sweep", "chat", "4090-low", CORE, LOADS)
    yield Comparison("sweep", "reasoning", "4090-low", CORE, FEWER_LOADS)
