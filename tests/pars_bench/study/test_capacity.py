"""The rate that loads are told in, against bursts worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pars_bench.study.capacity import Burst, capacity


def burst(*rows: tuple[float, float, float, int]) -> Burst:
    admitted, first, last, tokens = np.asarray(rows, dtype=np.float64).T
    return Burst(admitted, first, last, tokens)


def test_counts_the_tokens_that_are_there_when_the_last_one_starts() -> None:
    # One slot, a token a second: 3 + 5 tokens until the third request starts at 8 s; mean 4.
    found = capacity(burst((0, 1, 3, 3), (3, 4, 8, 5), (8, 9, 12, 4)))
    assert found == pytest.approx(8 / 8 / 4)


def test_a_long_response_beside_the_queue_counts_as_far_as_it_is() -> None:
    # Two slots; the long one has 5 of its 9 tokens when the last request starts at 5 s.
    found = capacity(burst((0, 1, 9, 9), (0, 1, 5, 5), (5, 6, 6, 1)))
    assert found == pytest.approx((5 + 5) / 5 / 5)


def test_where_nobody_waits_it_is_the_whole_burst() -> None:
    assert capacity(burst((0, 1, 4, 4), (0, 1, 2, 2))) == pytest.approx(2 / 4)
