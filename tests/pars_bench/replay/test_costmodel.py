"""The roofline against figures worked out by hand, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pars_bench.replay.costmodel import Roofline, alone_s, find_gpu, find_llm
from pars_bench.replay.hardware import GIB, GPUS
from pars_bench.replay.llms import LLMS
from pars_export.errors import ConfigError

LLAMA, H100 = LLMS["llama-3.1-8b"], GPUS["h100"]


def ideal(llm: str = "llama-3.1-8b", gpu: str = "h100", gpus: int = 1) -> Roofline:
    return Roofline(
        LLMS[llm], GPUS[gpu], gpus, host_s=0, bandwidth_efficiency=1, compute_efficiency=1
    )


def test_one_token_takes_the_time_to_read_the_weights_and_its_context() -> None:
    # 16.06 GB of weights; 32 layers x 2 x 8 heads x 128 values x 2 bytes = 131,072 B a token.
    expected = 2 * 8.03e9 / 3.35e12 + 131_072 * 1000 / 3.35e12
    assert ideal().device_s(1, 1000, 1000) == pytest.approx(expected)


def test_a_long_prompt_takes_the_time_of_its_arithmetic() -> None:
    pairs = 8192 * 8193 / 2
    matrices = 2 * 8.03e9 * 8192 / 989.4e12
    attention = 32 * 4 * 32 * 128 * pairs / 989.4e12
    assert ideal().device_s(8192, 8192, pairs) == pytest.approx(matrices + attention)


def test_two_gpus_halve_the_work_and_pay_for_their_agreement() -> None:
    one, two = ideal(), ideal(gpus=2)
    # Two all-reduces a layer: each GPU sends its half twice over, 4096 values of 2 bytes.
    agreement = 2 * 32 * (8e-6 + 4096 * 2 / 450e9)
    assert two.device_s(1, 10, 10) == pytest.approx(one.device_s(1, 10, 10) / 2 + agreement)


def test_a_token_reads_its_own_experts_and_a_large_batch_all_of_them() -> None:
    moe = ideal("qwen3-30b-a3b")
    llm = moe.llm
    shared = llm.parameters - llm.expert_parameters
    few = (shared + llm.expert_parameters * 8 / 128) * 2 / 3.35e12
    assert moe.device_s(1, 0, 0) == pytest.approx(few)
    assert moe.device_s(120, 0, 0) > 0.99 * llm.parameters * 2 / 3.35e12


@pytest.mark.parametrize("name", [name for name, llm in LLMS.items() if llm.experts > 1])
def test_experts_and_the_rest_agree_with_the_published_active_parameters(name: str) -> None:
    llm = LLMS[name]
    reached = llm.parameters - llm.expert_parameters * (1 - llm.experts_per_token / llm.experts)
    assert reached == pytest.approx(llm.active, rel=0.06)


def grouped(hidden: int, heads: int, kv_heads: int) -> int:
    """Weights of a layer's attention, heads of 128 values."""
    return 128 * hidden * (2 * heads + 2 * kv_heads)


# Layers by the published config.json, without norms and routers; input and output embedding apart.
SHAPES = {
    "llama-3.1-8b": 2 * 128_256 * 4096 + 32 * (grouped(4096, 32, 8) + 3 * 4096 * 14_336),
    "llama-3.1-70b": 2 * 128_256 * 8192 + 80 * (grouped(8192, 64, 8) + 3 * 8192 * 28_672),
    "qwen3-30b-a3b": 2 * 151_936 * 2048 + 48 * (grouped(2048, 32, 4) + 128 * 3 * 2048 * 768),
    "qwen3-235b-a22b": 2 * 151_936 * 4096 + 94 * (grouped(4096, 64, 4) + 128 * 3 * 4096 * 1536),
    "deepseek-r1": 2 * 129_280 * 7168
    # Queries and keys through latents of 1536 and 512 values, 128 heads of 128 + 64 values.
    + 61 * (7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168)
    + 3 * 3 * 7168 * 18_432
    + 58 * 257 * 3 * 7168 * 2048,
}


@pytest.mark.parametrize("name", LLMS)
def test_the_published_parameters_are_those_of_the_shape(name: str) -> None:
    assert LLMS[name].parameters == pytest.approx(SHAPES[name], rel=0.002)


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("gpu", GPUS)
def test_time_grows_with_every_kind_of_work(llm: str, gpu: str) -> None:
    model = Roofline(find_llm(llm), find_gpu(gpu), 8)
    sizes = np.asarray([1.0, 10.0, 100.0, 1000.0, 10_000.0])
    times = np.asarray(model.device_s(sizes, 10 * sizes, 10 * sizes * sizes))
    assert (np.diff(times) > 0).all()
    assert times[0] == pytest.approx(float(model.device_s(1.0, 10.0, 10.0)))


