"""A tiny random Llama with a byte tokenizer and a ChatML template, for a real engine in seconds.

Any test folder may import it: it needs no fixtures. ``make_tiny_model(folder)`` writes the model;
``engine_environment()`` is what vLLM's CPU build needs on a small machine.
"""

from __future__ import annotations

import json
from pathlib import Path

# SmolLM2's template: it inserts a system prompt where none is given.
CHATML_WITH_DEFAULT_SYSTEM = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def engine_environment() -> dict[str, str]:
    """Environment for vLLM's CPU build: in one process, one thread, one GiB of KV cache."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def write_tokenizer(
    folder: Path,
    chat_template: str | None = CHATML_WITH_DEFAULT_SYSTEM,
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS,
    bos: str | None = None,
) -> Path:
    """A tokenizer whose tokens are bytes and the special tokens; exact in both directions.

    ``bos``: a special token that is put before every prompt without a template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: index for index, sign in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special_tokens))
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100_000}
    if special_tokens == SPECIAL_TOKENS:
        config |= {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
        }
    if bos is not None:
        config["bos_token"] = bos
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return folder


def write_spaced_tokenizer(
    folder: Path, chat_template: str, special_tokens: tuple[str, ...], stripping: bool = False
) -> Path:
    """A tokenizer of SentencePiece's kind (as Llama 2's): it does not give back what went in.

    A space comes before each stretch between special tokens, and one before the whole is dropped
    again. ``stripping``: special tokens swallow the white space after them, as Phi 3's do.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    signs = [*(f"<0x{value:02X}>" for value in range(256)), "\N{LOWER ONE EIGHTH BLOCK}"]
    signs += [chr(value) for value in range(33, 127)]
    vocabulary = {sign: index for index, sign in enumerate(signs)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(space, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, rstrip=stripping, normalized=False) for text in special_tokens]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return folder


def byte_ids(text: str) -> list[int]:
    """The ids of ``text`` under the tokenizer of ``write_tokenizer``, without a template."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {sign: index for index, sign in enumerate(alphabet)}
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [ids[sign] for piece, _ in split for sign in piece]


def make_tiny_model(folder: Path) -> Path:
    """Write a random Llama (2 layers, hidden 64) with its tokenizer; vLLM loads it in seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL_TOKENS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # the smallest that vLLM's CPU attention takes
        max_position_embeddings=4096,
        bos_token_id=257,
        eos_token_id=258,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
