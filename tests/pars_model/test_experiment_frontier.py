"""The frontier: shallow encoders, what is said of students, and the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from pars_export import Predictor
from pars_model.encoder import find_encoder, pretrained_weights
from pars_model.experiments import frontier, frontier_page
from pars_model.experiments.cells import Cell, write_table
from pars_model.experiments.frontier_page import BURST, TEACHER, Place
from pars_model.experiments.linear_folder import write_linear
from pars_model.experiments.matrix import RIDGE
from pars_model.lengths import read_lengths, split_prompts
from pars_model.metrics import Estimate, kendall_tau

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeDataRoot, MakeRows


def test_the_first_layers_of_an_encoder_are_an_encoder(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find_encoder(str(encoder))
    monkeypatch.setattr("pars_model.encoder.find_encoder", lambda _: whole)
    frontier.shallow(tmp_path / "one", 1)
    monkeypatch.undo()
    files = find_encoder(str(tmp_path / "one"))
    assert files.config["num_hidden_layers"] == 1
    assert json.loads(files.tokenizer_json) == json.loads(whole.tokenizer_json)
    wanted, found = pretrained_weights(whole), pretrained_weights(files)
    assert {n for n in wanted if "layer.1." not in n} == found.keys()
    assert any("layer.0." in name for name in found)
    assert all(bool((found[name] == wanted[name]).all()) for name in found)


def places() -> list[Place]:
    tau = {"MiniLM, 6 layers": 0.60, RIDGE: 0.55, "student, 64 channels": 0.59}
    tau["student, 128 channels"] = 0.56
    cost = {"MiniLM, 6 layers": 900.0, RIDGE: 40.0, "student, 64 channels": 90.0}
    return [
        Place(name, Estimate(value, value - 0.02, value + 0.02), cost.get(name, 120.0), 50.0, 1.0)
        for name, value in tau.items()
    ]


def test_it_is_said_what_students_reached_and_what_they_missed() -> None:
    leads = {
        "student, 64 channels": {
            TEACHER: Estimate(-0.010, -0.02, 0.0),
            RIDGE: Estimate(0.040, 0.01, 0.07),
        },
        "student, 128 channels": {
            TEACHER: Estimate(-0.040, -0.05, -0.03),
            RIDGE: Estimate(0.010, 0.0, 0.02),
        },
    }
    text = frontier_page.goals(places(), leads, least=77.4)
    assert "of its teacher (MiniLM, 6 layers)" in text
    assert (
        "- student, 64 channels: -0.0100 [-0.020, +0.000] to its teacher (reached), "
        "+0.0400 [+0.010, +0.070] to the ridge (reached), 90 us at worst (reached)." in text
    )
    assert (
        "- student, 128 channels: -0.0400 [-0.050, -0.030] to its teacher (missed), "
        "+0.0100 [+0.000, +0.020] to the ridge (missed), 120 us at worst (missed)." in text
    )
    assert "a student still takes 77 us alone" in text


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    frontier_page.picture(places())(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_a_linear_student_of_a_table_is_a_predictor_folder(
    tmp_path: Path, make_rows: MakeRows, make_data_root: MakeDataRoot
) -> None:
    cell = Cell("kinds", "tiny", "Kinds, tiny")
    path = write_table(cell, make_data_root(tmp_path / "data", make_rows(300)), tmp_path)
    lengths = read_lengths(path)
    predictor = Predictor.load(write_linear(tmp_path / "linear", lengths))
    test = np.flatnonzero((split_prompts(lengths) == "test")[lengths.prompt])
    scores = predictor.score([lengths.prompts[number] for number in lengths.prompt[test]])
    assert predictor.runtime == "student"
    assert kendall_tau(scores, lengths.length[test]) > 0.6


class Counting:
    """Counts the texts of each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def score(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        self.calls.append(len(texts))
        return np.zeros(len(texts), dtype=np.float32)


def test_texts_go_one_by_one_and_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pars_bench.predictor.speed.BURST_S", 0.0)
    monkeypatch.setattr("pars_bench.predictor.speed.WARMED_S", 0.0)
    monkeypatch.setattr(frontier, "ROUNDS", 1)
    scorers = {"a": Counting(), "b": Counting()}
    found = frontier.microseconds(scorers, [f"text {n}" for n in range(100)])
    assert found.keys() == {"a", "b"}
    assert all(us > 0 for pair in found.values() for us in pair)
    assert set(scorers["a"].calls) == {1, BURST}
    assert scorers["a"].calls.count(1) == 2 * frontier.ALONE  # to warm up, and what counts
