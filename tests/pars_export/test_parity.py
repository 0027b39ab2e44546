"""A scorer against scores that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pars_export import PredictorError
from pars_export.parity import STUDENT, Parity, compare_scores, evenly

Scores = NDArray[np.float32]
TEXTS = ["x" * number for number in range(1, 101)]
ODD = ["", "x" * 5000]


def _true(texts: Sequence[str]) -> Scores:
    return np.array([len(text) for text in texts], dtype=np.float32)


class _Scorer:
    survives_fork = True

    def __init__(self, score: Callable[[Sequence[str]], Scores]) -> None:
        self.score = score


def _compared(score: Callable[[Sequence[str]], Scores]) -> Parity:
    return compare_scores(_true([*TEXTS, *ODD]), _Scorer(score), TEXTS, STUDENT, ODD)


def test_the_unit_is_of_the_prompts_and_not_of_odd_texts() -> None:
    found = _compared(_true)
    found.check("student")
    assert (found.prompts, found.odd, found.tau, found.tau_bound) == (100, 2, 1.0, 0.99)
    assert (found.max_abs_diff, found.batch_diff) == (0.0, 0.0)
    deviation = np.arange(1, 101).std()
    assert found.bound == pytest.approx(0.1 * deviation)
    # Float tolerance at the largest score is more than a thousandth of the deviation here.
    assert found.batch_bound == pytest.approx(5000 * 1e-5)


def _off_on_odd_texts(texts: Sequence[str]) -> Scores:
    scores = _true(texts)
    scores[np.isin(texts, ODD)] += 3
    return scores


def _next_to_each_other(texts: Sequence[str]) -> Scores:
    """Within the bound of a difference, and pairs of neighbours the wrong way round."""
    scores = _true(texts)
    scores[scores % 2 == 0] -= 1.1
    scores[scores % 2 == 1] += 1.1
    return scores


def _by_batch(texts: Sequence[str]) -> Scores:
    scores = _true(texts)
    if len(texts) == 1:
        scores += 0.1
    return scores


def _nan_on_odd_texts(texts: Sequence[str]) -> Scores:
    scores = _true(texts)
    scores[np.isin(texts, ODD)] = np.nan
    return scores


@pytest.mark.parametrize(
    ("score", "sentence"),
    [
        (_off_on_odd_texts, "scores differ from the reference by up to 3 on 100 prompts"),
        (_next_to_each_other, r"orders 100 prompts otherwise than the reference \(tau 0\.9798"),
        (_by_batch, r"depend on what else is in the batch, by up to 0\.1 where 0\.05"),
        (_nan_on_odd_texts, "scores differ from the reference by up to inf"),
    ],
)
def test_each_promise_is_checked(score: Callable[[Sequence[str]], Scores], sentence: str) -> None:
    with pytest.raises(PredictorError, match=f"The student engine.* {sentence}"):
        _compared(score).check("student")


def test_scores_that_are_no_numbers_are_nothing_to_compare_with() -> None:
    wanted = np.full(len(TEXTS), np.nan, dtype=np.float32)
    with pytest.raises(PredictorError, match="The ranker itself scores NaN"):
        compare_scores(wanted, _Scorer(_true), TEXTS, STUDENT)


def test_rows_are_taken_evenly_and_all_where_they_are_few() -> None:
    assert evenly(5, 9) == evenly(5, 5) == [0, 1, 2, 3, 4]
    assert evenly(10, 4) == [0, 3, 6, 9]
    assert evenly(2001, 2000)[-1] == 2000
    assert len(set(evenly(2001, 2000))) == 2000
