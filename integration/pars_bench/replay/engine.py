"""The engine that is replayed: what its scheduler sees of an LLM and of an operator's options."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pars_export.errors import ConfigError

if TYPE_CHECKING:
    from pars_vllm.scheduler import ParsScheduler
    from pars_vllm.scorer import ScoreSource

BLOCK_TOKENS = 16
"""Tokens of a KV block: vLLM's own default on GPUs, and ``modelless.BLOCK``."""


@dataclass(frozen=True)
class EngineOptions:
    """What an operator sets about vLLM, and what fits beside the weights."""

    kv_blocks: int
    """Blocks of the KV cache."""
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    prefix_caching: bool = True
    block_tokens: int = BLOCK_TOKENS
    asynchronous: bool = True
    """Two batches in flight, as stock vLLM has them on GPUs."""

    def __post_init__(self) -> None:
        """Refuse what vLLM cannot run; raise ConfigError."""
        for name, least in (
            ("kv_blocks", 2),
            ("max_model_len", 2),
            ("max_num_seqs", 1),
            ("max_num_batched_tokens", self.max_num_seqs),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least {least}.")

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds; vLLM keeps one block empty for itself."""
        return (self.kv_blocks - 1) * self.block_tokens


def make_engine(
    options: EngineOptions,
    pars: Mapping[str, object],
    policy: str = "fcfs",
    scores: ScoreSource | None = None,
) -> ParsScheduler:
    """``ParsScheduler`` over a model that is only described: no weights, no network.

    Args:
        options: The engine.
        pars: ``additional_config["pars"]``.
        policy: ``--scheduling-policy`` of vLLM itself.
        scores: Where scores come from; None where ``pars`` turns ranking off.
    """
    from pars_bench.modelless import describe_model, make_config, make_scheduler
    from pars_vllm import ParsScheduler

    with tempfile.TemporaryDirectory(prefix="pars-replay-") as folder:
        config = make_config(
            describe_model(Path(folder), options.max_model_len),
            slots=options.max_num_seqs,
            budget=options.max_num_batched_tokens,
            blocks=options.kv_blocks,
            block=options.block_tokens,
            context=options.max_model_len,
            prefix_caching=options.prefix_caching,
            asynchronous=options.asynchronous,
            policy=policy,
            pars=dict(pars),
        )
        scheduler: ParsScheduler = make_scheduler(ParsScheduler, config, scores=scores)
        return scheduler
