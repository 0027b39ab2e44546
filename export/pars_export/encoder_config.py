"""An encoder's `config.json`: which ones are built, and without asking any hub.

Some of transformers' models fetch a part of theirs while they are built, by a name that their
configuration holds or has by default. So only models that are built whole are taken, and no key
that names something elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pars_export.errors import PredictorError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MODEL_TYPES = (
    "albert",
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "convbert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "eurobert",
    "flaubert",
    "gte",
    "ibert",
    "jina_embeddings_v3",
    "longformer",
    "luke",
    "megatron-bert",
    "mobilebert",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "nystromformer",
    "opt",  # no encoder, but the network of rankers that ours is compared with
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "splinter",
    "squeezebert",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xlnet",
)
"""Models of token ids and a mask that transformers builds from their numbers alone."""
_ELSEWHERE = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "_experts_implementation_internal",
        "_name_or_path",
        "attn_implementation",
        "auto_map",
        "backbone",
        "backbone_config",
        "backbone_kwargs",
        "experts_implementation",
        "name_or_path",
        "use_pretrained_backbone",
        "use_timm_backbone",
    }
)
"""Keys that name code, kernels or weights elsewhere; these models have no other use for them."""


def fault(config: Mapping[str, object]) -> str | None:
    """Why no encoder is built from the content of a `config.json`; None where one may be."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return "the encoder's configuration names no model_type; expected one of transformers"
    if model_type not in MODEL_TYPES:
        return (
            f"model_type is {model_type!r}, which is not built here; give a text encoder of one of "
            f"the types {', '.join(MODEL_TYPES)}"
        )
    if config.get("quantization_config") is not None:
        return (
            "quantization_config says that the encoder's weights are quantised; give the encoder "
            "with weights in float32, float16 or bfloat16"
        )
    return None


def transformers_config(config: Mapping[str, object]) -> PreTrainedConfig:
    """The content of a `config.json` as transformers' configuration.

    Raises:
        PredictorError: `fault` finds one.
        Exception: a value does not fit; whatever transformers raises.
    """
    from transformers import AutoConfig

    found = fault(config)
    if found is not None:
        raise PredictorError(f"config.json: {found}.")
    settings = {key: _here(value) for key, value in config.items() if key not in _ELSEWHERE}
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def _here(value: object) -> object:
    """A value without keys that name something elsewhere, however deep."""
    if isinstance(value, Mapping):
        return {key: _here(each) for key, each in value.items() if key not in _ELSEWHERE}
    if isinstance(value, list):
        return [_here(each) for each in value]
    return value
