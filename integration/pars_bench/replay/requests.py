"""A request of the traffic becomes one of vLLM's, its prompt made up but never by chance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pars_bench.replay.engine import BLOCK_TOKENS, EngineOptions
from pars_bench.replay.traces import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from vllm.v1.request import Request

    from pars_bench.replay.traffic import TrafficRequest

STOP_TOKEN = 2
"""The token that ends a response: ``modelless.STOP``."""
OTHER_TOKEN = 5
"""Every token of a response but the last."""
_FIRST_PROMPT_TOKEN, _VOCABULARY = 3, 256
# CPython keeps one object for each of these small numbers: a long queue of prompts stays small.
_CHUNK_TOKENS = BLOCK_TOKENS
_CHUNK_BYTES = _CHUNK_TOKENS * BYTES_PER_TOKEN


def prompt_ids(request: TrafficRequest, index: int, block_tokens: int) -> list[int]:
    """Token ids: equal blocks give equal ids, so that vLLM's prefix cache hits where it would.

    What blocks do not cover is the request's own: by its text where it has one, else by its number.
    Texts that begin alike begin with equal ids, at ``BYTES_PER_TOKEN`` whatever their own count.

    Args:
        request: The request.
        index: Its number in the traffic.
        block_tokens: Prompt tokens of each of its blocks.
    """
    parts = [_ids(f"block {block}", block_tokens) for block in request.blocks]
    left = request.prompt_tokens - block_tokens * len(request.blocks)
    if left > 0:
        text = request.prompt
        parts += [_ids(f"request {index}", left)] if text is None else _text_ids(text, left)
    ids: list[int] = np.concatenate(parts)[: request.prompt_tokens].tolist()
    return ids


def _text_ids(text: str, count: int) -> list[np.ndarray]:
    """Ids by chunks of the text, each by all that stands left of it too; the last by all of it."""
    content = text.encode("utf-8", "surrogatepass")
    # At least one token is by the whole text, so that none but equal texts are equal.
    chunks = min(len(content) // _CHUNK_BYTES, (count - 1) // _CHUNK_TOKENS)
    digest, found = b"", []
    for start in range(0, chunks * _CHUNK_BYTES, _CHUNK_BYTES):
        chunk = content[start : start + _CHUNK_BYTES]
        digest = hashlib.blake2b(digest + chunk, digest_size=_CHUNK_TOKENS).digest()
        found.append(digest)
    begin = np.frombuffer(b"".join(found), np.uint8) % (_VOCABULARY - _FIRST_PROMPT_TOKEN)
    return [begin + _FIRST_PROMPT_TOKEN, _ids(f"text {text}", count - chunks * _CHUNK_TOKENS)]


def _ids(name: str, count: int) -> np.ndarray:
    key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return stream.integers(_FIRST_PROMPT_TOKEN, _VOCABULARY, size=count, dtype=np.uint8)


class RequestMaker:
    """Makes requests as the engine core does, all with the same sampling parameters.

    With ``forced_lengths`` a request ends at its own ``max_tokens``, as under ``ignore_eos``;
    otherwise by the stop token, as most responses do, below a cap that nothing reaches.
    ``block_tokens``: prompt tokens of the traffic's own blocks.
    """

    def __init__(
        self, engine: EngineOptions, block_tokens: int, forced_lengths: bool = False
    ) -> None:
        from vllm import SamplingParams
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        self._block_tokens = block_tokens
        self._forced = forced_lengths
        self._parameters = SamplingParams
        self._shared = SamplingParams(max_tokens=engine.max_model_len, stop_token_ids=[STOP_TOKEN])
        self._hasher: Callable[[Request], list[bytes]] | None = None
        if engine.prefix_caching:
            function = get_hash_fn_by_name("sha256")
            init_none_hash(function)
            self._hasher = get_request_block_hasher(engine.block_tokens, function)

    def make(self, request: TrafficRequest, index: int, name: str, priority: int = 0) -> Request:
        """The request; ``priority`` as a client would send it."""
        from vllm.v1.request import Request

        parameters = self._shared
        if self._forced:
            parameters = self._parameters(max_tokens=request.output_tokens, ignore_eos=True)
        return Request(
            request_id=name,
            prompt_token_ids=prompt_ids(request, index, self._block_tokens),
            sampling_params=parameters,
            pooling_params=None,
            arrival_time=request.arrival_s,
            priority=priority,
            block_hasher=self._hasher,
        )
