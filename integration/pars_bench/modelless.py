"""vLLM's real scheduler and KV cache manager for a model that is only described, never loaded.

The scheduler sees of a model no more than its configuration, so a folder with ``config.json`` and a
tokenizer is enough to make one; whoever steps it makes up the tokens. For measuring and testing
the scheduler itself.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

BLOCK = 16
"""Tokens of a KV block: vLLM's own default on GPUs."""
HEAD_DIM = 32
STOP = 2
"""The token that ends a response."""


def describe_model(folder: Path, context: int = 4096) -> Path:
    """Write a tiny Llama's ``config.json`` and a tokenizer whose tokens are bytes.

    ``context``: the longest that it claims to take, in tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": context,
        "eos_token_id": STOP,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bytes_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8"
    )
    return folder


def bytes_tokenizer() -> Tokenizer:
    """The tokenizer of :func:`describe_model`; exact in both directions."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: index for index, sign in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_config(
    model: Path,
    *,
    slots: int = 4,
    budget: int = 256,
    blocks: int = 1000,
    block: int = BLOCK,
    context: int = 2048,
    prefix_caching: bool = True,
    asynchronous: bool = False,
    policy: str = "fcfs",
    pars: dict[str, object] | None = None,
) -> VllmConfig:
    """Configuration for ``slots`` running requests, ``budget`` tokens a step, ``blocks`` of KV.

    A block of the KV cache holds ``block`` tokens; prompt and response together have at most
    ``context``. ``pars`` becomes ``additional_config["pars"]``.
    """
    config = EngineArgs(
        model=str(model),
        dtype="bfloat16",
        max_model_len=context,
        max_num_seqs=slots,
        max_num_batched_tokens=budget,
        enable_prefix_caching=prefix_caching,
        block_size=block,
        scheduling_policy=policy,
        enforce_eager=True,
        additional_config={"pars": pars} if pars is not None else {},
    ).create_engine_config()
    config.cache_config.num_gpu_blocks = blocks
    # vLLM's CPU platform forces this off; the scheduler itself needs no GPU.
    config.scheduler_config.async_scheduling = asynchronous
    return config


def make_scheduler(cls: type[Scheduler], config: VllmConfig, **options: object) -> Scheduler:
    """A scheduler as the engine core makes one; ``options`` are its class's own."""
    block = config.cache_config.block_size
    spec = FullAttentionSpec(
        block_size=block, num_kv_heads=1, head_size=HEAD_DIM, dtype=torch.bfloat16
    )
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
        block_size=block,
        hash_block_size=block,
        **options,
    )


@functools.cache
def _hash_function() -> Callable[[Any], bytes]:
    function: Callable[[Any], bytes] = get_hash_fn_by_name("sha256")
    init_none_hash(function)  # once: up to vLLM 0.30 every call draws another seed
    return function


def make_request(
    name: str,
    prompt: Sequence[int],
    *,
    max_tokens: int = 1000,
    priority: int = 0,
    arrival: float = 0.0,
    hashing: bool = True,
) -> Request:
    """A request as the engine core makes one; ``hashing``: with prefix caching's block hashes."""
    return Request(
        request_id=name,
        prompt_token_ids=list(prompt),
        sampling_params=SamplingParams(max_tokens=max_tokens, stop_token_ids=[STOP]),
        pooling_params=None,
        arrival_time=arrival,
        priority=priority,
        block_hasher=get_request_block_hasher(BLOCK, _hash_function()) if hashing else None,
    )
