"""The ranker: one score per prompt, a checkpoint that needs nothing else."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_families import network_of
from torch.testing import assert_close

from pars_export.errors import ConfigError, InputError
from pars_model.checkpoint import load_ranker
from pars_model.losses import OBJECTIVES
from pars_model.module import ResponseLengthRanker
from pars_model.optim import learning_rate_factor, parameter_groups

TEXTS = ["write a story about the moon", "one word", "", "write a list of " * 40]


@pytest.fixture
def ranker(encoder: Path) -> ResponseLengthRanker:
    torch.manual_seed(1)
    ranker = ResponseLengthRanker(str(encoder))
    ranker.eval()
    return ranker


@pytest.mark.parametrize("pooling", ["mean", "layers", "cls", "pooler"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_scores_are_one_number_per_text_whatever_the_batch(
    encoder: Path, objective: str, pooling: str
) -> None:
    ranker = ResponseLengthRanker(str(encoder), pooling=pooling, objective=objective).eval()
    scores = ranker.score(TEXTS)
    assert scores.shape == (4,)
    assert len(set(scores.tolist())) == 4
    one_by_one = [ranker.score([text])[0] for text in TEXTS]
    assert_close(torch.tensor(scores), torch.tensor(one_by_one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["margin", "bucket"])
def test_the_score_that_trains_is_the_score_that_serves(encoder: Path, objective: str) -> None:
    ranker = ResponseLengthRanker(str(encoder), objective=objective).eval()
    ids = torch.tensor([[2, 8, 9, 3], [2, 7, 3, 0]])
    mask = (ids != 0).long()
    trained = ranker.objective.score(ranker.outputs(ids, mask))
    assert_close(trained, ranker(ids, mask))


def test_scores_stay_float32_under_bfloat16(ranker: ResponseLengthRanker) -> None:
    ids = torch.arange(4, 20).reshape(1, -1).repeat(2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = ranker.outputs(ids, torch.ones_like(ids))
    assert outputs.dtype == torch.float32
    assert not torch.equal(outputs, outputs.bfloat16().float())


@pytest.mark.parametrize("together", [1, 3, 16, 0])
def test_a_batch_is_encoded_in_parts_of_similar_length(encoder: Path, together: int) -> None:
    torch.manual_seed(1)
    ranker = ResponseLengthRanker(str(encoder), encoded_together=together).eval()
    widths: list[tuple[int, ...]] = []
    ranker.encoder.register_forward_pre_hook(
        lambda _, __, given: widths.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    sizes = torch.tensor([9, 2, 30, 4, 30, 3, 9])
    mask = (torch.arange(30) < sizes[:, None]).long()
    ids = mask * torch.randint(4, 20, mask.shape)
    row = torch.tensor([6, 0, 0, 2, 1, 5])
    found = ranker.outputs(ids, mask, row)
    parts = {1: [(1, int(n)) for n in sorted(sizes)], 3: [(3, 4), (3, 30), (1, 30)]}
    assert widths == parts.get(together, [(7, 30)])
    alone = [ranker(ids[[i], : sizes[i]], mask[[i], : sizes[i]]) for i in row]
    assert_close(found[:, 0], torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layers", "pooled"), [(1, [1]), (2, [1, 2]), (6, [2, 4, 6])])
def test_layers_are_pooled_side_by_side(layers: int, pooled: list[int]) -> None:
    network = network_of("bert", pooling="layers", num_hidden_layers=layers)
    assert network.pooled_layers() == pooled
    ids = torch.tensor([[2, 8, 9, 3], [2, 7, 3, 0]])
    mask = (ids != 0).long()
    with torch.inference_mode():
        output = network.encoder(input_ids=ids, attention_mask=mask)
        found = network.pool(output, mask)
    for text, tokens in enumerate((4, 3)):
        means = [output.hidden_states[layer][text, :tokens].mean(dim=0) for layer in pooled]
        assert_close(found[text], torch.cat(means))


def save(ranker: ResponseLengthRanker, path: Path, **changes: object) -> Path:
    checkpoint = {
        "state_dict": ranker.state_dict(),
        "hyper_parameters": {**ranker.hparams, "_instantiator": "x"},
        "pars": {},
    }
    ranker.on_save_checkpoint(checkpoint)
    torch.save({**checkpoint, **changes}, path)
    return path


def test_a_checkpoint_needs_no_encoder_folder(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    ranker = ResponseLengthRanker(str(folder), objective="bucket", buckets=4, max_length=32).eval()
    ranker.calibration = {"scores": [0.0, 1.0], "tokens": [1.0, 2.0]}
    ranker.metrics = {"tau": 0.5}
    path = save(ranker, tmp_path / "a.ckpt")
    shutil.rmtree(folder)
    loaded = load_ranker(path)
    assert not loaded.training
    assert (loaded.score(TEXTS) == ranker.score(TEXTS)).all()
    assert loaded.calibration == ranker.calibration
    assert loaded.metrics == {"tau": 0.5}
    assert loaded.input_spec == ranker.input_spec


def test_a_score_is_made_of_the_vector_beside_it(ranker: ResponseLengthRanker) -> None:
    rows = ranker.eval().scores_and_vectors(TEXTS, batch_size=2)
    scores = ranker.score(TEXTS)
    assert rows.shape == (len(TEXTS), 1 + ranker.head.in_features)
    np.testing.assert_allclose(rows[:, 0], scores, atol=1e-5)
    with torch.inference_mode():
        again = ranker.network.score(torch.from_numpy(rows[:, 1:]))
    np.testing.assert_allclose(again.numpy(), scores, atol=1e-5)


def test_a_ranker_that_diverged_is_refused(ranker: ResponseLengthRanker, tmp_path: Path) -> None:
    broken = load_ranker(save(ranker, tmp_path / "a.ckpt"))
    with torch.no_grad():
        next(broken.head.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match=f"of {len(TEXTS)} of {len(TEXTS)} prompts are NaN"):
        broken.score(TEXTS)


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "pickle", "no_pars", "no_config"])
def test_files_that_are_no_checkpoint_are_refused(
    ranker: ResponseLengthRanker, tmp_path: Path, damage: str
) -> None:
    path = save(ranker, tmp_path / "a.ckpt")
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    elif damage == "pickle":
        torch.save({"state_dict": ranker.state_dict(), "hyper_parameters": path}, path)
    elif damage == "no_pars":
        torch.save({"state_dict": {}, "hyper_parameters": dict(ranker.hparams)}, path)
    else:
        save(ranker, path, hyper_parameters={"encoder": "embedded:minilm"})
    with pytest.raises(InputError, match=r"does not exist|is no checkpoint of a ranker"):
        load_ranker(path)


def test_hyperparameters_are_plain(ranker: ResponseLengthRanker) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(each) for key, each in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    assert plain(dict(ranker.hparams))


def test_layers_learn_at_their_own_rate(ranker: ResponseLengthRanker) -> None:
    groups = parameter_groups(ranker.named_parameters(), 1.0, 7.0, 0.5, 0.01)
    rate = {id(p): group for group in groups for p in group["params"]}
    names = dict(ranker.named_parameters())
    assert len(rate) == len(names)
    found = {name: (rate[id(p)]["lr"], rate[id(p)]["weight_decay"]) for name, p in names.items()}
    assert found["head.weight"] == (7.0, 0.01)
    assert found["head.bias"] == (7.0, 0.0)
    assert found["encoder.encoder.layer.1.output.dense.weight"] == (1.0, 0.01)
    assert found["encoder.encoder.layer.0.output.dense.bias"] == (0.5, 0.0)
    assert found["encoder.embeddings.word_embeddings.weight"] == (0.25, 0.01)


def test_learning_rates_rise_then_fall() -> None:
    factor = learning_rate_factor(100, 0.1, "linear")
    course = [factor(step) for step in range(101)]
    assert course[0] < 0.2
    assert max(course) == course[10] == 1
    assert course[100] == 0
    assert all(b < a for a, b in itertools.pairwise(course[10:]))
    assert learning_rate_factor(100, 0.0, "constant")(99) == 1
    assert learning_rate_factor(float("inf"), 0.1, "linear")(5) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pooling": "max"}, "model.pooling is 'max'"),
        ({"objective": "best"}, "model.objective is 'best'"),
        ({"schedule": "cosine"}, "model.schedule"),
        ({"lr": -1.0}, "model.lr"),
        ({"layer_decay": 0.0}, "model.layer_decay"),
        ({"warmup": 1.0}, "model.warmup"),
        ({"max_length": 1000}, "the encoder takes 128 tokens"),
        ({"truncation": "tail"}, "truncation"),
        ({"encoded_together": -1}, "model.encoded_together is -1"),
    ],
)
def test_settings_out_of_range_are_refused(
    encoder: Path, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ResponseLengthRanker(str(encoder), **arguments)


def test_an_encoder_with_missing_weights_is_refused(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"lacks weights .*layer\.2"):
        ResponseLengthRanker(str(folder))
