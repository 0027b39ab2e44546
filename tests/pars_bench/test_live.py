"""What a measured pattern says by itself."""

from __future__ import annotations

import pytest

from pars_bench.client import Answer
from pars_bench.live import PatternRun


def pattern(*ends: float, start: float = 0.0) -> PatternRun:
    answers = [
        Answer(i, f"p{i}", "made up", start, 0.0, 0.1, end, 2, 2, "stop", "0")
        for i, end in enumerate(ends)
    ]
    return PatternRun(answers, 0.0, 0, (0.0, 0.0))


def test_capacity_leaves_the_tail_with_idle_slots_out() -> None:
    # Two slots: until 3 both are taken, then the last two run alone, one of them for long.
    run = pattern(2.0, 1.0, 3.0, 4.0, 100.0)
    assert run.capacity(2) == pytest.approx(3 / 3.0)
    assert pattern(2.0, 1.0, 3.0, 4.0, 1000.0).capacity(2) == run.capacity(2)


def test_capacity_counts_from_the_first_arrival() -> None:
    assert pattern(2.0, 1.0, 3.0, start=7.0).capacity(1) == pytest.approx(2 / 2.0)


@pytest.mark.parametrize("slots", [3, 4])
def test_without_a_queue_the_whole_run_counts(slots: int) -> None:
    assert pattern(2.0, 1.0, 6.0).capacity(slots) == pytest.approx(3 / 6.0)
