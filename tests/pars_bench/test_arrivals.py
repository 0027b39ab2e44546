from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pars_bench.arrivals import burst, poisson, submission_order


def test_a_burst_arrives_at_once() -> None:
    assert burst(4).tolist() == [0, 0, 0, 0]


@given(st.integers(1, 200), st.floats(0.01, 100), st.integers(0, 2**31))
def test_poisson_times_ascend_from_zero_and_depend_on_the_seed_alone(
    requests: int, rate: float, seed: int
) -> None:
    times = poisson(requests, rate, seed)
    assert times.shape == (requests,)
    assert times[0] == 0
    assert np.all(np.diff(times) >= 0)
    assert np.array_equal(times, poisson(requests, rate, seed))


def test_poisson_gaps_are_exponential_with_the_rate() -> None:
    from scipy.stats import kstest

    gaps = np.diff(poisson(5000, rate=4.0, seed=7))
    assert kstest(gaps, "expon", args=(0, 0.25)).pvalue > 0.01
    assert not np.array_equal(poisson(50, 4.0, 7), poisson(50, 4.0, 8))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_poisson_refuses_a_rate_that_is_none(rate: float) -> None:
    with pytest.raises(ValueError, match="positive number"):
        poisson(3, rate, 0)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 2**31))
def test_submission_order_draws_without_replacement(prompts: int, requests: int, seed: int) -> None:
    order = submission_order(prompts, requests, seed)
    assert order.size == min(prompts, requests)
    assert len(set(order.tolist())) == order.size
    assert set(order.tolist()) <= set(range(prompts))
    assert np.array_equal(order, submission_order(prompts, requests, seed))
