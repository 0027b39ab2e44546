"""A head in closed form, and fits that learn nothing else by gradients."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from pars_export.calibration import Calibration
from pars_export.errors import ConfigError, InputError
from pars_model.calibration import fit_calibration
from pars_model.checkpoint import load_ranker
from pars_model.cli import main
from pars_model.course import Course
from pars_model.datamodule import PromptLengthDataModule
from pars_model.distil import distil
from pars_model.evaluate import evaluate
from pars_model.fit_split import FitSplit
from pars_model.folds import out_of_fold
from pars_model.lengths import hash_split, read_lengths
from pars_model.metrics import kendall_tau
from pars_model.module import ResponseLengthRanker
from pars_model.ngram_half import factor_of, half_out_of_fold
from pars_model.ranks import rank_targets
from pars_model.solved_head import PENALTIES, head_scorer, solve_head
from pars_model.student_fit import Recipe

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


def test_out_of_fold_no_prompts_own_length_gives_its_score() -> None:
    vectors, target = drawn(50, 1.0)
    train = np.arange(60) % 6 > 0
    scores = out_of_fold(train, head_scorer(vectors, target))
    assert np.isnan(scores[~train]).all()
    assert kendall_tau(scores[train], target) > 0.3
    changed = target.copy()
    changed[7] += 50.0
    others = out_of_fold(train, head_scorer(vectors, changed))
    place = np.flatnonzero(train)[7]
    assert others[place] == scores[place]
    assert not np.allclose(others[train], scores[train])


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


@pytest.mark.parametrize("half", ["true", "false"])
def test_without_validation_prompts_it_is_judged_by_fits_that_have_not_seen_them(
    encoder: Path, make_rows: MakeRows, make_table: MakeTable, tmp_path: Path, half: str
) -> None:
    rows = make_rows(250)
    lengths = np.random.default_rng(0).permutation([row["response_tokens"] for row in rows])
    noise = [{**row, "response_tokens": int(n)} for row, n in zip(rows, lengths, strict=True)]
    found = {}
    for name, given in (("rows", rows), ("noise", noise)):
        table = make_table(given, f"{name}.jsonl")
        more = ("--model.ngram_half", half, "--model.prior", "none")
        assert fit(encoder, table, tmp_path / name, *more) == 0
        ranker = found[name] = load_ranker(tmp_path / name / "best.ckpt")
        assert ranker.training_summary["data"]["prompts"]["val"] == 0
        assert ranker.training_summary["validated"] == "out of fold"
    assert (found["rows"].ngrams is not None) == (half == "true")
    assert found["rows"].metrics["tau"] > 0.4
    assert abs(found["noise"].metrics["tau"]) < 0.2
    learned: dict[str, Any] = evaluate(
        found["noise"], tmp_path / "noise.jsonl", "train", resamples=5
    )
    assert learned["tau"] > abs(found["noise"].metrics["tau"]) + 0.1, "what it has seen it tells"
    # Calibration is of scores out of fold, too: of noise it tells hardly any difference.
    spread = {}
    for name, ranker in found.items():
        assert ranker.calibration is not None
        told = Calibration.from_json(ranker.calibration).expected_tokens(
            ranker.score(read_lengths(tmp_path / f"{name}.jsonl").prompts)
        )
        spread[name] = float(np.log(told).std())
    assert spread["noise"] < 0.5 * spread["rows"]


def test_another_table_is_validated_by_the_head_itself(
    encoder: Path, make_rows: MakeRows, make_table: MakeTable, tmp_path: Path
) -> None:
    rows = make_rows(60)
    first = make_table([{**row, "split": "train"} for row in rows[:40]], "first.jsonl")
    second = make_table([{**row, "split": "val"} for row in rows], "second.jsonl")
    ranker = ResponseLengthRanker(str(encoder), pooling="layers", max_length=32, fine_tune=False)
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 1}
    settings |= {"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0}
    settings |= {"enable_progress_bar": False, "limit_train_batches": 1, "log_every_n_steps": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(**settings).fit(
            ranker, datamodule=PromptLengthDataModule(str(first), val_fraction=0.0)
        )
        pl.Trainer(**settings).validate(ranker, datamodule=PromptLengthDataModule(str(second)))
    table = read_lengths(second)
    scores = ranker.eval().score(table.prompts)[table.prompt]
    assert ranker.metrics["tau"] == pytest.approx(kendall_tau(scores, table.length))


def test_calibration_is_of_scores_out_of_fold(
    encoder: Path, make_rows: MakeRows, make_table: MakeTable, tmp_path: Path
) -> None:
    path = make_table(make_rows(250))
    assert fit(encoder, path, tmp_path, "--model.prior", "none") == 0
    ranker, table = load_ranker(tmp_path / "best.ckpt"), read_lengths(path)
    train = hash_split(table.prompts, 0.0, 0.1) == "train"
    texts = [table.prompts[number] for number in np.flatnonzero(train)]
    target, _ = rank_targets(table, train[table.prompt], table.censored)
    vectors = ranker.eval().scores_and_vectors(texts)[:, 1:]
    heads = out_of_fold(train, head_scorer(vectors, target[train]))[train]
    half = ranker.training_summary["ngram_half"]
    halves = half_out_of_fold(table, train, ranker.text_tokenizer(), half["penalty"])[train]
    item = np.zeros(len(table.prompts), dtype=int)
    item[table.prompt] = np.arange(len(table))
    lengths = table.length[item[train]]
    scores = heads + np.float32(factor_of(half["share"], heads, halves)) * halves
    assert ranker.metrics["tau"] == pytest.approx(kendall_tau(scores, lengths), abs=0.01)
    assert ranker.calibration is not None
    found = Calibration.from_json(ranker.calibration)
    wanted = Calibration.from_json(fit_calibration(scores, lengths, table.censored[item[train]]))
    places = np.quantile(scores, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(
        found.expected_tokens(places), wanted.expected_tokens(places), rtol=0.02
    )


def test_a_ranker_that_kept_none_for_validation_is_judged_by_its_test_prompts(
    encoder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(encoder, table, tmp_path, "--model.ngram_half", "false") == 0
    judge = ["--config", str(FEW), "--data.path", str(table), "--model.encoder", str(encoder)]
    judge += ["--model.max_length", "32", "--model.ngram_half", "false"]
    judge += ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    judge += ["--ckpt_path", str(tmp_path / "best.ckpt")]
    with pytest.raises(InputError, match=r"kept no prompts for validation .* by pars test"):
        main(["validate", *judge])
    assert main(["test", *judge]) == 0
    assert "test/tau" in capsys.readouterr().out


def test_a_student_of_one_that_kept_none_aside_is_distilled(
    encoder: Path, table: Path, tmp_path: Path
) -> None:
    assert fit(encoder, table, tmp_path, "--model.ngram_half", "false") == 0
    recipe = Recipe(course=Course(epochs=1, lr=0.01))
    found = distil(load_ranker(tmp_path / "best.ckpt"), table, tmp_path / "student", recipe)
    data: Any = found.training["data"]
    texts = read_lengths(table).prompts
    assert FitSplit.of(data).learned(texts).sum() == (hash_split(texts, 0.0, 0.1) == "train").sum()
    assert data["prompts"]["val"] > 0


def test_another_recipes_steps_and_clipping_do_nothing(
    encoder: Path, table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ["--model.ngram_half", "false"]
    more = ["--trainer.gradient_clip_val", "1.0", "--trainer.accumulate_grad_batches", "2"]
    more += ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2"]
    heads = []
    for name, given in (("plain", settings), ("more", [*settings, *more])):
        assert fit(encoder, table, tmp_path / name, *given) == 0
        heads.append(load_ranker(tmp_path / name / "best.ckpt").head.weight)
    assert torch.equal(*heads)
    assert "no optimizer" not in (said := capfd.readouterr().err)
    assert "returned `None`" not in said


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
        ranker.on_fit_start()
    monkeypatch.setattr(trainer, "datamodule", PromptLengthDataModule(str(table)), raising=False)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(ConfigError, match=r"there are 2 processes: .* \(--trainer.devices 1\)"):
        ranker.on_fit_start()
