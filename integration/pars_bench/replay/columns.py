"""A traffic's numbers as columns: a few bytes a request, whatever their prompts hold."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pars_bench.replay.costmodel import Array
from pars_bench.replay.engine import EngineOptions
from pars_bench.replay.traffic import TrafficRequest
from pars_export.errors import InputError


@dataclass(frozen=True)
class Columns:
    """One value per request, in order of arrival."""

    arrival_s: Array
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    rerun_tokens: Array
    """NaN where there is no other sample."""
    tenant: NDArray[np.int64]
    """Index into ``tenants``."""
    tenants: tuple[str, ...]
    texts: int
    """Requests whose prompt is there as text."""

    def __len__(self) -> int:
        return int(self.arrival_s.size)


def read_columns(requests: Iterable[TrafficRequest], engine: EngineOptions) -> Columns:
    """Run through a traffic once and check that the engine can serve every request.

    Raises:
        InputError: no request, or one that the context or the KV cache cannot hold.
    """
    arrival, rerun = array("d"), array("d")
    prompt, output, tenant = array("q"), array("q"), array("q")
    tenants: dict[str, int] = {}
    texts = 0
    for number, request in enumerate(requests):
        _check(number, request, engine)
        arrival.append(request.arrival_s)
        prompt.append(request.prompt_tokens)
        output.append(request.output_tokens)
        rerun.append(float("nan") if request.rerun_tokens is None else request.rerun_tokens)
        tenant.append(tenants.setdefault(request.tenant, len(tenants)))
        texts += request.prompt is not None
    if not arrival:
        raise InputError("the traffic holds no request: expected at least one.")
    return Columns(
        np.frombuffer(arrival),
        np.frombuffer(prompt, np.int64),
        np.frombuffer(output, np.int64),
        np.frombuffer(rerun),
        np.frombuffer(tenant, np.int64),
        tuple(tenants),
        texts,
    )


def _check(number: int, request: TrafficRequest, engine: EngineOptions) -> None:
    if not request.tenant.isascii():
        try:
            request.tenant.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"request {number} has the tenant {request.tenant!r}: expected whole characters, "
                "for half a surrogate pair cannot be written to a file; mend the name."
            ) from None
    tokens = request.prompt_tokens + request.output_tokens
    size = f"request {number} has {request.prompt_tokens} prompt and {request.output_tokens} "
    if tokens > engine.max_model_len:
        raise InputError(
            f"{size}response tokens, but the longest context is {engine.max_model_len}: raise "
            "--max-model-len, choose an LLM with a longer context, or take the request out."
        )
    if tokens > engine.kv_tokens:
        raise InputError(
            f"{size}response tokens, but the KV cache holds {engine.kv_tokens}: use more GPUs "
            "(--tp), a GPU with more memory or a smaller LLM, or take the request out."
        )
