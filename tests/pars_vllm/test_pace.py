"""When a step looks for scores."""

from __future__ import annotations

from pars_vllm.pace import Pace


def looks(steps: int, outstanding: int, waiting: int) -> list[int]:
    """Steps of the first ``steps`` in which a look is due."""
    pace = Pace()
    return [step for step in range(steps) if pace.due(outstanding, waiting)]


def test_every_step_while_many_of_the_waiting_lack_their_score() -> None:
    assert looks(4, outstanding=2000, waiting=2000) == [0, 1, 2, 3]
    assert looks(4, outstanding=1, waiting=64) == [0, 1, 2, 3]


def test_every_step_without_a_queue() -> None:
    assert looks(4, outstanding=0, waiting=0) == [0, 1, 2, 3]


def test_once_in_a_while_where_the_order_stands() -> None:
    assert looks(20, outstanding=1, waiting=65) == [0, 8, 16]
    assert looks(20, outstanding=0, waiting=1) == [0, 8, 16]


def test_many_new_ones_are_looked_after_at_once() -> None:
    pace = Pace()
    assert pace.due(0, 1000)
    assert not pace.due(0, 1000)
    assert pace.due(100, 1100)
