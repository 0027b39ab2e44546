"""The waiting requests in the policy's order: one heap per reason to go first.

Pure data structure (no vLLM, no clock). Every operation is O(log n) amortised: an entry that moves
or leaves only gets a new stamp, its old places in the heaps are dropped when they surface, and a
heap is rebuilt once more than half of it is such leftovers. Two steps are long where n is large,
and follow a loss of the scorer: :meth:`WaitingOrder.drop_scores` itself, and the first ``begin``
that knows a median again; both are O(n), for entries that each were scored before.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pars_vllm.policy import Policy, RunningMedian, UrgentCredit

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """One waiting request."""

    key: str
    item: T
    priority: int
    sequence: int
    """Arrival number; unique."""
    group: int
    """Arrival number of the first child of the same ``n > 1`` request, else its own."""
    parent: str | None
    arrived: float
    """Step of arrival."""
    work: float | None = None
    """Expected work in decode steps; None without a score."""
    deadline: float | None = None
    """Step at which it becomes urgent; None while nothing was ever scored, and once it has left."""
    urgent: bool = False
    resumed: int | None = None
    """Place in the preempted lane (smaller goes first); None when not preempted."""
    stamp: int = -1


class _Lane(Generic[T]):
    """A heap of (*rank, stamp, entry); an item is dead once its entry carries another stamp.

    One flat tuple each: a comparison of tuples inside tuples walks the inner ones twice.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, ...]] = []

    def push(self, rank: tuple[float, ...], entry: Entry[T]) -> None:
        heapq.heappush(self._heap, (*rank, entry.stamp, entry))

    def head(self) -> tuple[float, Entry[T]] | None:
        """The first number of the least rank, and its entry."""
        heap = self._heap
        while heap:
            least = heap[0]
            if least[-1].stamp == least[-2]:
                return least[0], least[-1]
            heapq.heappop(heap)
        return None

    def pop(self) -> None:
        heapq.heappop(self._heap)

    def trim(self, live: int) -> None:
        if len(self._heap) > 2 * live + 64:
            self._heap = [item for item in self._heap if item[-1].stamp == item[-2]]
            heapq.heapify(self._heap)


class _Deadlines(Generic[T]):
    """A heap of (deadline, sequence, entry); an item is dead once its entry has another deadline.

    An entry that is set aside and put back keeps its deadline, and so its item.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry[T]]] = []

    def give(self, entry: Entry[T], deadline: float) -> None:
        if entry.deadline != deadline:
            entry.deadline = deadline
            heapq.heappush(self._heap, (deadline, entry.sequence, entry))

    def give_all(self, entries: Iterable[Entry[T]], deadline: Callable[[Entry[T]], float]) -> None:
        """As ``give`` to many that have none yet, in linear time."""
        for entry in entries:
            entry.deadline = deadline(entry)
            self._heap.append((entry.deadline, entry.sequence, entry))
        heapq.heapify(self._heap)

    def over(self, now: float) -> Iterator[Entry[T]]:
        """Entries whose deadline has come; each is told once."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            deadline, _, entry = heapq.heappop(heap)
            if entry.deadline == deadline and not entry.urgent:
                yield entry

    def trim(self, live: int) -> None:
        if len(self._heap) > 2 * live + 64:
            self._heap = [item for item in self._heap if item[2].deadline == item[0]]
            heapq.heapify(self._heap)


