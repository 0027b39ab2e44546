"""The n-gram half: fitted at the end of a real fit, served with it, or left out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from torch.utils.data import DataLoader

from pars_export import Predictor
from pars_export.artifact import DEFAULT_PREDICTOR
from pars_export.errors import ConfigError
from pars_export.export import export_checkpoint
from pars_export.runtimes.ngram_half import HALF, NgramHalf
from pars_model import folds, ngram_half
from pars_model.__main__ import main
from pars_model.calibration import fit_calibration
from pars_model.callbacks import KeepBest
from pars_model.checkpoint import load_ranker
from pars_model.lengths import read_lengths, split_prompts
from pars_model.metrics import kendall_tau
from pars_model.module import ResponseLengthRanker
from pars_model.ngram_half import (
    BELIEVED,
    LEAST,
    LEAST_WITH_PRIOR,
    PENALTIES,
    SHARE,
    fit_half,
    share_of,
)
from pars_model.prior import DEFAULT, MOST, find_prior, prior_for
from tests.pars_model.conftest import rows_of, write_jsonl

CONFIG = Path(__file__).parents[2] / "configs" / "default.yaml"


def fit(encoder: Path, folder: Path, *more: str) -> Path:
    """Fit a tiny encoder by the default recipe to the lengths of a folder; its best.ckpt."""
    arguments = ["fit", "--config", str(CONFIG), "--data.path", str(folder / "lengths.jsonl")]
    arguments += ["--model.encoder", str(encoder), "--model.max_length", "32"]
    arguments += ["--trainer.max_epochs", "1", "--trainer.default_root_dir", str(folder)]
    assert main([*arguments, "--trainer.accelerator", "cpu", *more]) == 0
    return folder / "best.ckpt"


@pytest.fixture(scope="module")
def fitted(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of lengths.jsonl, and of the best.ckpt and last.ckpt of a fit to it."""
    folder = tmp_path_factory.mktemp("fitted")
    write_jsonl(folder / "lengths.jsonl", rows_of(400))
    fit(encoder, folder)
    return folder


def test_the_checkpoint_tells_of_the_sum(fitted: Path) -> None:
    ranker = load_ranker(fitted / "best.ckpt")
    table = read_lengths(fitted / "lengths.jsonl")
    val = np.flatnonzero((split_prompts(table) == "val")[table.prompt])
    texts = [table.prompts[number] for number in table.prompt[val]]
    network, whole = ranker.network_scores(texts), ranker.score(texts)
    assert_allclose(whole, network + ranker.half_scores(texts), rtol=1e-6)
    length, censored = table.length[val], table.censored[val]
    assert ranker.metrics["tau"] == pytest.approx(kendall_tau(whole, length, censored))
    told = ranker.training_summary["ngram_half"]
    assert told["tau_without"] == pytest.approx(kendall_tau(network, length, censored), abs=1e-6)
    # The lengths of these prompts hang on their words, and one epoch teaches the network little.
    assert ranker.metrics["tau"] > told["tau_without"] + 0.1
    half = ranker.half_scores(texts)
    assert kendall_tau(half, length, censored) > 0.3
    assert half.std() / network.std() == pytest.approx(
        told["share"] / (1 - told["share"]), rel=0.02
    )
    assert ranker.calibration == fit_calibration(whole, length, censored)


def test_it_is_fitted_to_the_training_prompts(fitted: Path) -> None:
    ranker = load_ranker(fitted / "best.ckpt")
    table = read_lengths(fitted / "lengths.jsonl")
    train, tokenizer = split_prompts(table) == "train", ranker.text_tokenizer()
    half = fit_half(table, train, tokenizer, find_prior(DEFAULT)).arrays()
    assert ranker.ngrams is not None
    assert_array_equal(ranker.ngrams["ngram_pair_idf"], half["ngram_pair_idf"])
    found, alone = (
        np.array([*each["ngram_surface"].tolist(), *each["ngram_bias"].tolist()])
        for each in (ranker.ngrams, half)
    )
    assert_allclose(found / found[-1], alone / alone[-1], rtol=1e-3)


