"""LLMs by their published shapes: what a forward pass reads and computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Llm:
    """One LLM's shape; parameters are counted, not in billions."""

    name: str
    parameters: float
    """All of them. A pass is taken to read the input embedding too, though it needs a few rows of
    it only: 7 % of an 8B Llama, less of larger ones."""
    active: float
    """Those that one token passes through."""
    layers: int
    hidden: int
    kv_values: int
    """Values that one token keeps in the KV cache of one layer."""
    kv_heads: int
    """Parts that the KV cache can be split into among GPUs; 1 for a latent (MLA) cache."""
    attention_flops: float
    """FLOPs of one query token on one token of its context, in one layer, while decoding."""
    prefill_flops: float
    """The same of a prompt's tokens."""
    max_context: int
    weight_bytes: float
    """Bytes per parameter."""
    source: str
    expert_parameters: float = 0.0
    """Those in routed experts; 0 for a dense LLM."""
    experts: int = 1
    """Routed experts of a layer."""
    experts_per_token: int = 1
    kv_bytes: float = 2.0
    """Bytes per value in the KV cache."""

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that one token keeps in the KV cache, all layers together."""
        return self.layers * self.kv_values * self.kv_bytes


def _grouped(
    *,
    name: str,
    billions: float,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_size: int = 128,
    max_context: int,
    source: str,
    active_billions: float | None = None,
    experts: int = 1,
    experts_per_token: int = 1,
    expert_hidden: int = 0,
) -> Llm:
    """An LLM with grouped-query attention; its experts have three matrices (SwiGLU)."""
    return Llm(
        name=name,
        parameters=billions * 1e9,
        active=(active_billions or billions) * 1e9,
        layers=layers,
        hidden=hidden,
        kv_values=2 * kv_heads * head_size,
        kv_heads=kv_heads,
        attention_flops=4.0 * heads * head_size,
        prefill_flops=4.0 * heads * head_size,
        max_context=max_context,
        weight_bytes=2.0,
        source=source,
        expert_parameters=3.0 * layers * experts * hidden * expert_hidden,
        experts=experts,
        experts_per_token=experts_per_token,
    )


LLMS: dict[str, Llm] = {
    llm.name: llm
    for llm in (
        _grouped(
            name="llama-3.1-8b",
            billions=8.03,
            layers=32,
            hidden=4096,
            heads=32,
            kv_heads=8,
            max_context=131_072,
            source="config.json and model card of meta-llama/Llama-3.1-8B-Instruct: 8.03B",
        ),
        _grouped(
            name="llama-3.1-70b",
            billions=70.6,
            layers=80,
            hidden=8192,
            heads=64,
            kv_heads=8,
            max_context=131_072,
            source="config.json and model card of meta-llama/Llama-3.1-70B-Instruct: 70.6B",
        ),
        _grouped(
            name="qwen3-30b-a3b",
            billions=30.5,
            active_billions=3.3,
            layers=48,
            hidden=2048,
            heads=32,
            kv_heads=4,
            max_context=40_960,
            source="config.json and model card of Qwen/Qwen3-30B-A3B: 30.5B, 3.3B active",
            experts=128,
            experts_per_token=8,
            expert_hidden=768,
        ),
        _grouped(
            name="qwen3-235b-a22b",
            billions=235.0,
            active_billions=22.0,
            layers=94,
            hidden=4096,
            heads=64,
            kv_heads=4,
            max_context=40_960,
            source="config.json and model card of Qwen/Qwen3-235B-A22B: 235B, 22B active",
            experts=128,
            experts_per_token=8,
            expert_hidden=1536,
        ),
        Llm(
            name="deepseek-r1",
            parameters=671e9,
            active=37e9,
            layers=61,
            hidden=7168,
            # The latent of 512 values and the 64 rotary ones, shared by all heads.
            kv_values=512 + 64,
            kv_heads=1,
            # 128 heads, each over the latent and rotary values and back to the latent.
            attention_flops=2.0 * 128 * (512 + 64 + 512),
            # Prompts: 128 heads of 128 + 64 values for keys and 128 for values. What it takes to
            # project a cached context up to them again, a twentieth for 8,192 tokens, is left out.
            prefill_flops=2.0 * 128 * (128 + 64 + 128),
            max_context=163_840,
            weight_bytes=1.0,
            source="config.json and model card of deepseek-ai/DeepSeek-R1: 671B, 37B active, "
            "weights in FP8; attention by mla_attention.py of vLLM 0.32: forward_mha for prompts, "
            "forward_mqa for decoding",
            # 58 of the 61 layers have experts.
            expert_parameters=3.0 * 58 * 256 * 7168 * 2048,
            experts=256,
            experts_per_token=8,
        ),
    )
}
