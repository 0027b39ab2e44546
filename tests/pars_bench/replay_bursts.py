"""Traffic and engines for the tests of the replay."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pars_bench.replay.engine import EngineOptions
from pars_bench.replay.traffic import Traffic, TrafficRequest

SHARED = 64
"""Prompt tokens of a shared block."""


@dataclass(frozen=True)
class Listed:
    """A traffic's source that gives these requests."""

    requests: tuple[TrafficRequest, ...]

    def __call__(self) -> Iterator[TrafficRequest]:
        return iter(self.requests)


def traffic_of(requests: Sequence[TrafficRequest]) -> Traffic:
    return Traffic("made up", {"requests": len(requests)}, SHARED, Listed(tuple(requests)))


def mixed(count: int, seed: int = 0, gap_s: float = 0.0) -> list[TrafficRequest]:
    """Requests of mixed lengths; some share the start of their prompt."""
    draw = random.Random(seed)
    found, now = [], 0.0
    for _ in range(count):
        blocks = draw.choice(((), (1,), (1, 2)))
        prompt_tokens = SHARED * len(blocks) + draw.choice((5, 40, 200))
        length = min(150, max(1, int(draw.lognormvariate(2.5, 1.0))))
        rerun = max(1, round(length * draw.lognormvariate(0, 0.3)))
        found.append(TrafficRequest(now, prompt_tokens, length, blocks=blocks, rerun_tokens=rerun))
        now += draw.expovariate(1 / gap_s) if gap_s else 0.0
    return found


def small_engine(
    *, slots: int = 4, blocks: int = 400, budget: int = 256, asynchronous: bool = False
) -> EngineOptions:
    return EngineOptions(
        kv_blocks=blocks,
        max_model_len=1024,
        max_num_seqs=slots,
        max_num_batched_tokens=budget,
        asynchronous=asynchronous,
    )
