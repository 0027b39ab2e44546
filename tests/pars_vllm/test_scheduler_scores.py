"""What ParsScheduler does with scores that a stand-in for the scorer gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from modelless import Driver, Job, make_config, make_request, make_scheduler
from tiny import byte_ids
from tiny_predictor import write_tiny_predictor
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from pars_export import Predictor
from pars_export.facts import Facts
from pars_vllm import ParsScheduler
from pars_vllm.policy import Policy
from pars_vllm.track_record import logger
from pars_vllm.work import ExpectedWork

PROMPT = [11, 12, 13]


class Scores:
    """Answers with the length that stands in a request's name, until it is told to be down."""

    def __init__(self) -> None:
        self.lost = self.recovered = False
        self.down = False
        self._answers: list[tuple[str, float | None]] = []

    @property
    def outstanding(self) -> int:
        return len(self._answers)

    def submit(self, request_id: str, token_ids: Sequence[int], known: bytes = b"") -> None:
        del token_ids, known
        if not self.down:
            self._answers.append((request_id, float(request_id.partition("-")[2])))

    def poll(self) -> list[tuple[str, float | None]]:
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """Nothing to end."""


Make = Callable[..., ParsScheduler]


@pytest.fixture
def scores() -> Scores:
    return Scores()


@pytest.fixture
def make(tiny_model: Path, scores: Scores) -> Iterator[Make]:
    made = []

    def build(pars: dict[str, object] | None = None, **options: Any) -> ParsScheduler:
        config = make_config(tiny_model, pars=pars or {}, **options)
        scheduler = make_scheduler(ParsScheduler, config, scores=scores)
        assert isinstance(scheduler, ParsScheduler)
        made.append(scheduler)
        return scheduler

    yield build
    for scheduler in made:
        scheduler.shutdown()


def add(scheduler: ParsScheduler, *lengths: int) -> None:
    for place, length in enumerate(lengths):
        scheduler.add_request(make_request(Job(f"{place}-{length}", PROMPT, length)))


def waiting(scheduler: ParsScheduler) -> list[str]:
    return [request.request_id for request in scheduler.waiting]


def test_trust_that_returns_while_the_scorer_is_down_orders_nothing(
    make: Make, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make()
    add(scheduler, 30, 20, 10)
    scheduler._take_scores(scores)
    assert waiting(scheduler) == ["2-10", "1-20", "0-30"]
    scores.lost = scores.down = True
    scheduler._take_scores(scores)
    assert waiting(scheduler) == ["0-30", "1-20", "2-10"]
    with monkeypatch.context() as patch:
        patch.setattr(scheduler.pars_record, "step", lambda: True)
        scheduler._take_scores(scores)
    scheduler._take_scores(scores)
    assert waiting(scheduler) == ["0-30", "1-20", "2-10"]
    scores.down, scores.recovered = False, True
    scheduler._take_scores(scores)
    scheduler._take_scores(scores)
    assert waiting(scheduler) == ["2-10", "1-20", "0-30"]


def test_steps_in_which_nothing_runs_make_nobody_urgent(make: Make) -> None:
    scheduler = make({"patience": 1.0}, slots=1)
    assert scheduler.pars_queue is not None
    order = scheduler.pars_queue.order
    driver = Driver(scheduler)
    driver.add(Job("9-1000", PROMPT, 1000))
    driver.step()
    add(scheduler, 20)
    budget, scheduler.max_num_scheduled_tokens = scheduler.max_num_scheduled_tokens, 0
    for _ in range(200):
        assert not scheduler.schedule().total_num_scheduled_tokens
    assert scheduler._pars_steps == 1
    assert order.became_urgent == 0
    scheduler.max_num_scheduled_tokens = budget
    for _ in range(60):
        driver.step()
    assert scheduler._pars_steps == 61
    assert order.became_urgent == 1


def test_an_answer_is_taken_in_steps_where_nothing_runs(make: Make, scores: Scores) -> None:
    scheduler = make()
    scheduler.max_num_scheduled_tokens = 0
    add(scheduler, *range(100, 165))
    scheduler.schedule()
    assert scheduler.pars_counters.scored == 65
    add(scheduler, 5)
    for _ in range(8):
        scheduler.schedule()
    assert not scores.outstanding
    assert scheduler.pars_counters.scored == 66
    assert waiting(scheduler)[0] == "0-5"


def test_counters_are_logged_though_no_answer_ends(
    make: Make, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make()
    lines: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: lines.append(record.getMessage()))
    logger.addHandler(handler)
    now = [0.0]
    record = scheduler.pars_record
    record._clock, record._next_log, record._interval = lambda: now[0], 10.0, 10.0
    try:
        for _ in range(25):
            scheduler._take_scores(scores)
            now[0] += 1.0
    finally:
        logger.removeHandler(handler)
    assert sum("requests 0" in line for line in lines) == 2


def test_preemptions_of_an_aborted_request_count(make: Make) -> None:
    scheduler = make(blocks=22, slots=2)
    driver = Driver(scheduler)
    driver.add(Job("0-200", PROMPT, 200))
    driver.add(Job("1-200", PROMPT, 200))
    while not driver.history.preemptions:
        driver.step()
    scheduler.finish_requests(["0-200", "1-200"], RequestStatus.FINISHED_ABORTED)
    assert scheduler.pars_counters.preemptions == 1
    assert scheduler.pars_counters.finished == 0
    driver.add(Job("2-3", PROMPT, 3))
    driver.run()
    assert scheduler.pars_counters.finished == 1


def test_facts_of_a_request_reach_the_predictor(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_tiny_predictor(tmp_path / "predictor", facts=("max_tokens",))
    scheduler = make_scheduler(
        ParsScheduler, make_config(tiny_model, pars={"predictor": str(folder)})
    )
    try:
        for name, most in (("a", 1), ("b", 20)):
            scheduler.add_request(make_request(Job(name, byte_ids("why?"), 5, max_tokens=most)))
        assert scheduler.pars_scorer.wait(60)
        found = dict(scheduler.pars_scorer.poll())
    finally:
        scheduler.shutdown()
    predictor = Predictor.load(folder)
    wanted = predictor.expected_tokens(
        predictor.score(["why?"] * 2, [Facts(max_tokens=1), Facts(max_tokens=20)])
    )
    assert wanted[0] != pytest.approx(wanted[1])
    assert [found["a"], found["b"]] == pytest.approx(wanted.tolist(), rel=1e-3)


def test_what_a_preempted_request_has_answered_counts_for_no_prompt(tiny_model: Path) -> None:
    """Its answer is in the prefix cache like its prompt, and may be the longer of the two."""
    scheduler = make_scheduler(Scheduler, make_config(tiny_model, blocks=12, slots=4))
    driver, work = Driver(scheduler), ExpectedWork(scheduler, Policy(prefill_weight=1.0))
    made = [driver.add(Job(f"r{index}", [11 + index] * 3, 100)) for index in range(4)]
    longer = 0
    while scheduler.has_unfinished_requests():
        driver.step()
        for request in made:
            if request.status != RequestStatus.PREEMPTED:
                continue
            cached = scheduler.kv_cache_manager.get_computed_blocks(request)[1]
            longer += cached > request.num_prompt_tokens
            assert work(request, 100.0, waits=True) >= 100.0 - request.num_output_tokens
    assert longer > 0
    scheduler.shutdown()
