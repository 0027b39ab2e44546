"""The waiting order, case by case, and its promises."""

from __future__ import annotations

import gc
import math
import random
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pars_vllm.order import WaitingOrder
from pars_vllm.policy import Policy


@dataclass(eq=False)
class Item:
    name: str
    running: bool = False


def make(**policy: Any) -> WaitingOrder[Item]:
    return WaitingOrder(Policy(**policy), lambda item: item.running)


def add(order: WaitingOrder[Item], name: str, work: float | None = None, **options: Any) -> Item:
    item = Item(name)
    order.add(name, item, **options)
    if work is not None:
        order.rescore(name, work)
    return item


def admit(order: WaitingOrder[Item]) -> str:
    item = order.pop()
    item.running = True
    return item.name


def drain(order: WaitingOrder[Item]) -> list[str]:
    return [admit(order) for _ in range(len(order))]


def test_least_work_first_and_unscored_at_the_median() -> None:
    order = make()
    for name, work in (("long", 90.0), ("new", None), ("mid", 50.0), ("short", 10.0)):
        add(order, name, work)
    order.begin(0)
    assert [item.name for item in order] == ["short", "new", "mid", "long"]
    assert drain(order) == ["short", "new", "mid", "long"]


def test_without_scores_it_is_arrival_order() -> None:
    order = make()
    names = [f"r{i}" for i in range(20)]
    for index, name in enumerate(names):
        add(order, name, float(index * 7 % 20))
    order.begin(0)
    assert drain(order) != names
    for index, name in enumerate(names):
        add(order, name, float(index * 7 % 20))
    order.drop_scores()
    order.begin(1_000_000)
    assert drain(order) == names


def test_set_aside_goes_back_to_its_own_place() -> None:
    order = make()
    for name, work in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        add(order, name, work)
    order.begin(0)
    assert order.pop().name == "a"  # blocked: set aside
    assert admit(order) == "b"
    assert order.restore("a")
    order.end()
    assert order.admissions == 1
    order.begin(1)
    assert drain(order) == ["a", "c"]


def test_preempted_first_latest_first_and_skipped_preempted_keeps_its_place() -> None:
    order = make()
    add(order, "new", 1.0)
    for name in ("p2", "p1"):  # vLLM preempts from the end of the running list
        order.resume(name, Item(name))
    order.begin(0)
    assert order.pop().name == "p1"
    order.restore("p1")
    assert drain(order) == ["p1", "p2", "new"]
    order.end()
    assert order.admissions == 1


def test_priority_classes_come_first_only_when_trusted() -> None:
    for trusted, expected in ((True, ["vip", "p", "a"]), (False, ["p", "a", "vip"])):
        order = make(trust_priority=trusted)
        add(order, "a", 1.0, priority=0)
        add(order, "vip", 99.0, priority=-1)
        order.resume("p", Item("p"), priority=0)
        order.begin(0)
        assert drain(order) == expected


def test_children_stay_together_though_others_have_the_same_work() -> None:
    order = make()
    for name, parent in (("0_a", "a"), ("0_b", "b"), ("1_a", "a"), ("1_b", "b"), ("2_a", "a")):
        add(order, name, 5.0, parent=parent)
    order.begin(0)
    assert drain(order) == ["0_a", "1_a", "2_a", "0_b", "1_b"]


def test_urgent_children_follow_each_other_out_of_turn() -> None:
    order = make(patience=1.0, share=0.25)
    for name in ("0_a", "1_a", "2_a"):
        add(order, name, 50.0, parent="a")
    order.begin(100)
    for index in range(9):
        add(order, f"s{index}", 1.0)
    order.begin(100)
    found = drain(order)
    first = found.index("0_a")
    assert found[first : first + 3] == ["0_a", "1_a", "2_a"]
    # Three out of turn are paid for: the fourth urgent request would wait its 4 * 4 admissions.
    assert order.admitted_urgent == 3


def test_urgent_takes_no_more_than_its_share() -> None:
    order = make(patience=1.0, share=0.2)
    for index in range(20):
        add(order, f"old{index}", 100.0 + index)
    order.begin(1000)
    for index in range(100):
        add(order, f"new{index}", 1.0)
    order.begin(1000)
    found = [admit(order) for _ in range(50)]
    assert sum(name.startswith("old") for name in found) == 10
    assert [name for name in found if name.startswith("old")] == [f"old{i}" for i in range(10)]


def test_siblings_do_not_run_up_a_debt_that_others_pay() -> None:
    order = make(patience=1.0, share=0.1)
    for index in range(16):
        add(order, f"{index}_many", 50.0, parent="many")
    order.begin(50)  # the siblings are urgent, and go out of turn together
    for index in range(12):
        add(order, f"early{index}", 1.0)
    assert drain(order)[9].endswith("_many")
    add(order, "late", 40.0)
    order.begin(89)
    for index in range(100):
        add(order, f"short{index}", 1.0)
    order.begin(90)
    assert "late" in [admit(order) for _ in range(10)]


