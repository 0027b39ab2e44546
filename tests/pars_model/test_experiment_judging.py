from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pars_model.experiments import judging, matrix
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import of_samples
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.judging import Judged, judge, mean_gain
from pars_model.experiments.matrix_page import parts
from pars_model.experiments.workbench import Workbench
from pars_model.lengths import read_lengths
from pars_model.metrics import Estimate, kendall_tau

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeDataRoot, MakeRows, MakeTable


def test_standings_are_means_over_seeds_and_gains_are_paired(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    truth = read_lengths(make_table(make_rows(80)))
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(3):
        prompts = rng.permutation(80)[:40]
        good = np.log(truth.length[prompts]) + rng.standard_normal(40)
        runs.append(Judged(prompts, {"good": good, "same": 2 * good + 1, "wrong": -good}))
    found = judge(truth, runs, "good")
    taus = [kendall_tau(run.scores["good"], truth.length[run.prompts]) for run in runs]
    assert found["good"].tau.value == pytest.approx(np.mean(taus))
    assert found["good"].seeds == pytest.approx(taus)
    assert found["good"].spread == pytest.approx(np.std(taus, ddof=1))
    # Paired: a method that always ranks alike gains nothing in every draw.
    assert found["same"].gain == Estimate(0.0, 0.0, 0.0)
    assert found["wrong"].gain.value == pytest.approx(-2 * np.mean(taus))
    assert found["wrong"].gain.high is not None
    assert found["wrong"].gain.high < 0


def test_the_mean_of_gains_is_surer_than_each() -> None:
    found = mean_gain([Estimate(0.02, 0.0, 0.04), Estimate(0.0, -0.02, 0.02)])
    assert found.value == pytest.approx(0.01)
    assert found.low == pytest.approx(0.01 - 0.02 / np.sqrt(2))
    assert found.high == pytest.approx(0.01 + 0.02 / np.sqrt(2))


def test_one_sample_of_each_prompt(make_table: MakeTable) -> None:
    rows = [
        {"prompt": name, "response_tokens": tokens, "finish_reason": reason}
        for name, samples in (("a", [(5, None), (9, "length")]), ("b", [(7, None)]))
        for tokens, reason in samples
    ]
    table = of_samples(read_lengths(make_table(rows)), 1)
    assert table.length.tolist() == [9, 7]
    assert table.censored.tolist() == [True, False]
    assert [table.samples_of(item)[0].tolist() for item in (0, 1)] == [[9], [7]]


def test_the_median_of_some_samples(make_table: MakeTable) -> None:
    rows = [
        {"prompt": name, "response_tokens": tokens}
        for name, samples in (("a", (1, 2, 4, 100)), ("b", (7, 9)))
        for tokens in samples
    ]
    table = read_lengths(make_table(rows))
    assert of_samples(table, 0, 2).length.tolist() == [1.5, 8]
    assert of_samples(table, 3, 3).length.tolist() == [2, 8], "after the last comes the first"
    assert of_samples(table, 0, 4).length.tolist() == table.length.tolist()


def test_a_comparison_has_baselines_ceilings_and_goes_on_where_it_stopped(
    tmp_path: Path,
    make_rows: MakeRows,
    make_data_root: MakeDataRoot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = make_rows(150)
    root = make_data_root(tmp_path / "data", [*rows, *rows])
    monkeypatch.setattr(matrix, "RATES", (1e-3,))
    monkeypatch.setattr(judging, "RESAMPLES", 20)
    setting = matrix.Setting(Cell("kinds", "tiny", "Kinds, tiny"))
    variants = {"margin": HeadSettings(), "rerun noise": HeadSettings(survive=0.75)}
    bench = Workbench("filter", root, tmp_path / "out", seeds=2)
    found = matrix.compare(bench, setting, variants, "margin")
    assert list(found.standings) == [*variants, *matrix.BASELINES]
    assert found.standings["margin"].tau.value > 0.5
    assert found.ceiling is not None
    text = "\n".join(parts([found], list(variants), "margin"))
    assert "prompt length" in text
    assert "one run against another" in text
    assert "- rerun noise: " in text

    def never(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(matrix, "fit_head", never)
    monkeypatch.setattr(matrix, "NgramRidge", never)
    again = matrix.compare(
        Workbench("filter", root, tmp_path / "out", seeds=2), setting, variants, "margin"
    )
    assert again.standings == found.standings
