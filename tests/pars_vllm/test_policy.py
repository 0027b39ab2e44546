from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pars_vllm.policy import Policy, RunningMedian, UrgentCredit

TOKENS = st.integers(0, 100_000)
LENGTHS = st.floats(0, 1e5)


def test_work_by_hand() -> None:
    policy = Policy(prefill_weight=0.1)
    assert policy.work(100, 30.0, max_tokens=500) == pytest.approx(40.0)
    assert policy.work(100, 30.0, max_tokens=20) == pytest.approx(30.0)
    # 25 of 30 are there: 5 remain; beyond the expectation one more is always expected.
    assert policy.work(0, 30.0, max_tokens=500, done=25) == pytest.approx(5.0)
    assert policy.work(0, 30.0, max_tokens=500, done=80) == pytest.approx(1.0)


@given(TOKENS, LENGTHS, LENGTHS, st.integers(1, 10_000), st.integers(0, 10_000))
def test_work_grows_with_what_is_expected(
    uncached: int, length: float, longer: float, cap: int, done: int
) -> None:
    policy = Policy()
    low, high = sorted((length, longer))
    assert 0 <= policy.work(uncached, low, cap, done) <= policy.work(uncached, high, cap, done)
    assert policy.work(uncached, low, cap, done) <= policy.work(uncached + 1, low, cap, done)
    assert policy.work(uncached, low, cap, done) <= policy.work(uncached, low, cap + 1, done)


def test_priority_counts_only_where_trusted() -> None:
    assert Policy(trust_priority=True).priority_class(-7) == -7
    assert Policy(trust_priority=False).priority_class(-7) == 0


@given(st.lists(st.floats(0, 1e6), max_size=60), st.integers(1, 20))
def test_median_of_the_window(values: list[float], window: int) -> None:
    median = RunningMedian(window)
    assert median.value is None
    for index, value in enumerate(values):
        median.add(value)
        recent = values[max(0, index + 1 - window) : index + 1]
        assert median.value == statistics.median_low(recent)


@given(
    st.floats(0, 1),
    st.lists(st.booleans(), max_size=300),
)
def test_credit_keeps_its_share_and_its_promise(share: float, waits: list[bool]) -> None:
    """``waits``: whether an urgent request waits at each admission; urgent goes when ready."""
    credit = UrgentCredit(share)
    share = round(share * 1e6) / 1e6
    taken_at = []
    run = taken_in_run = 0
    for index, urgent_waits in enumerate(waits):
        goes = urgent_waits and credit.ready
        credit.admitted(goes, urgent_waits)
        taken_at += [index] if goes else []
        if urgent_waits:
            run += 1
            taken_in_run += goes
            assert taken_in_run >= int(run * share + 1e-9)
        else:
            run = taken_in_run = 0
    for first in range(len(taken_at)):
        for last in range(first, len(taken_at)):
            admissions = taken_at[last] - taken_at[first] + 1
            assert last - first + 1 <= admissions * share + 1 + 1e-9
