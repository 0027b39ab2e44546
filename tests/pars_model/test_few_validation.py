"""A fit on few prompts says how little its validation tells; of equal epochs it keeps the later."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pars_model.__main__ import main
from pars_model.checkpoint import load_ranker
from pars_model.evaluate import FEW_PROMPTS
from pars_model.lengths import read_lengths, split_prompts
from pars_model.module import ResponseLengthRanker

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows, MakeTable

CONFIG = Path(__file__).parents[2] / "configs" / "default.yaml"

Fit = Callable[..., ResponseLengthRanker]
"""Table and options to the ranker that was fitted."""


@pytest.fixture
def fit(encoder: Path, tmp_path: Path) -> Fit:
    def run(table: Path, *more: object) -> ResponseLengthRanker:
        root = tmp_path / "run"
        arguments: list[object] = ["fit", "--config", CONFIG, "--data.path", table]
        arguments += ["--model.encoder", encoder, "--model.max_length", 32]
        arguments += ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu"]
        arguments += ["--trainer.max_epochs", 2, "--data.least_batches", 4, *more]
        assert main([str(each) for each in arguments]) == 0
        return load_ranker(root / "best.ckpt")

    return run


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each for each in caplog.messages if "validation prompts chose" in each]


@pytest.mark.parametrize("half", ["true", "false"])
def test_few_validation_prompts_are_told_with_tau_and_interval(
    fit: Fit,
    make_rows: MakeRows,
    make_table: MakeTable,
    caplog: pytest.LogCaptureFixture,
    half: str,
) -> None:
    table = make_table(make_rows(150))
    ranker = fit(table, "--model.ngram_half", half)
    assert (ranker.ngrams is not None) == (half == "true")
    prompts = int((split_prompts(read_lengths(table)) == "val").sum())
    assert 3 < prompts < FEW_PROMPTS
    (line,) = told(caplog)
    assert line.startswith(f"{table}: only {prompts} validation prompts chose the weights")
    assert line.endswith("; collect more prompts or raise data.val_fraction.")
    found = re.search(r"their tau is (\S+), its 95 % interval \[(\S+), (\S+)\], which is", line)
    assert found, line
    tau, low, high = map(float, found.groups())
    assert low < tau < high
    assert tau == pytest.approx(ranker.metrics["tau"], abs=0.0051), "that of the weights kept"


def test_where_they_chose_nothing_there_is_nothing_to_tell(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = fit(
        make_table(make_rows(150)), "--model.fine_tune", False, "--model.ngram_half", False
    )
    assert ranker.ngrams is None
    assert not told(caplog)


def test_few_prompts_that_judge_out_of_fold_are_told(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    table = make_table(make_rows(25))
    closed = ("--model.fine_tune", False, "--model.ngram_half", False, "--data.val_fraction", 0)
    ranker = fit(table, *closed)
    prompts = ranker.training_summary["data"]["prompts"]["train"]
    (line,) = [each for each in caplog.messages if "judged it" in each]
    assert line == (
        f"{table}: only {prompts} prompts taught the ranker and, each by fits to the others, "
        f"judged it, fewer than {FEW_PROMPTS}: its tau of {ranker.metrics['tau']:.2f} may be far "
        "off; collect more prompts."
    )
    assert not any("validating on the training prompts" in each for each in caplog.messages)


def test_validation_prompts_of_one_length_are_told_where_all_judge_out_of_fold(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_rows(60)
    for number, row in enumerate(rows):
        row["split"] = "val" if number < 10 else "train"
        row["response_tokens"] = 7 if number < 10 else row["response_tokens"]
    ranker = fit(make_table(rows), "--model.fine_tune", False, "--model.ngram_half", False)
    assert ranker.training_summary["validated"] == "out of fold"
    assert any("neither teach nor validate" in each for each in caplog.messages)


def test_enough_validation_prompts_are_not_mentioned(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    fit(make_table(make_rows(60)), "--trainer.max_epochs", 1, "--data.val_fraction", 0.7)
    assert not told(caplog)


def test_an_interval_without_width_is_none(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "split": "train"} for row in make_rows(40)]
    rows += [{"prompt": text, "response_tokens": tokens, "model": "tiny", "split": "val"}
             for text, tokens in (("write a story", 400), ("one word", 3))]  # fmt: skip
    fit(make_table(rows))
    (line,) = told(caplog)
    assert "only 2 validation prompts" in line
    assert re.search(r"tau is -?1\.00, and they are too few for an interval; ", line)
    assert line.endswith("or mark more rows with split val.")


def test_of_equal_epochs_the_later_is_kept(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable
) -> None:
    unmoved = ("--model.lr", 1e-30, "--model.head_lr", 1e-30, "--trainer.max_epochs", 3)
    ranker = fit(make_table(make_rows(40)), *unmoved)
    assert np.isfinite(ranker.metrics["tau"])
    assert ranker.training_summary["epochs"] == 3