class WaitingOrder(Generic[T]):
    """Waiting items under a :class:`Policy`; the order is frozen between two ``begin`` calls.

    ``was_admitted(item)`` says, after a pop, whether the item is running now (an admission) or was
    only set aside: vLLM pops a request in both cases.
    """

    def __init__(self, policy: Policy, was_admitted: Callable[[T], bool]) -> None:
        self.policy = policy
        self.admissions = 0
        self.admitted_urgent = 0
        self.became_urgent = 0
        self._was_admitted = was_admitted
        self._entries: dict[str, Entry[T]] = {}
        self._aside: dict[str, Entry[T]] = {}
        self._popped: tuple[Entry[T], bool, bool] | None = None
        self._chosen: tuple[Entry[T], bool] | None = None
        self._groups: dict[str, list[int]] = {}
        self._median = RunningMedian()
        self._unscored_work: float | None = None
        self._credit = UrgentCredit(policy.share)
        self._last_urgent_group: int | None = None
        self._now = 0.0
        self._arrivals = itertools.count()
        self._preemptions = itertools.count(-1, -1)
        self._stamps = itertools.count()
        self._new_lanes()

    def _new_lanes(self) -> None:
        self._undated: list[Entry[T]] = []
        self._deadlines: _Deadlines[T] = _Deadlines()
        self._resumed: _Lane[T] = _Lane()  # (class, place)
        self._scored: _Lane[T] = _Lane()  # (class, work, group, sequence)
        self._unscored: _Lane[T] = _Lane()  # (class, sequence)
        self._urgent: _Lane[T] = _Lane()  # (class, group, sequence)
        self._lanes = self._resumed, self._scored, self._unscored, self._urgent, self._deadlines

    # ---- what changes the set

    def add(self, key: str, item: T, priority: int = 0, parent: str | None = None) -> None:
        """A new arrival, without a score yet; ValueError if its key is here already."""
        if key in self._entries:
            raise ValueError(f"{key} is already in the waiting queue")
        sequence = next(self._arrivals)
        group = sequence
        if parent is not None:
            known = self._groups.setdefault(parent, [sequence, 0])
            known[1] += 1
            group = known[0]
        level = self.policy.priority_class(priority)
        entry = Entry(key, item, level, sequence, group, parent, self._now)
        self._place(entry)
        self._set_deadline(entry)

    def resume(self, key: str, item: T, priority: int = 0) -> None:
        """A preempted request: ahead of everything of its class, the latest one first."""
        level = self.policy.priority_class(priority)
        place = next(self._preemptions)
        sequence = next(self._arrivals)
        self._place(Entry(key, item, level, sequence, sequence, None, self._now, resumed=place))

    def restore(self, key: str) -> bool:
        """Put back, in its own place, an item that was popped only to be set aside."""
        self.settle()
        entry = self._aside.pop(key, None)
        if entry is None:
            return False
        self._place(entry)
        return True

    def discard(self, key: str) -> bool:
        """Take an item out, wherever it stands; False if it is not here."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._leave(entry)
        entry.stamp = -1
        self._chosen = None
        self._trim()
        return True

    def rescore(self, key: str, work: float | None) -> bool:
        """Give an item its expected work (None: take its score away); False if it is not here."""
        if work is not None:
            self._median.add(work)
        entry = self._entries.get(key)
        if entry is None:
            return False
        entry.work = work
        self._place(entry)
        if entry.resumed is None and not entry.urgent:
            self._set_deadline(entry)
        return True

    def drop_scores(self) -> None:
        """Every item back to arrival order."""
        self._new_lanes()
        self._median = RunningMedian()
        self._unscored_work = None
        for entry in sorted(self._entries.values(), key=lambda entry: entry.sequence):
            entry.work = entry.deadline = None
            entry.urgent = False
            self._place(entry)
            if entry.resumed is None:
                self._undated.append(entry)

    # ---- what reads the order

    def begin(self, now: float) -> None:
        """Start of a scheduling step at step number ``now``: only here do waiting items move."""
        if self._popped is not None or self._aside:
            self.end()
        self._now = now
        self._chosen = None
        self._unscored_work = self._median.value
        if (work := self._unscored_work) is not None and self._undated:
            late = dict.fromkeys(
                each for each in self._undated if each.deadline is None and each.stamp != -1
            )
            self._deadlines.give_all(late, lambda each: self.policy.deadline(each.arrived, work))
            self._undated = []
        for entry in self._deadlines.over(now):
            entry.urgent = True
            self.became_urgent += 1
            self._urgent.push((entry.priority, entry.group, entry.sequence), entry)

    def end(self) -> None:
        """End of a scheduling step: what was set aside and not put back is somewhere else now."""
        self.settle()
        for entry in self._aside.values():
            self._leave(entry)
        self._aside.clear()

    def peek(self) -> T:
        """The next item; the same one until something is popped or the set changes."""
        return self._choose()[0].item

    def pop(self) -> T:
        """Take out the item that ``peek`` gives."""
        entry, out_of_turn = self._choose()
        urgent = self._urgent.head()
        urgent_in_turn = not out_of_turn and urgent is not None and urgent[1] is entry
        del self._entries[entry.key]
        entry.stamp = -1
        self._chosen = None
        self._aside[entry.key] = entry
        self._popped = (entry, out_of_turn, urgent_in_turn)
        return entry.item

    def settle(self) -> None:
        """Count the last popped item as an admission if it is running now."""
        if self._popped is None:
            return
        (entry, out_of_turn, urgent_in_turn), self._popped = self._popped, None
        if not self._was_admitted(entry.item):
            return
        del self._aside[entry.key]
        self._leave(entry)
        if entry.resumed is not None:
            return
        self.admissions += 1
        self.admitted_urgent += out_of_turn
        if not urgent_in_turn:
            urgent = self._urgent.head()
            waits = urgent is not None and urgent[0] == entry.priority
            self._credit.admitted(out_of_turn, out_of_turn or waits)
        self._last_urgent_group = entry.group if out_of_turn else None

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[T]:
        """Items in the order they would go if none became urgent any more; O(n log n)."""
        entries = sorted(self._entries.values(), key=self._rank)
        return iter([entry.item for entry in entries])

    def keys(self) -> list[str]:
        """Keys of the waiting items, unordered."""
        return list(self._entries)

    # ---- inside

    def _rank(self, entry: Entry[T]) -> tuple[float, ...]:
        if entry.resumed is not None:
            return (entry.priority, 0.0, entry.resumed, 0, 0)
        if entry.work is not None:
            return (entry.priority, 1.0, entry.work, entry.group, entry.sequence)
        work = self._unscored_work if self._unscored_work is not None else float("inf")
        return (entry.priority, 1.0, work, entry.sequence, entry.sequence)

    def _place(self, entry: Entry[T]) -> None:
        entry.stamp = next(self._stamps)
        self._entries[entry.key] = entry
        self._chosen = None
        if entry.resumed is not None:
            self._push(self._resumed, (entry.priority, entry.resumed), entry)
        elif entry.work is None:
            self._push(self._unscored, (entry.priority, entry.sequence), entry)
        else:
            rank = (entry.priority, entry.work, entry.group, entry.sequence)
            self._push(self._scored, rank, entry)
        if entry.urgent:
            self._push(self._urgent, (entry.priority, entry.group, entry.sequence), entry)

    def _push(self, lane: _Lane[T], rank: tuple[float, ...], entry: Entry[T]) -> None:
        lane.push(rank, entry)
        lane.trim(len(self._entries))

    def _set_deadline(self, entry: Entry[T]) -> None:
        work = entry.work if entry.work is not None else self._unscored_work
        if work is None:  # nothing was ever scored: arrival order, nobody can be overtaken
            self._undated.append(entry)
            return
        self._deadlines.give(entry, self.policy.deadline(entry.arrived, work))
        self._deadlines.trim(len(self._entries))

    def _leave(self, entry: Entry[T]) -> None:
        del entry.item  # its place may stay in a heap for long; the request must not
        entry.deadline = None
        if entry.parent is None:
            return
        known = self._groups[entry.parent]
        known[1] -= 1
        if not known[1]:
            del self._groups[entry.parent]

    def _trim(self) -> None:
        live = len(self._entries)
        for lane in self._lanes:
            lane.trim(live)
        if len(self._undated) > 2 * live + 64:
            self._undated = [each for each in self._undated if each.stamp != -1]

    def _choose(self) -> tuple[Entry[T], bool]:
        if self._chosen is None:
            self.settle()
            self._chosen = self._first()
        return self._chosen

    def _first(self) -> tuple[Entry[T], bool]:
        resumed, plain = self._resumed.head(), self._plain_head()
        if resumed is not None and (plain is None or resumed[0] <= plain.priority):
            return resumed[1], False
        if plain is None:
            raise IndexError("peek or pop from an empty waiting queue")
        urgent = self._urgent.head()
        if (
            urgent is not None
            and urgent[1] is not plain
            and urgent[0] == plain.priority
            and (self._credit.ready or urgent[1].group == self._last_urgent_group)
        ):
            return urgent[1], True
        return plain, False

    def _plain_head(self) -> Entry[T] | None:
        """The first by expected work alone; None when all that waits was preempted."""
        scored, unscored = self._scored.head(), self._unscored.head()
        if scored is None:
            return unscored[1] if unscored is not None else None
        if unscored is None or self._rank(scored[1]) <= self._rank(unscored[1]):
            return scored[1]
        return unscored[1]
