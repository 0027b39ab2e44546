from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pars_export import InputError
from pars_model.kept import Rows, in_steps


class Model:
    """Lengths of texts; stops after so many calls."""

    def __init__(self, calls: int = 100) -> None:
        self.asked: list[str] = []
        self.calls = calls

    def __call__(self, texts: Sequence[str]) -> Rows:
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        self.asked += texts
        return np.array([len(text) for text in texts], dtype=np.float32)


def test_answers_come_in_order_and_each_text_is_asked_for_once() -> None:
    model = Model()
    assert_array_equal(in_steps(model, ["ccc", "a", "ccc", "bb"], "test"), [3, 1, 3, 2])
    assert model.asked == ["a", "bb", "ccc"]


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pars_model.kept._STEP", 2)
    texts, kept = ["a", "bb", "ccc", "dddd", "eeeee"], tmp_path / "kept.npz"
    first, second = Model(calls=2), Model()
    with pytest.raises(KeyboardInterrupt):
        in_steps(first, texts, "test", kept)
    assert_array_equal(in_steps(second, texts, "test", kept), [1, 2, 3, 4, 5])
    assert [first.asked, second.asked] == [texts[:4], texts[4:]]


def test_rows_of_several_numbers(tmp_path: Path) -> None:
    def model(texts: Sequence[str]) -> Rows:
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    for _ in range(2):
        found = in_steps(model, ["bb", "a"], "test", tmp_path / "kept.npz")
        assert_array_equal(found, [[2, 1], [1, 1]])


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept.npz").write_text("no")
    with pytest.raises(InputError, match=r"kept\.npz: no answers that can be read"):
        in_steps(Model(), ["a"], "test", tmp_path / "kept.npz")
