from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from pars_export.calibration import Calibration
from pars_export.errors import PredictorError

increasing = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True).map(sorted)


def test_knots_and_between_them() -> None:
    calibration = Calibration((0.0, 1.0, 3.0), (10.0, 20.0, 100.0))
    assert_allclose(calibration.tokens_of([0, 0.5, 1, 2, 3]), [10, 15, 20, 60, 100])
    assert calibration.tokens_of([0.0]).dtype == np.float32


def test_beyond_the_knots_it_goes_on_and_stops_at_one_token() -> None:
    calibration = Calibration((0.0, 1.0, 3.0), (10.0, 20.0, 100.0))
    assert_allclose(calibration.tokens_of([4.0, 6.0]), [130, 190])
    assert_allclose(calibration.tokens_of([-0.1, -100.0]), [7, 1], rtol=1e-6)
    assert np.isnan(calibration.tokens_of([np.nan])).all()


@given(increasing, increasing, st.lists(st.floats(-3000, 3000), min_size=2, max_size=20))
def test_never_decreasing_never_below_one(
    scores: list[int], tokens: list[int], asked: list[float]
) -> None:
    knots = min(len(scores), len(tokens))
    calibration = Calibration(
        tuple(map(float, scores[:knots])), tuple(1001.0 + token for token in tokens[:knots])
    )
    found = calibration.tokens_of(sorted(asked))
    assert (np.diff(found) >= 0).all()
    assert (found >= 1).all()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "must hold scores and tokens"),
        ({"scores": [0, 1]}, "must hold scores and tokens"),
        ({"scores": [0], "tokens": [1]}, "two or more"),
        ({"scores": [0, 1, 2], "tokens": [1, 2]}, "as many"),
        ({"scores": [0, 0], "tokens": [1, 2]}, "scores must increase"),
        ({"scores": [0, 1], "tokens": [2, 1]}, "tokens must increase"),
        ({"scores": [0, "1"], "tokens": [2, 1]}, "holds '1'"),
        ({"scores": [0, True], "tokens": [2, 1]}, "holds True"),
        ({"scores": "01", "tokens": [2, 1]}, "must be a list"),
        ({"scores": [0, float("inf")], "tokens": [1, 2]}, "not finite"),
    ],
)
def test_refusals(value: object, sentence: str) -> None:
    with pytest.raises(PredictorError, match=sentence):
        Calibration.from_json(value)


def test_round_trip() -> None:
    calibration = Calibration((0.0, 1.0), (10.0, 20.0))
    assert Calibration.from_json(calibration.to_json()) == calibration