def test_urgent_requests_served_in_turn_save_up_no_credit() -> None:
    order = make(patience=1.0, share=0.1)
    for index in range(400):
        add(order, f"old{index:03}", 10.0)
    order.begin(100)  # all are urgent; by equal work they go in arrival order anyway
    for _ in range(300):
        admit(order)
    for index in range(40):
        add(order, f"short{index}", 1.0)
    order.begin(100)
    out_of_turn = [name for name in (admit(order) for _ in range(40)) if name.startswith("old")]
    assert len(out_of_turn) <= 0.1 * 40 + 1


def test_blocked_urgent_request_does_not_use_up_the_turn_of_the_next_one() -> None:
    order = make(patience=1.0, share=0.5)
    for name in ("blocked", "waiting"):
        add(order, name, 100.0)
    order.begin(1000)
    for index in range(10):
        add(order, f"new{index}", 1.0)
    order.begin(1000)
    found = []
    for _ in range(3):
        order.begin(1001)
        while True:
            item = order.pop()
            if item.name != "blocked":
                break
        item.running = True
        found.append(item.name)
        order.restore("blocked")
        order.end()
    assert "waiting" in found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 1.0]))
def test_the_bound_in_admissions(seed: int, share: float) -> None:
    """With k urgent earlier arrivals waiting, among the next ceil((k + 1) / share) admissions."""
    draw = random.Random(seed)
    order = make(patience=2.0, share=share)
    arrival: dict[str, int] = {}
    since: dict[str, int] = {}  # urgent request -> admissions before it was urgent
    earlier: dict[str, set[str]] = {}  # -> urgent requests with an earlier arrival, seen waiting
    admissions = checked = 0
    for step in range(300):
        for _ in range(draw.choice((0, 0, 1, 3, 6))):
            name = f"r{len(arrival)}"
            arrival[name] = len(arrival)
            add(order, name, draw.choice((None, draw.lognormvariate(2, 1.5))))
        order.begin(step)
        urgent = {key for key, entry in order._entries.items() if entry.urgent}
        for name in urgent:
            since.setdefault(name, admissions)
            ahead = {other for other in urgent if arrival[other] < arrival[name]}
            earlier.setdefault(name, set()).update(ahead)
        for _ in range(draw.choice((0, 1, 2, 4))):
            if not order:
                break
            name = admit(order)
            admissions += 1
            if name in since:
                checked += 1
                bound = math.ceil((len(earlier[name]) + 1) / share)
                assert admissions - since[name] <= bound
        order.end()
    assert checked > 5


def test_nothing_moves_between_peek_and_pop() -> None:
    order = make(patience=0.5, share=1.0)
    draw = random.Random(0)
    for index in range(200):
        add(order, f"r{index}", draw.random() * 100)
    for step in range(50):
        order.begin(step)
        for _ in range(3):
            assert order.peek() is order.peek()
            seen = order.peek()
            assert order.pop() is seen
            seen.running = draw.random() < 0.7
            if not seen.running:
                order.restore(seen.name)


def test_leftovers_do_not_pile_up() -> None:
    order = make()
    for index in range(20):
        add(order, f"r{index}", 1e9)
    for round_ in range(5000):
        order.rescore(f"r{round_ % 20}", float(round_))
        add(order, f"x{round_}")
        order.begin(round_)
        assert order.discard(f"x{round_}")
    assert all(len(lane._heap) <= 2 * 21 + 65 for lane in order._lanes)
    assert len(order._undated) <= 2 * 21 + 65
    assert not order._groups
    assert not order._aside


def test_a_request_that_left_is_held_by_nothing() -> None:
    """Its place may stay in a heap for long; a prompt of 100,000 tokens may not."""
    order = make(patience=1.0)
    add(order, "stays", 1e9)
    gone = []
    for fate in ("aborted", "admitted", "elsewhere"):
        item = add(order, fate, 5.0)
        order.begin(0)
        gone.append(weakref.ref(item))
        if fate == "aborted":
            order.discard(fate)
        else:
            assert order.pop() is item
            item.running = fate == "admitted"
        order.end()
        del item
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


def test_a_lower_class_saves_no_credit_for_a_higher_one() -> None:
    """An urgent request that could not be chosen yet leaves no burst of turns to its class."""
    order = make(patience=1.0, share=0.1, trust_priority=True)
    for index in range(30):
        add(order, f"old{index}", 50.0 + index, priority=1)
    order.begin(1000)  # all urgent, and no turn before class 0 is through
    for index in range(200):
        add(order, f"first{index}", 1.0, priority=0)
    order.begin(1000)
    assert all(admit(order).startswith("first") for _ in range(200))
    for index in range(40):
        add(order, f"short{index}", 1.0, priority=1)
    order.begin(1000)
    out_of_turn = [name for name in (admit(order) for _ in range(40)) if name.startswith("old")]
    assert len(out_of_turn) <= 0.1 * 40 + 1


def test_misuse() -> None:
    order = make()
    with pytest.raises(IndexError):
        order.peek()
    add(order, "a")
    with pytest.raises(ValueError, match="already in the waiting queue"):
        add(order, "a")
    assert not order.discard("b")
    assert not order.rescore("b", 1.0)
    assert not order.restore("b")
