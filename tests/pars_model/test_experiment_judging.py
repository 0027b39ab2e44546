from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from pars_model.experiments import filters, judging, matrix
from pars_model.experiments.cells import Cell
from pars_model.experiments.frozen import of_samples
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.judging import Judged, Standing, judge, mean_gain, prompt_sets
from pars_model.experiments.matrix_page import over_ridge, parts, short, verdict
from pars_model.experiments.workbench import Workbench
from pars_model.lengths import read_lengths
from pars_model.metrics import Estimate, kendall_tau

if TYPE_CHECKING:
    from pars_model.lengths import LengthTable
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
    found = mean_gain([Estimate(0.02, 0.0, 0.04), Estimate(-0.02, -0.04, 0.0)], [0, 1])
    assert found.value == pytest.approx(0.0)
    assert found.low == pytest.approx(-0.02 / np.sqrt(2))
    assert found.high == pytest.approx(0.02 / np.sqrt(2))


def test_gains_on_the_same_prompts_count_as_one_and_are_no_surer() -> None:
    gains = [Estimate(0.02, 0.01, 0.03), Estimate(0.04, 0.01, 0.07), Estimate(0.0, -0.02, 0.02)]
    alike = mean_gain(gains[:2], [0, 0])
    assert (alike.value, alike.low, alike.high) == pytest.approx((0.03, 0.01, 0.05))
    found = mean_gain(gains, [0, 0, 1])
    assert found.value == pytest.approx(0.015)
    assert found.high == pytest.approx(0.015 + 0.02 / np.sqrt(2))
    assert mean_gain([*gains, Estimate(0.0, None, None)], [0, 0, 1, 2]).low is None


def test_cells_with_prompts_in_common_are_one_set() -> None:
    chat, maths = [f"chat {n}" for n in range(50)], [f"maths {n}" for n in range(50)]
    cells = [chat[:40], maths, chat[20:], [*maths[:1], *(f"code {n}" for n in range(50))]]
    assert prompt_sets(cells) == [0, 1, 0, 3]


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
    monkeypatch.setattr(judging, "RESAMPLES", 20)
    setting = matrix.Setting(Cell("kinds", "tiny", "Kinds, tiny"))
    variants = {"margin": HeadSettings(), "rerun noise": HeadSettings(survive=0.75)}
    bench = Workbench("filter", root, tmp_path / "out", seeds=2)
    rates = (1e-3, 4e-3)
    found = matrix.compare(bench, setting, variants, "margin", rates)
    assert all(len(chosen) == 2 and {*chosen} <= {*rates} for chosen in found.rates.values())
    assert list(found.standings) == [*variants, *matrix.BASELINES]
    assert found.standings["margin"].tau.value > 0.5
    assert found.ceiling is not None
    text = "\n".join(parts([found], list(variants), "margin"))
    assert "prompt length" in text
    assert "one run against another" in text
    assert "- rerun noise: " in text
    assert "2 seeds, each with a split" in text

    def never(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(matrix, "fit_head", never)
    monkeypatch.setattr(matrix, "fit_ridge", never)
    again = matrix.compare(
        Workbench("filter", root, tmp_path / "out", seeds=2), setting, variants, "margin", rates
    )
    assert again.standings == found.standings


def compared(title: str, prompts: list[str], gains: dict[str, Estimate]) -> matrix.Comparison:
    """A comparison of which only the gains are looked at."""
    standings = {
        name: Standing(Estimate(0.5, 0.4, 0.6), (0.5, 0.5), gain) for name, gain in gains.items()
    }
    truth = SimpleNamespace(prompts=prompts)
    return matrix.Comparison(
        matrix.Setting(Cell("chat", "llm", title)),
        cast("LengthTable", truth),
        (len(prompts), 2),
        standings,
        {},
        None,
        cast("LengthTable", truth),
        [],
    )


def test_the_verdict_names_the_cells_where_the_reference_is_beaten() -> None:
    nothing = Estimate(0.0, 0.0, 0.0)
    gains = {"margin": nothing, "other": Estimate(0.01, 0.005, 0.015)}
    worse = {"margin": nothing, "other": Estimate(-0.01, -0.02, 0.0)}
    prompts = [f"chat {number}" for number in range(20)]
    cells = [
        compared("Chat", prompts, gains),
        compared("Chat again", prompts, worse),
        compared("Code", ["code"], worse),
    ]
    text = verdict(cells, ["margin", "other"], "margin")
    assert "over the 3 cells (2 sets of prompts; cells with prompts in common" in text
    assert "- other: -0.005 [-0.011, +0.001], no different within 95 %." in text
    assert "beaten by nothing in the mean, and in single cells by other in Chat (+0.010 [" in text
    assert "Were none of these 3 real, 0.1 would" in text
    assert "Nothing beats margin" in verdict(cells[1:], ["margin", "other"], "margin")
    line = short("Loss", cells, ["margin", "other"], "margin")
    assert line.startswith("Loss: tau less that of margin is -0.005 [-0.011, +0.001] (other), in")


def test_the_cells_where_a_method_is_little_over_the_ridge_are_counted() -> None:
    def cell(title: str, ridge: float) -> matrix.Comparison:
        found = compared(title, ["a prompt"], {"margin": Estimate(0.0, 0.0, 0.0)})
        over = Standing(Estimate(ridge, None, None), (), Estimate(0.0, None, None))
        tau = Standing(Estimate(0.5, None, None), (), Estimate(0.0, None, None))
        return replace(found, standings={"margin": tau, matrix.RIDGE: over})

    told = over_ridge([cell("Chat", 0.4), cell("Code", 0.51), cell("Maths", 0.48)], "margin")
    assert "is -0.010 (Code) to +0.100 (Chat), and under +0.03 in 2 of 3 cells." in told


def test_the_spread_of_an_llm_is_that_of_answers_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt_id": str(number), "model": "llm", "gen_config": config, "length": length}
        for number in range(30)
        for config in ("greedy", "sampled")
        for length in ((99, 99) if config == "greedy" else (99, 199))
    ]
    ended = [{**row, "finish": "stop"} for row in rows]
    cut = [{**row, "length": 5000, "finish": "unknown"} for row in rows]
    monkeypatch.setattr(filters, "read_dataset", lambda *_: ({}, [*ended, *cut]))
    greedy, sampled = filters.others_spreads(tmp_path)
    assert greedy == 0
    assert sampled == pytest.approx(np.log(2) / np.sqrt(2))
