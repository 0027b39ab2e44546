"""The `config.json` of an encoder's folder: what is built of it, and that no hub is asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from encoder_families import CONFIG, FAMILIES
from no_network import without_network

from pars_export import Predictor, PredictorError
from pars_export.encoder_config import MODEL_TYPES
from pars_export.runtimes.encoded import EncodedScorer
from pars_export.runtimes.torch_eager import TorchCore

if TYPE_CHECKING:
    from tests.pars_export.conftest import Forge


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold encoder"),
        ('{"encoder": {}, "pooling": "mean", "outputs": 0}', "must hold encoder"),
        ('{"encoder": {}, "pooling": "max", "outputs": 1}', "pooling is 'max'"),
        ('{"encoder": {}, "pooling": "mean", "outputs": 1}', "names no model_type"),
        ('{"encoder": {"model_type": "nosuch"}, "pooling": "mean", "outputs": 1}', "'nosuch'"),
        (
            '{"encoder": {"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4},'
            ' "pooling": "mean", "outputs": 1}',
            "cannot be built",
        ),
        (
            '{"encoder": {"model_type": "bert", "num_attention_heads": 0},'
            ' "pooling": "mean", "outputs": 1}',
            "cannot be built",
        ),
        (
            '{"encoder": {"model_type": "bert", "hidden_size": "wide"},'
            ' "pooling": "mean", "outputs": 1}',
            "cannot be built",
        ),
        (
            '{"encoder": {"model_type": "xlnet", "max_position_embeddings": 9},'
            ' "pooling": "mean", "outputs": 1}',
            "cannot be built",
        ),
    ],
)
def test_a_config_of_another_form(forge: Forge, config: str, sentence: str) -> None:
    with pytest.raises(PredictorError, match=sentence):
        Predictor.load(forge(config__json=config), runtime="torch")


def test_remote_code_is_not_run(exported: Path, forge: Forge) -> None:
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    config["encoder"]["auto_map"] = {"AutoModel": "evil/repository--modeling.Evil"}
    predictor = Predictor.load(forge(config__json=json.dumps(config)), runtime="torch")
    scorer = predictor._ready()
    assert isinstance(scorer, EncodedScorer)
    assert isinstance(scorer._core, TorchCore)
    assert type(scorer._core._network.encoder).__module__.startswith("transformers.")


FETCHING: tuple[dict[str, object], ...] = (
    {"model_type": "detr", "backbone": "attacker/repo", "use_timm_backbone": False},
    {"model_type": "edgetam_vision_model"},
    {"model_type": "timm_wrapper", "architecture": "attacker/repo"},
    {"model_type": "dpt", "backbone": "attacker/repo", "use_pretrained_backbone": True},
    {"model_type": "mra"},
    {"model_type": "encoder-decoder", "encoder": {"model_type": "detr"}, "decoder": {}},
)
"""Models of transformers that would ask a hub while they are built, or might."""
NAMES = {
    "_name_or_path": "attacker/repo",
    "name_or_path": "attacker/repo",
    "backbone": "attacker/repo",
    "use_pretrained_backbone": True,
    "use_timm_backbone": True,
    "backbone_config": {"model_type": "detr", "backbone": "attacker/repo"},
    "attn_implementation": "attacker/kernel",
    "_attn_implementation": "attacker/kernel",
    "experts_implementation": "attacker/kernel",
    "text_config": {"model_type": "detr", "_name_or_path": "attacker/repo", "backbone": "a/b"},
    "encoder": {"model_type": "detr", "backbone": "attacker/repo"},
    "auto_map": {"AutoModel": "evil/repository--modeling.Evil", "AutoConfig": "evil/r--c.Evil"},
}
"""Keys of a configuration by which something elsewhere might be meant."""
_LOADING = """
import json, pathlib
from pars_export.errors import PredictorError
from pars_export.runtimes.torch_eager import load_network
for folder in sys.argv[1:]:
    try:
        network = load_network(pathlib.Path(folder), "model.safetensors")
        told = type(network.encoder).__module__
    except PredictorError as error:
        told = str(error)
    print(json.dumps([asked, told]))
    asked.clear()
"""


def test_no_configuration_makes_the_reference_ask_a_hub(exported: Path, tmp_path: Path) -> None:
    known = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    hostile = [
        *FETCHING,
        {**known["encoder"], **NAMES},
        known["encoder"] | {"quantization_config": {}},
    ]
    folders = []
    for number, encoder in enumerate(hostile):
        folder = shutil.copytree(exported, tmp_path / str(number))
        (folder / "config.json").write_text(json.dumps({**known, "encoder": encoder}))
        folders.append(str(folder))
    told = [json.loads(line) for line in without_network(_LOADING, *folders)]
    assert [asked for asked, _ in told] == [[]] * len(hostile)
    for (_, sentence), encoder in zip(told, FETCHING, strict=False):
        assert f"model_type is {encoder['model_type']!r}, which is not built here" in sentence
    assert told[-2][1].startswith("transformers.models.bert.")
    assert "weights are quantised" in told[-1][1]


TINY = {
    **CONFIG,
    **dict.fromkeys(("embedding_size", "dim", "emb_dim", "d_model", "true_hidden_size"), 32),
    **dict.fromkeys(("intra_bottleneck_size", "entity_emb_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("hidden_dim", "d_inner", "ffn_dim", "entity_vocab_size"), 64),
    **dict.fromkeys(("n_layers", "n_layer"), 2),
    **dict.fromkeys(("n_heads", "n_head"), 4),
    "attention_window": [8, 8],
}
"""By whatever name a model has its sizes."""
_BUILDING = """
import json
from pars_export.network import build_encoder
for config in json.loads(sys.argv[1]):
    encoder = build_encoder(config)
    told = [type(encoder).__module__, encoder.config.hidden_size]
    print(json.dumps([asked, *told, encoder.config._attn_implementation]))
"""


def test_every_encoder_that_is_built_is_built_without_a_hub() -> None:
    configs = [{**TINY, **NAMES, "model_type": each} for each in MODEL_TYPES]
    for config in configs:
        if config["model_type"] == "xlnet":  # it has no limit, and says so to who names one
            del config["max_position_embeddings"]
    told = [json.loads(line) for line in without_network(_BUILDING, json.dumps(configs))]
    assert set(FAMILIES) < set(MODEL_TYPES)
    for (asked, module, width, attention), model_type in zip(told, MODEL_TYPES, strict=True):
        assert asked == []
        assert module.startswith("transformers.models."), model_type
        assert (width, attention) == (32, "eager"), model_type


def test_a_configuration_nested_without_end_is_refused(exported: Path, forge: Forge) -> None:
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    deep: object = {}
    for _ in range(400):
        deep = {"x": [deep]}
    config["encoder"]["task_specific_params"] = deep
    with pytest.raises(PredictorError, match=r"config\.json: "):
        Predictor.load(forge(config__json=json.dumps(config)), runtime="torch")