def test_latent_attention_computes_prompts_as_heads_and_decodes_on_the_latent() -> None:
    llm = find_llm("deepseek-r1")
    assert llm.attention_flops / llm.prefill_flops == pytest.approx(3.4)
    model, tokens, before = ideal("deepseek-r1", "h200", 8), 8192.0, 32_768.0
    context, pairs = before + tokens, tokens * (before + (tokens + 1) / 2)
    more = float(model.device_s(tokens, context, 2 * pairs)) - float(
        model.device_s(tokens, context, pairs)
    )
    # Every pair more is a prompt's, on all eight GPUs.
    assert more == pytest.approx(61 * 2 * 128 * 320 * pairs / (8 * GPUS["h200"].flops_16))


def test_the_kv_cache_gets_what_the_weights_leave() -> None:
    free = 80 * GIB * 0.92 - 2 * GIB - 2 * 8.03e9
    assert ideal().kv_blocks(16, 0.92, 2.0) == int(free // (131_072 * 16))


def test_more_gpus_than_kv_heads_hold_the_same_ones_again() -> None:
    four, eight = ideal("qwen3-235b-a22b", "h200", 4), ideal("qwen3-235b-a22b", "h200", 8)
    assert four.kv_parts == eight.kv_parts == 4
    assert ideal("deepseek-r1", "h200", 8).kv_parts == 1


@pytest.mark.parametrize(
    ("llm", "gpu", "gpus", "advice"),
    [
        ("llama-3.1-70b", "h100", 1, "use --tp 2 or more"),
        ("llama-3.1-70b", "rtx4090", 2, "use --tp 8 or more"),
        ("deepseek-r1", "h100", 8, "use a GPU with more memory or a smaller LLM"),
    ],
)
def test_an_llm_that_does_not_fit_is_refused(llm: str, gpu: str, gpus: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=f"{llm} does not fit on {gpus} x {gpu}") as refusal:
        ideal(llm, gpu, gpus).kv_blocks(16, 0.92, 2.0)
    assert advice in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gpus": 0}, "expected 1 to 8 h100"),
        ({"gpus": 16}, "expected 1 to 8 h100"),
        ({"gpus": 3}, "cannot be split into 3 equal parts"),
        ({"bandwidth_efficiency": 0.0}, "bandwidth_efficiency is 0.0"),
        ({"compute_efficiency": 1.5}, "compute_efficiency is 1.5"),
        ({"host_s": -1.0}, "--step-overhead is -1.0: expected 0 to 60"),
    ],
)
def test_impossible_hardware_is_refused(change: dict[str, float], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        replace(Roofline(LLAMA, H100), **change)  # type: ignore[arg-type]  # one field at a time


def test_unknown_presets_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="--llm gpt: unknown LLM; known: "):
        find_llm("gpt")
    with pytest.raises(ConfigError, match="--gpu b200: unknown GPU; known: h100"):
        find_gpu("b200")


def test_a_request_alone_takes_its_prompt_and_then_a_step_a_token() -> None:
    model = Roofline(LLAMA, H100)
    prompt, output = np.asarray([8192.0]), np.asarray([101.0])
    prefill = model.host_s + model.device_s(8192.0, 8192.0, 8192 * 8193 / 2)
    decode = model.host_s + model.device_s(1.0, 8192 + 50.5, 8192 + 50.5)
    alone = alone_s(model, prompt, output, 8192, asynchronous=False)[0]
    assert alone == pytest.approx(prefill + 100 * decode)
    hidden = alone_s(model, prompt, output, 8192, asynchronous=True)[0]
    assert hidden == pytest.approx(alone - 100 * model.host_s)
    # In two chunks the weights are read twice and the same pairs are attended to.
    one = np.asarray([1.0])
    halves = alone_s(model, prompt, one, 4096, asynchronous=False)[0]
    assert halves > alone_s(model, prompt, one, 8192, asynchronous=False)[0]


def test_facts_name_the_source_of_every_figure_and_what_is_assumed() -> None:
    facts = Roofline(LLAMA, H100).facts()
    assert "model card" in str(facts["llm"])
    assert "data sheet" in str(facts["gpu"])
    assert facts["assumed"] == {
        "host_s": 2e-3,
        "bandwidth_efficiency": 0.8,
        "compute_efficiency": 0.6,
        "link_latency_s": 8e-6,
    }
