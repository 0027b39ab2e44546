"""When a step looks for scores."""

from __future__ import annotations

from pars_vllm.pace import Pace


def looks(steps: int, lacking: int, waiting: int) -> list[int]:
    """Steps of the first ``steps`` in which a look is due."""
    pace = Pace()
    return [step for step in range(steps) if pace.due(lacking, waiting)]


def test_every_step_while_many_of_the_waiting_lack_their_score() -> None:
    assert looks(4, lacking=2000, waiting=2000) == [0, 1, 2, 3]
    assert looks(4, lacking=1, waiting=64) == [0, 1, 2, 3]


def test_every_step_without_a_queue() -> None:
    assert looks(4, lacking=0, waiting=0) == [0, 1, 2, 3]


def test_the_later_the_fewer_lack_theirs() -> None:
    assert looks(20, lacking=1, waiting=65) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert looks(20, lacking=2, waiting=1000) == [0, 8, 16]
    assert looks(20, lacking=1, waiting=640) == [0, 10]
    assert looks(25, lacking=1, waiting=100_000) == [0, 12, 24]
    assert looks(20, lacking=0, waiting=640) == [0, 10]


def test_many_new_ones_are_looked_after_at_once() -> None:
    pace = Pace()
    assert pace.due(0, 1000)
    assert not pace.due(0, 1000)
    assert pace.due(100, 1100)
