from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pars_export.calibration import Calibration, KnownLengths
from pars_export.errors import InputError, PredictorError

increasing = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True).map(sorted)


def test_knots_and_between_them() -> None:
    calibration = Calibration((0.0, 1.0, 3.0), (10.0, 20.0, 100.0))
    assert_allclose(calibration.expected_tokens([0, 0.5, 1, 2, 3]), [10, 15, 20, 60, 100])
    assert calibration.expected_tokens([0.0]).dtype == np.float32


def test_beyond_the_knots_it_goes_on_and_stops_at_one_token() -> None:
    calibration = Calibration((0.0, 1.0, 3.0), (10.0, 20.0, 100.0))
    assert_allclose(calibration.expected_tokens([4.0, 6.0]), [130, 190])
    assert_allclose(calibration.expected_tokens([-0.1, -100.0]), [7, 1], rtol=1e-6)
    assert np.isnan(calibration.expected_tokens([np.nan])).all()


@given(increasing, increasing, st.lists(st.floats(-3000, 3000), min_size=2, max_size=20))
def test_never_decreasing_never_below_one(
    scores: list[int], tokens: list[int], asked: list[float]
) -> None:
    knots = min(len(scores), len(tokens))
    calibration = Calibration(
        tuple(map(float, scores[:knots])), tuple(1001.0 + token for token in tokens[:knots])
    )
    found = calibration.expected_tokens(sorted(asked))
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


LEVELS = (0.0, 0.5, 0.9)
WHOLE: dict[str, object] = {
    "scores": [0.0, 1.0],
    "tokens": [14.5, 29.0],
    "levels": list(LEVELS),
    "quantiles": [[0.0, 10.0, 30.0], [0.0, 20.0, 60.0]],
    "excess": [10.0, 20.0],
}


def test_round_trip() -> None:
    for calibration in (Calibration((0.0, 1.0), (10.0, 20.0)), Calibration.from_json(WHOLE)):
        assert Calibration.from_json(calibration.to_json()) == calibration


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"levels": [0.1, 0.5, 0.9]}, "levels must increase from 0"),
        ({"levels": [0.0, 0.5, 1.0]}, "levels must increase from 0"),
        ({"levels": [0.0]}, "levels must increase from 0"),
        ({"quantiles": [[0, 10, 30], [0, 20]]}, "must be 2 lists of 3"),
        ({"quantiles": [[0, 10, 30]]}, "must be 2 lists of 3"),
        ({"quantiles": 3}, "list of lists"),
        ({"quantiles": [[0, 10, 30], [0, 20, 29]]}, "fall neither with the score"),
        ({"quantiles": [[0, 40, 30], [0, 40, 60]]}, "fall neither with the score"),
        ({"excess": [0.0, 20.0]}, "excess must be positive"),
        ({"excess": [30.0, 20.0]}, "excess must be positive"),
        ({"tokens": [15.5, 29.0]}, "must be the mean of quantiles"),
        ({"more": []}, "and nothing else"),
        ({"scores": [-(10**400), 1.0]}, "scores holds a number beyond all floats"),
        ({"quantiles": [[0, 10, 10**400], [0, 20, 60]]}, "quantiles holds a number beyond all"),
        ({"scores": [-1e308, 1e308]}, "so near or so far apart"),
        ({"scores": [0.0, 5e-324]}, "so near or so far apart"),
        ({"scores": [-1e308, 0, 1e308], "tokens": [-1e308, 0, 1e308]}, "so near or so far apart"),
    ],
)
def test_refusals_of_a_spread(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(PredictorError, match=sentence):
        Calibration.from_json({**WHOLE, **change})


def test_what_cannot_be_asked_is_refused() -> None:
    calibration = Calibration.from_json(WHOLE)
    for level in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="expected 0 < level < 1"):
            calibration.quantile_tokens([0.0], level)
    with pytest.raises(InputError, match="done is -1"):
        calibration.remaining_tokens([0.0], -1)
    for done in (float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"done is {done}"):
            calibration.remaining_tokens([0.0, 1.0], [3.0, done])
    with pytest.raises(InputError, match=r"shape \(3,\) beside 2 prompts"):
        calibration.remaining_tokens([0.0, 1.0], [1, 2, 3])
    mean_only = Calibration((0.0, 1.0), (10.0, 20.0))
    with pytest.raises(PredictorError, match="a mean and no spread, as before format version"):
        mean_only.quantile_tokens([0.0], 0.5)
    with pytest.raises(PredictorError, match="a mean and no spread, as before format version"):
        mean_only.remaining_tokens([0.0], 3)


def drawn(calibration: Calibration, score: float) -> NDArray[np.float64]:
    """Lengths of the distribution, by its quantiles at even levels."""
    levels = (np.arange(800) + 0.5) / 800
    return np.array([calibration.quantile_tokens([score], p)[0] for p in levels], dtype=np.float64)


@pytest.mark.parametrize("score", [-3.0, 0.0, 0.4, 1.0, 2.5])
def test_all_answers_are_of_one_distribution(score: float) -> None:
    calibration = Calibration.from_json(WHOLE)
    lengths = drawn(calibration, score)
    expected = calibration.expected_tokens([score])[0]
    assert_allclose(expected, lengths.mean(), rtol=0.03, atol=0.1)  # at least 1 token each
    shares = calibration.levels_of(np.full(len(lengths), score), lengths)
    inside = lengths > 1
    assert_allclose(shares[inside], np.linspace(0, 1, len(lengths))[inside], atol=3e-3)
    for done in (0, 3, 12, 40, 90):
        longer = lengths[lengths > done]
        if expected > 1 and len(longer) > 20:
            wanted = (longer - done).mean()
            found = calibration.remaining_tokens([score], done)[0]
            assert_allclose(found, wanted, rtol=0.1, atol=0.3)


def test_nan_stays_nan_and_tokens_are_at_least_one() -> None:
    calibration = Calibration.from_json(WHOLE)
    scores = [np.nan, 0.5, -1e6]
    for found in (
        calibration.expected_tokens(scores),
        calibration.quantile_tokens(scores, 0.05),
        calibration.quantile_tokens(scores, 0.99),
        calibration.remaining_tokens(scores, [1, 2, 3]),
    ):
        assert found.dtype == np.float32
        assert np.isnan(found).tolist() == [True, False, False]
        assert (found[1:] >= 1).all()


def test_known_lengths_have_no_spread() -> None:
    known = KnownLengths()
    assert_allclose(known.quantile_tokens([0.0, 40.0, np.nan], 0.9), [1, 40, np.nan])
    assert_allclose(known.remaining_tokens([7.0, 40.0], 30), [1, 10])
