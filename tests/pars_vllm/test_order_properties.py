"""What the order promises whatever arrives; ``test_order.py`` has the cases by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from pars_vllm.order import WaitingOrder
from pars_vllm.policy import Policy


@dataclass(eq=False)
class Item:
    name: str
    running: bool = False


@dataclass(frozen=True)
class Arrival:
    name: str
    work: float | None
    priority: int = 0
    parent: str | None = None


def order_of(arrivals: Sequence[Arrival], now: float = 0.0, **policy: object) -> WaitingOrder[Item]:
    """All of them waiting since step 0, at step ``now``."""
    order: WaitingOrder[Item] = WaitingOrder(Policy(**policy), lambda item: item.running)  # type: ignore[arg-type]
    for each in arrivals:
        order.add(each.name, Item(each.name), each.priority, each.parent)
        order.rescore(each.name, each.work)
    order.begin(now)
    return order


def drained(order: WaitingOrder[Item]) -> list[str]:
    names = []
    while order:
        item = order.pop()
        item.running = True
        names.append(item.name)
    order.end()
    return names


WORKS = st.one_of(st.none(), st.integers(0, 20).map(float))


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    count = draw(st.integers(1, 25))
    return [
        Arrival(
            f"r{index}",
            draw(WORKS),
            draw(st.integers(-2, 2)),
            draw(st.sampled_from([None, None, "p", "q"])),
        )
        for index in range(count)
    ]


@settings(max_examples=200, deadline=None)
@given(arrivals(), st.integers(0, 200), st.integers(0, 1000), st.booleans())
def test_a_total_order_that_hangs_on_facts_alone(
    requests: list[Arrival], now: int, seed: int, trusted: bool
) -> None:
    """Everybody once; and neither earlier scores nor those who left again change anything."""
    policy = {"patience": 3.0, "share": 0.3, "trust_priority": trusted}
    expected = drained(order_of(requests, now, **policy))
    assert sorted(expected) == sorted(each.name for each in requests)
    draw = random.Random(seed)
    order: WaitingOrder[Item] = WaitingOrder(Policy(**policy), lambda item: item.running)  # type: ignore[arg-type]
    for index, each in enumerate(requests):
        order.add(each.name, Item(each.name), each.priority, each.parent)
        if draw.random() < 0.5:
            order.add(f"gone{index}", Item("gone"))
            order.discard(f"gone{index}")
        order.rescore(each.name, each.work)
        if draw.random() < 0.5:
            order.rescore(each.name, None)
            # Takes no part in the median a second time.
            order._entries[each.name].work = each.work
            order._place(order._entries[each.name])
    order.begin(now)
    assert drained(order) == expected


@settings(max_examples=200, deadline=None)
@given(arrivals(), st.data())
def test_more_work_never_comes_earlier(requests: list[Arrival], data: st.DataObject) -> None:
    scored = [index for index, each in enumerate(requests) if each.work is not None]
    if not scored:
        return
    index = data.draw(st.sampled_from(scored))
    more = data.draw(st.integers(1, 20))
    each = requests[index]
    assert each.work is not None
    # Without unscored ones: the median that these stand at moves with every score.
    known = [other for other in requests if other.work is not None]
    before = drained(order_of(known)).index(each.name)
    raised = Arrival(each.name, each.work + more, each.priority, each.parent)
    changed = [raised if other is each else other for other in known]
    assert drained(order_of(changed)).index(each.name) >= before


@settings(max_examples=200, deadline=None)
@given(arrivals())
def test_unscored_ones_stand_at_the_median(requests: list[Arrival]) -> None:
    works = sorted(each.work for each in requests if each.work is not None)
    order = [each for each in requests if each.parent is None and each.priority == 0]
    names = drained(order_of(requests))
    if not works:
        assert [name for name in names if name in {each.name for each in order}] == [
            each.name for each in order
        ]
        return
    median = works[(len(works) - 1) // 2]
    place = {name: index for index, name in enumerate(names)}
    for unscored in (each for each in requests if each.work is None):
        for other in requests:
            if other.work is not None and other.work != median:
                assert (place[other.name] < place[unscored.name]) == (other.work < median)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000))
def test_children_of_one_request_go_one_after_the_other(seed: int) -> None:
    """Siblings share prompt and so work; those of others with the same work do not mix in.

    Only an urgent request that goes out of turn may come between: its bound counts admissions.
    """
    draw = random.Random(seed)
    children = [
        (f"{child}_{parent}", f"{parent}")
        for parent in range(6)
        for child in range(draw.randint(1, 4))
    ]
    works = {str(parent): float(draw.randint(0, 2)) for parent in range(6)}
    draw.shuffle(children)
    for now, share in ((0, 0.3), (1000, 1.0)):  # nobody urgent; all urgent, and so by arrival
        requests = [Arrival(name, works[parent], parent=parent) for name, parent in children]
        names = drained(order_of(requests, now, patience=5.0, share=share))
        for parent in works:
            places = [index for index, name in enumerate(names) if name.endswith(f"_{parent}")]
            assert places == list(range(places[0], places[0] + len(places)))


@settings(max_examples=100, deadline=None)
@given(arrivals(), st.integers(0, 200))
def test_classes_come_first_where_trusted_and_are_nothing_elsewhere(
    requests: list[Arrival], now: int
) -> None:
    levels = {each.name: each.priority for each in requests}
    names = drained(order_of(requests, now, patience=3.0, share=0.3, trust_priority=True))
    assert [levels[name] for name in names] == sorted(levels.values())
    equal = [Arrival(each.name, each.work, 0, each.parent) for each in requests]
    found = drained(order_of(requests, now, patience=3.0, share=0.3))
    assert found == drained(order_of(equal, now, patience=3.0, share=0.3))


@settings(max_examples=100, deadline=None)
@given(arrivals(), st.integers(1, 5), st.integers(0, 200))
def test_preempted_ones_first_of_their_class(
    requests: list[Arrival], preempted: int, now: int
) -> None:
    order = order_of(requests, now, patience=3.0, share=1.0)
    for index in range(preempted):
        order.resume(f"p{index}", Item(f"p{index}"))
    order.begin(now)
    names = drained(order)
    assert names[:preempted] == [f"p{index}" for index in reversed(range(preempted))]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.1, 0.25, 0.5]))
def test_out_of_turn_stays_within_the_share(seed: int, share: float) -> None:
    """In any m admissions at most floor(m * share) + 1 urgent requests go out of turn."""
    draw = random.Random(seed)
    order: WaitingOrder[Item] = WaitingOrder(
        Policy(patience=0.5, share=share), lambda item: item.running
    )
    count, taken = 0, []
    for step in range(200):
        for _ in range(draw.choice((1, 2, 3, 6))):
            order.add(f"r{count}", Item(f"r{count}"))
            order.rescore(f"r{count}", draw.lognormvariate(2, 1.5))
            count += 1
        order.begin(step)
        for _ in range(draw.choice((0, 1, 2, 4))):
            if order:
                before = order.admitted_urgent
                order.pop().running = True
                order.settle()
                taken.append(order.admitted_urgent - before)
        order.end()
    total = [0]
    for each in taken:
        total.append(total[-1] + each)
    assert total[-1] > 0
    for first in range(0, len(taken), 7):
        for last in range(first + 1, len(taken) + 1, 3):
            assert total[last] - total[first] <= int((last - first) * share + 1e-9) + 1