def test_what_is_served_is_the_sum(fitted: Path, tmp_path: Path) -> None:
    ranker = load_ranker(fitted / "best.ckpt")
    manifest = export_checkpoint(fitted / "best.ckpt", tmp_path / "predictor", ["one text"])
    assert manifest.ngrams == HALF
    predictor = Predictor.load(tmp_path / "predictor")
    texts = [*read_lengths(fitted / "lengths.jsonl").prompts[:20], "", "\ud800", "word " * 5000]
    assert_allclose(predictor.score(texts), ranker.score(texts), atol=2e-4)
    assert np.abs(ranker.half_scores(texts)).max() > 0.01
    assert manifest.metrics["tau"] == ranker.metrics["tau"]
    tokens = predictor.expected_tokens(texts)
    assert np.isfinite(tokens).all()


def test_every_command_of_the_checkpoint_has_it(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(CONFIG), "--data.path", str(fitted / "lengths.jsonl")]
    arguments += ["--ckpt_path", str(fitted / "best.ckpt"), "--trainer.accelerator", "cpu"]
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--model.max_length", "32"]
    ranker = load_ranker(fitted / "best.ckpt")
    arguments += ["--model.encoder", str(ranker.hparams["encoder"])]
    assert main(["validate", *arguments]) == 0
    printed = re.search(r"val/tau\W+(\d\.\d+)", capsys.readouterr().out)
    assert printed
    assert float(printed[1]) == pytest.approx(ranker.metrics["tau"], abs=1e-4)
    assert main(["predict", *arguments]) == 0
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    wanted = ranker.score([each["prompt"] for each in found])
    assert_allclose([each["score"] for each in found], wanted, atol=1e-4)


def test_a_fit_that_is_over_is_left_as_it_is(encoder: Path, fitted: Path, tmp_path: Path) -> None:
    for name in ("lengths.jsonl", "best.ckpt", "last.ckpt"):
        shutil.copy(fitted / name, tmp_path)
    before = (tmp_path / "best.ckpt").read_bytes()
    fit(encoder, tmp_path, "--ckpt_path", str(tmp_path / "last.ckpt"))
    assert (tmp_path / "best.ckpt").read_bytes() == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left")])
