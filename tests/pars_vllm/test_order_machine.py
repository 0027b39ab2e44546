"""The waiting order against a simple model, under random operations: a list looked through anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pars_vllm.order import WaitingOrder
from pars_vllm.policy import Policy, RunningMedian

PATIENCE = 2.0


@dataclass(eq=False)
class Waiting:
    """What the model knows of a request; also the item that the order holds."""

    name: str
    level: int
    sequence: int
    parent: str | None
    arrived: float
    work: float | None = None
    deadline: float | None = None
    urgent: bool = False
    group: int = 0
    preempted: int | None = None
    running: bool = False


class AgainstAList(RuleBasedStateMachine):
    """Arrivals with classes and siblings, scores, time, admissions, preemptions, aborts, losses."""

    @initialize(
        share=st.sampled_from(["0", "0.2", "0.5", "1"]),
        trusted=st.booleans(),
        patience=st.sampled_from([PATIENCE, 1e9]),
    )
    def start(self, share: str, trusted: bool, patience: float) -> None:
        policy = Policy(patience, float(share), trust_priority=trusted)
        self.order: WaitingOrder[Waiting] = WaitingOrder(policy, lambda item: item.running)
        self.patience, self.share, self.trusted = patience, Fraction(share), trusted
        self.median = RunningMedian()
        self.frozen: float | None = None
        self.now = 0.0
        self.requests: list[Waiting] = []
        self.credit = Fraction(0)
        self.last_group: int | None = None
        self.admissions = self.out_of_turn = self.count = self.preemptions = 0

    # ---- the model

    def plain(self) -> list[Waiting]:
        """Those that have not run yet, by expected work."""

        def rank(each: Waiting) -> tuple[float, ...]:
            if each.work is not None:
                return (each.level, each.work, each.group, each.sequence)
            work = math.inf if self.frozen is None else self.frozen
            return (each.level, work, each.sequence, each.sequence)

        return sorted((each for each in self.requests if each.preempted is None), key=rank)

    def first(self, without: Waiting | None = None) -> tuple[Waiting, bool, bool]:
        """(who goes next, whether out of turn, whether urgent and in turn)."""
        rest = [each for each in self.requests if each is not without]
        plain = [each for each in self.plain() if each is not without]
        preempted = [
            (each.level, each.preempted, each) for each in rest if each.preempted is not None
        ]
        if preempted:
            level, _, each = min(preempted)
            if not plain or level <= plain[0].level:
                return each, False, False
        urgent = [each for each in rest if each.urgent]
        if urgent:
            each = min(urgent, key=lambda one: (one.level, one.group, one.sequence))
            if each is plain[0]:
                return each, False, True
            ready = self.credit + self.share >= 1 or each.group == self.last_group
            if each.level == plain[0].level and ready:
                return each, True, False
        return plain[0], False, False

    def admit(self, each: Waiting, out_of_turn: bool, in_turn: bool) -> None:
        self.requests.remove(each)
        if each.preempted is not None:
            return
        self.admissions += 1
        self.out_of_turn += out_of_turn
        if not in_turn:
            self.credit = max(Fraction(0), self.credit + self.share - out_of_turn)
            if not out_of_turn and not any(o.urgent and o.level == each.level for o in self.waits):
                self.credit = min(self.credit, 1 - self.share)
        self.last_group = each.group if out_of_turn else None

    def date(self, each: Waiting) -> None:
        work = each.work if each.work is not None else self.frozen
        if each.preempted is None and not each.urgent and work is not None:
            each.deadline = each.arrived + self.patience * work

    # ---- what happens

    @rule(
        level=st.integers(-1, 1),
        parent=st.sampled_from([None, None, "p", "q"]),
        works=st.lists(st.one_of(st.none(), st.integers(0, 5).map(float)), min_size=1, max_size=6),
    )
    def arrive(self, level: int, parent: str | None, works: list[float | None]) -> None:
        """Some at a time, most of them scored at once: a queue with something to decide."""
        for work in works:
            own = level if self.trusted else 0
            each = Waiting(f"r{self.count}", own, self.count, parent, self.now)
            siblings = [o.group for o in self.requests if parent is not None and o.parent == parent]
            each.group = siblings[0] if siblings else self.count
            self.count += 1
            self.order.add(each.name, each, level, parent)
            self.requests.append(each)
            self.date(each)
            if work is not None:
                self.rate(each, work)

    def rate(self, each: Waiting, work: float) -> None:
        self.order.rescore(each.name, work)
        self.median.add(work)
        each.work = work
        self.date(each)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), work=st.integers(0, 5))
    def score(self, data: st.DataObject, work: int) -> None:
        each = data.draw(st.sampled_from(self.requests))
        if each.preempted is None:
            self.rate(each, float(work))

    @rule(steps=st.sampled_from([0, 1, 5, 20]))
    def step(self, steps: int) -> None:
        self.now += steps
        self.order.begin(self.now)
        self.frozen = self.median.value
        for each in self.requests:
            if each.deadline is None:
                self.date(each)
            if each.deadline is not None and each.deadline <= self.now:
                each.urgent = True

    @precondition(lambda self: self.requests)
    @rule(
        fates=st.lists(
            st.sampled_from(["run", "run", "run", "set aside", "passed", "preempt"]),
            min_size=1,
            max_size=6,
        )
    )
    def pop(self, fates: list[str]) -> None:
        for fate in fates[: len(self.requests)]:
            if self.requests:
                self.pop_one(fate)

    def pop_one(self, fate: str) -> None:
        each, *turn = self.first()
        assert self.order.peek() is each
        assert self.order.pop() is each
        if fate in ("set aside", "passed"):
            if fate == "passed" and len(self.requests) > 1:
                other, *others_turn = self.first(without=each)
                assert self.order.pop() is other
                other.running = True
                # While one is set aside, only the others that wait count.
                self.waits = [o for o in self.requests if o is not each and o is not other]
                self.admit(other, *others_turn)
            assert self.order.restore(each.name)  # with the deadline that it had
            return
        each.running = True
        self.waits = [o for o in self.requests if o is not each]
        self.admit(each, *turn)
        self.order.end()
        if fate == "preempt":
            self.preemptions -= 1
            again = Waiting(each.name, each.level, self.count, None, self.now)
            again.preempted = self.preemptions
            self.count += 1
            self.order.resume(again.name, again, again.level)
            self.requests.append(again)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.requests))
        assert self.order.discard(each.name)
        assert not self.order.discard(each.name)
        self.requests.remove(each)

    @rule()
    def lose_scores(self) -> None:
        self.order.drop_scores()
        self.median = RunningMedian()
        self.frozen = None
        for each in self.requests:
            each.work, each.deadline, each.urgent = None, None, False

    @invariant()
    def same(self) -> None:
        assert len(self.order) == len(self.requests)
        assert sorted(self.order.keys()) == sorted(each.name for each in self.requests)
        assert self.order.admissions == self.admissions
        assert self.order.admitted_urgent == self.out_of_turn
        if self.requests:
            assert self.order.peek() is self.first()[0]
        else:
            with pytest.raises(IndexError):
                self.order.peek()


AgainstAList.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstAList = AgainstAList.TestCase
