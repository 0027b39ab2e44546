"""What the engine core knows of a request at its arrival, beside the prompt's tokens.

Only what the predictor reads is looked at and sent: a scorer whose predictor reads the text alone
gets what it always got, and answers of equal prompts are shared as ever.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from pars_export.facts import Facts

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SENT = frozenset(("prompt_tokens", "max_tokens", "structured"))
"""Facts that the engine core tells. Tools are found in the prompt by the scorer process; whether
the LLM is to think, no request says in a form that all templates share."""

_PACKED = struct.Struct("<IIB")
_NO_COUNT, _NO_FLAG = 0xFFFFFFFF, 0xFF


class ArrivedRequest(Protocol):
    """What is read of vLLM's Request."""

    num_prompt_tokens: int
    max_tokens: int

    @property
    def use_structured_output(self) -> bool:
        """Whether the response must follow a schema or grammar."""


def default_cap(config: VllmConfig) -> int | None:
    """The ``max_tokens`` that the server itself gives, by the model's generation_config."""
    found = config.model_config.get_diff_sampling_param().get("max_tokens")
    return None if found is None else int(found)


def facts_of(
    request: ArrivedRequest, reads: Collection[str], max_model_len: int, cap: int | None = None
) -> Facts:
    """Those facts of a request that are read and that the engine core knows.

    A client that gives no ``max_tokens`` gets the server's own ``cap``, or the room that its prompt
    leaves in ``max_model_len``; that is no fact about its wish, and counts as unknown.
    """
    most = max_model_len - request.num_prompt_tokens
    most = most if cap is None else min(most, cap)
    given = "max_tokens" in reads and 0 < request.max_tokens < most
    return Facts(
        prompt_tokens=request.num_prompt_tokens if "prompt_tokens" in reads else None,
        max_tokens=request.max_tokens if given else None,
        structured=bool(request.use_structured_output) if "structured" in reads else None,
    )


def pack(facts: Facts) -> bytes:
    """The facts of `SENT` as a few bytes; equal facts give equal bytes."""
    counts = (facts.prompt_tokens, facts.max_tokens)
    flag = _NO_FLAG if facts.structured is None else int(facts.structured)
    return _PACKED.pack(*(_NO_COUNT if c is None else min(c, _NO_COUNT - 1) for c in counts), flag)


def unpack(packed: bytes) -> Facts:
    """What `pack` was given."""
    prompt, most, flag = _PACKED.unpack(packed)
    return Facts(
        prompt_tokens=None if prompt == _NO_COUNT else prompt,
        max_tokens=None if most == _NO_COUNT else most,
        structured=None if flag == _NO_FLAG else bool(flag),
    )