def test_a_half_that_was_not_written_is_made_up_for(
    encoder: Path,
    fitted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: type[BaseException] | BaseException,
) -> None:
    def stopped(path: Path, content: bytes) -> None:
        assert path.name.startswith(("unfinished.ckpt", ".unfinished.ckpt"))
        raise stop

    shutil.copy(fitted / "lengths.jsonl", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", stopped)
        with pytest.raises(AssertionError):
            fit(encoder, tmp_path)
    assert not (tmp_path / "best.ckpt").exists()
    assert load_ranker(tmp_path / "unfinished.ckpt").ngrams is None
    if isinstance(stop, OSError):
        assert "unfinished.ckpt cannot be written again (No space left)" in capsys.readouterr().err
    after = load_ranker(fit(encoder, tmp_path, "--ckpt_path", str(tmp_path / "last.ckpt")))
    before = load_ranker(fitted / "best.ckpt")
    assert before.ngrams is not None
    assert after.ngrams is not None
    for name, each in before.ngrams.items():
        assert_array_equal(each, after.ngrams[name])
    assert after.training_summary["ngram_half"] == before.training_summary["ngram_half"]
    assert after.calibration == before.calibration


def test_a_training_goes_on_without_it(fitted: Path) -> None:
    assert load_ranker(fitted / "last.ckpt").ngrams is None


def test_a_fit_without_a_data_module_is_refused(encoder: Path, tmp_path: Path) -> None:
    ranker = ResponseLengthRanker(str(encoder), max_length=32, ngram_half=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[KeepBest()],
        max_epochs=1,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        logger=False,
    )
    with pytest.raises(ConfigError, match=r"model\.ngram_half is true, but the fit has no data"):
        trainer.fit(ranker, DataLoader([0]), DataLoader([0]))


def test_it_stands_beside_facts(encoder: Path, tmp_path: Path) -> None:
    rows = rows_of(300)
    for row in rows:
        row["prompt_tokens"] = len(str(row["prompt"]).split())
    write_jsonl(tmp_path / "lengths.jsonl", rows)
    ranker = load_ranker(fit(encoder, tmp_path, "--model.facts", "[prompt_tokens]"))
    assert ranker.fact_spec
    table = read_lengths(tmp_path / "lengths.jsonl")
    val = np.flatnonzero((split_prompts(table) == "val")[table.prompt])
    texts = [table.prompts[number] for number in table.prompt[val]]
    beside = ranker.fact_spec.vectors(table.facts, len(table))[val]
    scores = ranker.network_scores(texts, beside) + ranker.half_scores(texts)
    tau = kendall_tau(scores, table.length[val], table.censored[val])
    assert ranker.metrics["tau"] == pytest.approx(tau)


@pytest.mark.parametrize(
    ("prompts", "more", "split", "told"),
    [
        (300, "false", None, ""),
        (LEAST, "true", None, f"No n-gram half: it takes {LEAST} training prompts or more."),
        (300, "true", lambda number: "train" if number else "val", "no validation prompts"),
    ],
)
def test_it_is_left_out(
    encoder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    prompts: int,
    more: str,
    split: Callable[[int], str] | None,
    told: str,
) -> None:
    rows = rows_of(prompts)
    if split is not None:
        rows = [{**row, "split": split(number)} for number, row in enumerate(rows)]
    write_jsonl(tmp_path / "lengths.jsonl", rows)
    more_arguments = ("--model.ngram_half", more, "--model.prior", "none")
    ranker = load_ranker(fit(encoder, tmp_path, *more_arguments))
    assert ranker.ngrams is None
    assert "ngram_half" not in ranker.training_summary
    assert np.isfinite(ranker.metrics["tau"])
    assert told in caplog.text
    assert bool(told) == ("n-gram half" in caplog.text)
    texts = ["write a story", "one word"]
    assert_array_equal(ranker.score(texts), ranker.network_scores(texts))
    manifest = export_checkpoint(tmp_path / "best.ckpt", tmp_path / "predictor", texts)
    assert manifest.ngrams is None


def test_it_is_left_out_where_its_share_is_small(
    encoder: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(fitted / "lengths.jsonl", tmp_path)
    monkeypatch.setattr(ngram_half, "FEWEST", 1.0)
    assert load_ranker(fit(encoder, tmp_path)).ngrams is None


def test_several_llms_count_a_prompt_once(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(200)
    more = [
        {**row, "model": name, "response_tokens": factor * int(row["response_tokens"])}
        for row in rows
        for name, factor in (("second", 9), ("third", 90))
    ]
    write_jsonl(tmp_path / "lengths.jsonl", [*rows, *more])
    seen: list[int] = []
    asked: list[int] = []

    def spy(*args: Any) -> float:
        seen.extend((len(args[2]), args[4]))
        return share_of(*args)

    encode = ResponseLengthRanker.network_scores

    def scores(self: ResponseLengthRanker, texts: Sequence[str], *rest: Any) -> Any:
        asked.append(len(texts))
        return encode(self, texts, *rest)

    monkeypatch.setattr(ngram_half, "share_of", spy)
    monkeypatch.setattr(ResponseLengthRanker, "network_scores", scores)
    ranker = load_ranker(fit(encoder, tmp_path))
    items, prompts = seen
    assert items == 3 * prompts
    assert asked == [prompts, prompts], "once for the half, once to tell that they are few"
    told = ranker.training_summary["ngram_half"]
    assert ranker.metrics["tau"] > told["tau_without"]


def test_it_learns_from_the_training_prompts_alone(fitted: Path) -> None:
    table = read_lengths(fitted / "lengths.jsonl")
    tokenizer = load_ranker(fitted / "best.ckpt").text_tokenizer()
    train = split_prompts(table) == "train"
    fitted_half = fit_half(table, train, tokenizer)
    arrays = fitted_half.arrays()
    other = read_lengths(fitted / "lengths.jsonl")
    other.length[~train[other.prompt]] = 1.0
    again = fit_half(other, train, tokenizer)
    assert again.penalty == fitted_half.penalty
    for name, each in again.arrays().items():
        assert_array_equal(each, arrays[name])
    other.length[train[other.prompt]] = np.roll(other.length[train[other.prompt]], 1)
    changed = fit_half(other, train, tokenizer).arrays()
    assert any((each != changed[name]).any() for name, each in arrays.items())


def test_the_penalty_is_judged_on_prompts_that_were_not_learned_from(fitted: Path) -> None:
    table = read_lengths(fitted / "lengths.jsonl")
    tokenizer = load_ranker(fitted / "best.ckpt").text_tokenizer()
    train = split_prompts(table) == "train"
    chosen = set()
    for seed in range(5):
        # Each prompt has a number of its own: by heart, the weakest penalty is always the best.
        table.length[:] = np.random.default_rng(seed).permutation(len(table.length)) + 1.0
        chosen.add(fit_half(table, train, tokenizer).penalty)
    assert chosen != {PENALTIES[0]}
    table.length[:] = 1.0  # no order that a part could tell
    assert fit_half(table, train, tokenizer).penalty == PENALTIES[-1]


@pytest.mark.parametrize("best", PENALTIES)
def test_the_penalty_is_the_best_of_those_parts_that_can_tell(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, best: float
) -> None:
    table = read_lengths(fitted / "lengths.jsonl")
    tokenizer = load_ranker(fitted / "best.ckpt").text_tokenizer()
    # In the order in which they are tried; of each, two parts cannot tell.
    taus = [
        tau
        for penalty in reversed(PENALTIES)
        for tau in (float("nan"), 0.1, -abs(penalty - best) / 9, float("nan"), 0.2)
    ]
    monkeypatch.setattr(folds, "kendall_tau", lambda *_: taus.pop(0))
    assert fit_half(table, split_prompts(table) == "train", tokenizer).penalty == best


def test_arrays_of_a_factor_score_as_many_times_as_much(fitted: Path) -> None:
    table = read_lengths(fitted / "lengths.jsonl")
    tokenizer = load_ranker(fitted / "best.ckpt").text_tokenizer()
    half = fit_half(table, split_prompts(table) == "train", tokenizer)
    texts = table.prompts[:50]
    ids = tokenizer.encode(texts)
    once, many = (
        NgramHalf(half.arrays(factor), tokenizer).score(texts, ids) for factor in (1.0, 3.0)
    )
    assert_allclose(many, 3 * once, atol=1e-2)


def test_the_share_is_what_the_validation_prompts_say_the_more_of_them() -> None:
    rng = np.random.default_rng(0)

    def share(count: int, weight: float) -> float:
        network, ngrams = rng.normal(size=(2, count)).astype(np.float32)
        length = np.exp((1 - weight) * network + weight * ngrams).astype(np.float64)
        # Of a second LLM with longer answers: places are those among its own.
        group = np.arange(count) % 2
        length *= 1 + 50 * group
        return share_of(network * 7 + 3, ngrams, length, group, count)

    assert share(20_000, 0.5) == pytest.approx(0.5, abs=0.02)
    assert share(20_000, 0.1) == pytest.approx(0.1, abs=0.02)
    assert share(20_000, 0.0) == pytest.approx(0.0, abs=0.02)
    few = 30
    assert abs(share(few, 1.0) - SHARE) < few / (few + BELIEVED) * (1 - SHARE) + 1e-6
    assert share(20_000, 1.0) <= 0.9


def test_scores_without_order_get_the_usual_share() -> None:
    flat = np.zeros(50, dtype=np.float32)
    length = np.linspace(1.0, 50.0, 50)
    assert share_of(flat, flat, length, np.zeros(50, int), 50) == pytest.approx(SHARE)


def test_a_length_that_was_cut_off_counts_as_longer_ones(fitted: Path) -> None:
    table = read_lengths(fitted / "lengths.jsonl")
    tokenizer = load_ranker(fitted / "best.ckpt").text_tokenizer()
    train = split_prompts(table) == "train"
    stories = np.array(["story" in text for text in table.prompts])[table.prompt]
    assert 20 < stories.sum() < len(table) - 20
    short, long = np.unique(table.length)[[0, -1]]
    table.length[:] = np.where(stories, short, long)
    texts = ["write a story", "write a line"]

    def lead() -> float:
        half = NgramHalf(fit_half(table, train, tokenizer).arrays(), tokenizer)
        story, line = half.score(texts, tokenizer.encode(texts))
        return float(story - line)

    ended = lead()
    table.censored[stories] = True
    assert lead() > ended + 0.5


def test_few_prompts_start_from_the_prior(tmp_path: Path) -> None:
    """The prompts tell by themselves nothing of the words of those that are judged."""
    prior = find_prior(DEFAULT)
    assert prior is not None
    texts = ["Write a long story about " + word for word in ["rain", "snow", "ice", "wind", "fire"]]
    texts += ["Give one word for " + word for word in ["rain", "snow", "ice", "wind", "fire"]]
    texts += [f"Explain in detail how {word} works" for word in ["glass", "steel", "bread"]]
    texts += [f"Is {word} heavy? Answer yes or no." for word in ["glass", "steel", "bread"]]
    texts += [f"Write an essay on {word}" for word in ["cities", "rivers", "music", "poems"]]
    texts += [f"What is the capital of {word}?" for word in ["Peru", "Chad", "Laos", "Mali"]]
    order = prior.score(texts).argsort().argsort()
    rows = [
        {"prompt": text, "response_tokens": 10 + 5 * int(place), "model": "tiny"}
        for text, place in zip(texts, order, strict=True)
    ]
    lengths = tmp_path / "lengths.jsonl"
    write_jsonl(lengths, [{**row, "split": "train"} for row in rows])
    table = read_lengths(lengths)
    train = np.full(len(table.prompts), True)
    assert len(train) >= LEAST_WITH_PRIOR
    tokenizer = ResponseLengthRanker().text_tokenizer()
    judged = [
        text + " Thank you." for text in prior.texts[::40]
    ]  # of words that it was asked about
    wanted = prior.score(judged)

    def tau(chosen: Any) -> tuple[float, float]:
        fitted = fit_half(table, train, tokenizer, chosen)
        scores = NgramHalf(fitted.arrays(), tokenizer).score(judged, tokenizer.encode(judged))
        return kendall_tau(scores, wanted), fitted.carried

    assert tau(None)[1] == 0.0
    found, carried = tau(prior)
    assert found > tau(None)[0] + 0.2
    assert found > 0.4
    assert 0.2 < carried < 1.2
    table.length[:] = 200 - table.length
    assert tau(prior)[1] == 0.0  # contradicted, it is left out


def test_a_prior_is_for_small_tables_that_it_has_not_learned_from(
    fitted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = read_lengths(fitted / "lengths.jsonl")
    train = split_prompts(table) == "train"
    assert prior_for("none", table, train) is None
    assert prior_for(DEFAULT, table, np.full(MOST + 1, True)) is None
    prior = prior_for(DEFAULT, table, train)
    assert prior is not None
    assert not caplog.text
    demonstration = read_lengths(
        Path(__file__).parents[2] / "integration/pars_bench/demo/lengths.parquet"
    )
    hello = replace(table, prompts=("Hi", *table.prompts[1:30]))
    assert "Hi" in prior.texts
    assert prior_for(DEFAULT, hello, train[:30]) is not None
    assert not caplog.text
    assert prior_for(DEFAULT, demonstration, train) is None
    assert "2000 of the table's 2000 prompts are among the default" in caplog.text
    caplog.clear()
    assert prior_for(str(DEFAULT_PREDICTOR), table, np.full(MOST + 1, True)) is None
    assert f"is not used with more than {MOST} training prompts" in caplog.text
    named = prior_for(str(DEFAULT_PREDICTOR), demonstration, train)
    assert named is not None  # whoever names a folder knows what it has learned from
    assert named.said == prior.said
    assert "mmlu_pro" in str(named.said["sources"])


def test_the_checkpoint_says_what_it_started_from(
    encoder: Path, fitted: Path, tmp_path: Path
) -> None:
    told = load_ranker(fitted / "best.ckpt").training_summary["ngram_half"]["prior"]
    assert told["name"] == DEFAULT
    assert told["sha256"] == Predictor.default().sha256
    shutil.copy(fitted / "lengths.jsonl", tmp_path)
    without = load_ranker(fit(encoder, tmp_path, "--model.prior", "none"))
    assert without.training_summary["ngram_half"]["prior"] is None
    assert without.training_summary["model"]["prior"] == "none"
    named = load_ranker(fit(encoder, tmp_path, "--model.prior", str(DEFAULT_PREDICTOR)))
    assert named.training_summary["model"]["prior"] == DEFAULT_PREDICTOR.name
    assert str(encoder.parent) not in str(named.training_summary)


def test_a_prior_that_cannot_be_loaded_is_refused_before_anything_is_learned(
    encoder: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(fitted / "lengths.jsonl", tmp_path)
    with pytest.raises(AssertionError):
        fit(encoder, tmp_path, "--model.prior", str(tmp_path / "gone"))
    told = capsys.readouterr().err
    assert "model.prior is" in told
    assert "name a predictor folder, default, or none" in told
    assert not list(tmp_path.glob("*.ckpt"))
