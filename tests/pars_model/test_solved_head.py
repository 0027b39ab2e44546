"""A head in closed form, and fits that learn nothing else by gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from pars_export.errors import ConfigError
from pars_model.checkpoint import load_ranker
from pars_model.cli import main
from pars_model.datamodule import PromptLengthDataModule
from pars_model.evaluate import evaluate
from pars_model.lengths import read_lengths
from pars_model.module import ResponseLengthRanker
from pars_model.solved_head import PENALTIES, solve_head

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows, MakeTable

FEW = Path(__file__).parents[2] / "configs" / "few.yaml"


def drawn(rows: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((rows, 8)) * [1, 1, 1, 1, 1, 9, 0.1, 0] + 5).astype(np.float32)
    target = vectors[:, 0] - 2 * vectors[:, 1] + noise * rng.standard_normal(rows)
    return vectors, target


@pytest.mark.parametrize("noise", [0.1, 8.0])
def test_it_is_the_ridge_regression_of_its_penalty(noise: float) -> None:
    vectors, target = drawn(60, noise)
    head = solve_head(vectors, target)
    assert head.penalty in PENALTIES
    spread = np.maximum(vectors.std(axis=0, dtype=np.float64), 1e-6)
    inputs = (vectors - vectors.mean(axis=0, dtype=np.float64)) / spread
    wanted = np.linalg.solve(
        inputs.T @ inputs + head.penalty * np.eye(8), inputs.T @ (target - target.mean())
    )
    scores = vectors @ head.weight + head.bias
    assert scores.mean() == pytest.approx(0.0, abs=1e-5)
    assert scores.std() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(scores, inputs @ wanted / (inputs @ wanted).std(), atol=1e-4)


def test_more_noise_takes_a_larger_penalty() -> None:
    quiet, loud = (solve_head(*drawn(60, noise)).penalty for noise in (0.01, 30.0))
    assert quiet < loud


def test_a_fold_without_an_order_has_no_say() -> None:
    vectors, target = drawn(40, 0.0)
    target[::5] = target.mean()
    assert solve_head(vectors, target).penalty < PENALTIES[-1]


@pytest.mark.parametrize("rows", [2, 4])
def test_few_or_equal_targets_still_give_a_head(rows: int) -> None:
    vectors, target = drawn(rows, 0.1)
    for given in (target, np.zeros(rows)):
        head = solve_head(vectors, given)
        assert np.isfinite(head.weight).all()
        assert np.isfinite(head.bias)


def fit(encoder: Path, table: Path, root: Path, *more: str) -> int:
    arguments = ["fit", "--config", FEW, "--data.path", table, "--model.encoder", encoder]
    arguments += ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu"]
    return main([str(each) for each in (*arguments, "--model.max_length", "32", *more)])


def test_a_fit_leaves_the_encoder_as_it_is_and_learns_what_the_prompts_say(
    encoder: Path, table: Path, tmp_path: Path
) -> None:
    assert fit(encoder, table, tmp_path, "--model.ngram_half", "false") == 0
    ranker = load_ranker(tmp_path / "best.ckpt")
    before = ResponseLengthRanker(str(encoder), pooling="layers").encoder.state_dict()
    for name, weight in ranker.encoder.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert ranker.head.in_features == len(ranker.network.pooled_layers()) * 32 > 32
    assert ranker.metrics["tau"] > 0.4
    held_out: dict[str, Any] = evaluate(ranker, table, "test", resamples=5)
    assert held_out["tau"] > 0.3
    again = tmp_path / "again"
    assert fit(encoder, table, again, "--model.ngram_half", "false", "--seed_everything", "5") == 0
    assert torch.equal(load_ranker(again / "best.ckpt").head.weight, ranker.head.weight)


def test_lengths_of_prompts_held_out_change_no_head(
    encoder: Path, make_rows: MakeRows, make_table: MakeTable, tmp_path: Path
) -> None:
    rows = [
        {**row, "split": "train" if number < 90 else "val" if number < 110 else "test"}
        for number, row in enumerate(make_rows(130))
    ]
    other = [
        row if row["split"] == "train" else {**row, "response_tokens": 7 + number % 3}
        for number, row in enumerate(rows)
    ]
    heads = []
    for name, given in (("one", rows), ("other", other)):
        root = tmp_path / name
        table = make_table(given, f"{name}.jsonl")
        assert fit(encoder, table, root, "--model.ngram_half", "false") == 0
        heads.append(load_ranker(root / "best.ckpt").head.weight)
    assert torch.equal(*heads)


def test_it_gets_a_half_and_is_exported_like_any_other(
    encoder: Path, make_rows: MakeRows, make_table: MakeTable, tmp_path: Path
) -> None:
    from pars_export import Predictor
    from pars_export.export import export_checkpoint

    table = make_table(make_rows(250))
    assert fit(encoder, table, tmp_path, "--model.prior", "none") == 0
    ranker = load_ranker(tmp_path / "best.ckpt")
    assert ranker.ngrams is not None
    export_checkpoint(tmp_path / "best.ckpt", tmp_path / "predictor")
    predictor = Predictor.load(tmp_path / "predictor", "onnx")
    texts = read_lengths(table).prompts[:20]
    np.testing.assert_allclose(predictor.score(texts), ranker.score(texts), atol=2e-4)
    config = json.loads((tmp_path / "predictor" / "config.json").read_text())
    assert config["pooling"] == "layers"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"facts": ["max_tokens"]}, r"fine_tune is false, and model.facts is \['max_tokens'\]"),
        ({"objective": "bucket"}, "fine_tune is false, and model.objective is bucket"),
    ],
)
def test_what_no_closed_form_is_for_is_refused(
    encoder: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ResponseLengthRanker(str(encoder), fine_tune=False, **settings)


def test_several_processes_and_none_with_data_are_refused(
    encoder: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = ResponseLengthRanker(str(encoder), fine_tune=False)
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    ranker.trainer = trainer
    with pytest.raises(ConfigError, match="fine_tune is false, but the fit has no data module"):
        ranker.on_train_start()
    monkeypatch.setattr(trainer, "datamodule", PromptLengthDataModule(str(table)), raising=False)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(ConfigError, match=r"there are 2 processes: .* \(--trainer.devices 1\)"):
        ranker.on_train_start()
