"""ParsScheduler over vLLM's real scheduler and KV cache manager, with a real scorer process."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modelless import Driver, Job, Step, make_config, make_scheduler, random_jobs
from tiny import byte_ids as prompt
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from pars_export.artifact import folder_sha256
from pars_export.errors import ConfigError, ParsError, PredictorError
from pars_export.table import write_length_predictor, write_table_predictor
from pars_vllm import ParsScheduler

pytestmark = pytest.mark.usefixtures("no_orphans")
WAIT = 60.0


MakePars = Callable[..., ParsScheduler]
"""Our settings (and options of ``make_config``) to a scheduler."""
Table = Callable[[list[int]], Path]
"""Lengths to a predictor folder."""


def question(index: int) -> str:
    return f"Question {index:04d}?"


def jobs_of(lengths: list[int], **fixed: Any) -> list[Job]:
    return [
        Job(f"r{index}", prompt(question(index)), length, **fixed)
        for index, length in enumerate(lengths)
    ]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Writes the predictor folder that knows the lengths of ``question(0)``, ..."""

    def write(lengths: list[int]) -> Path:
        known = {question(index): float(length) for index, length in enumerate(lengths)}
        write_table_predictor(tmp_path / "table", known)
        return tmp_path / "table"

    return write


@pytest.fixture
def make(tiny_model: Path) -> Iterator[MakePars]:
    made = []

    def build(pars: dict[str, object], **options: Any) -> ParsScheduler:
        config = make_config(tiny_model, pars=pars, **options)
        scheduler = make_scheduler(ParsScheduler, config)
        assert isinstance(scheduler, ParsScheduler)
        made.append(scheduler)
        return scheduler

    yield build
    for scheduler in made:
        scheduler.shutdown()


def ready(scheduler: ParsScheduler) -> None:
    """Wait until every score that was asked for is there (the scheduler itself never does)."""
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.wait(WAIT)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_shortest_answers_first(make: MakePars, table: Table, asynchronous: bool) -> None:
    lengths = [40, 5, 30, 20, 10, 3, 25, 15]
    scheduler = make({"predictor": str(table(lengths))}, slots=1, asynchronous=asynchronous)
    driver = Driver(scheduler)
    for job in jobs_of(lengths):
        driver.add(job)
    ready(scheduler)
    history = driver.run()
    assert history.admitted == ["r5", "r1", "r4", "r7", "r3", "r6", "r2", "r0"]
    assert sorted(history.finished) == sorted(history.admitted)
    assert scheduler.pars_counters.scored == 8


def test_max_tokens_and_the_prompt_count(make: MakePars, table: Table) -> None:
    lengths = [500, 50, 60]
    scheduler = make(
        {"predictor": str(table(lengths)), "prefill_weight": 1.0},
        slots=1,
    )
    driver = Driver(scheduler)
    jobs = jobs_of(lengths)
    jobs[0].max_tokens = 10  # known to be short, whatever is expected
    for job in jobs:
        driver.add(job)
    ready(scheduler)
    assert driver.run().admitted == ["r0", "r1", "r2"]


def test_a_request_is_never_held_for_its_score(make: MakePars, table: Table) -> None:
    lengths = [9, 8, 7, 6]
    scheduler = make({"predictor": str(table(lengths))}, slots=1)
    assert scheduler.pars_scorer is not None
    ready(scheduler)
    assert scheduler.pars_scorer.pid is not None
    os.kill(scheduler.pars_scorer.pid, signal.SIGSTOP)  # as slow as can be
    driver = Driver(scheduler)
    for job in jobs_of(lengths):
        driver.add(job)
    started = time.monotonic()
    assert driver.run().admitted == ["r0", "r1", "r2", "r3"]
    assert time.monotonic() - started < 20


def test_unknown_prompts_stand_at_the_median(make: MakePars, table: Table) -> None:
    lengths = [10, 20, 30]
    scheduler = make({"predictor": str(table(lengths))}, slots=1)
    driver = Driver(scheduler)
    driver.add(Job("new", prompt("not in the table"), 5))
    for job in jobs_of(lengths):
        driver.add(job)
    ready(scheduler)
    assert driver.run().admitted == ["r0", "new", "r1", "r2"]
    assert scheduler.pars_counters.unknown == 1


def test_a_late_score_counts_the_whole_request_for_the_median(make: MakePars, table: Table) -> None:
    lengths = [40, 20, 30]
    scheduler = make({"predictor": str(table(lengths))}, slots=1)
    ready(scheduler)
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.pid is not None
    os.kill(scheduler.pars_scorer.pid, signal.SIGSTOP)
    driver = Driver(scheduler)
    jobs = jobs_of(lengths)
    driver.add(jobs[0])
    for _ in range(35):
        driver.step()
    driver.add(Job("new", prompt("not in the table"), 5))
    for job in jobs[1:]:
        driver.add(job)
    os.kill(scheduler.pars_scorer.pid, signal.SIGCONT)
    ready(scheduler)
    assert driver.run().admitted == ["r0", "r1", "new", "r2"]


def test_killed_scorer_means_arrival_order_and_then_order_again(
    make: MakePars, table: Table
) -> None:
    lengths = [50, 40, 30, 20, 10]
    scheduler = make({"predictor": str(table(lengths))}, slots=1)
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_queue is not None
    for job in jobs_of(lengths):
        Driver(scheduler).add(job)
    ready(scheduler)
    scheduler._take_scores(scheduler.pars_scorer)
    assert [request.request_id for request in scheduler.waiting] == ["r4", "r3", "r2", "r1", "r0"]
    assert scheduler.pars_scorer.pid is not None
    os.kill(scheduler.pars_scorer.pid, signal.SIGKILL)
    end = time.monotonic() + WAIT
    while not scheduler.pars_counters.losses:
        assert time.monotonic() < end
        scheduler._take_scores(scheduler.pars_scorer)
    assert [request.request_id for request in scheduler.waiting] == ["r0", "r1", "r2", "r3", "r4"]
    while not scheduler.pars_scorer.ready:
        assert time.monotonic() < end
        scheduler._take_scores(scheduler.pars_scorer)
        time.sleep(0.01)
    ready(scheduler)
    scheduler._take_scores(scheduler.pars_scorer)
    assert [request.request_id for request in scheduler.waiting] == ["r4", "r3", "r2", "r1", "r0"]


def test_a_scorer_lost_while_requests_are_ranked_again_leaves_arrival_order(
    make: MakePars, table: Table
) -> None:
    """Not a queue of which the first hundreds are ordered and the others are not."""
    lengths = [200 - index for index in range(150)]  # more than one step ranks again
    scheduler = make({"predictor": str(table(lengths))}, slots=1)
    scorer = scheduler.pars_scorer
    assert scorer is not None
    for job in jobs_of(lengths):
        Driver(scheduler).add(job)
    ready(scheduler)
    scheduler._take_scores(scorer)
    scorer.recovered = True  # as after an earlier loss
    scheduler._take_scores(scorer)
    scorer._lose("here by our own hand")
    for _ in range(4):
        scheduler._take_scores(scorer)
    assert [request.request_id for request in scheduler.waiting] == [
        f"r{index}" for index in range(150)
    ]


def steps_of(scheduler: Scheduler, jobs: list[Job]) -> list[Step]:
    return Driver(scheduler, jobs).run().steps


def test_without_a_predictor_configured_the_default_one_orders(make: MakePars) -> None:
    texts = ["Write a detailed essay about the sea.", "Answer yes or no: is the sea salty?"]
    jobs = [Job(f"r{index}", prompt(text), 3) for index, text in enumerate(texts)]
    scheduler = make({}, slots=1)
    ready(scheduler)
    driver = Driver(scheduler)
    for job in jobs:
        driver.add(job)
    ready(scheduler)
    assert driver.run().admitted == ["r1", "r0"]
    assert scheduler.pars_counters.scored == 2


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_shadow_scores_and_keeps_stock_order(
    make: MakePars, tmp_path: Path, tiny_model: Path, asynchronous: bool
) -> None:
    write_length_predictor(tmp_path / "length")
    options: dict[str, Any] = {"blocks": 45, "slots": 8, "asynchronous": asynchronous}
    stock = make_scheduler(
        AsyncScheduler if asynchronous else Scheduler,
        make_config(tiny_model, **options),
    )
    scheduler = make({"predictor": str(tmp_path / "length"), "ranking": "shadow"}, **options)
    ready(scheduler)
    assert steps_of(scheduler, random_jobs(5)) == steps_of(stock, random_jobs(5))
    ready(scheduler)
    assert scheduler.pars_scorer is not None
    scheduler._take_scores(scheduler.pars_scorer)
    assert scheduler.pars_counters.scored == 60
    stock.shutdown()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_without_scores_it_is_stock_arrival_order(
    make: MakePars, table: Table, tiny_model: Path, asynchronous: bool, policy: str
) -> None:
    """Our queue, nothing scored: what stock vLLM admits, preempts and finishes, step for step.

    Under vLLM's priority policy the two differ in one thing only: a preempted request goes before
    others of its class, not by its arrival; so that case has no preemption.
    """
    options: dict[str, Any] = {"asynchronous": asynchronous, "policy": policy, "slots": 8}
    if policy == "fcfs":
        options["blocks"] = 45
    pars = {"predictor": str(table([])), "trust_priority": policy == "priority"}
    for seed in (3, 4):
        stock = make_scheduler(
            AsyncScheduler if asynchronous else Scheduler,
            make_config(tiny_model, **options),
        )
        scheduler = make(pars, **options)
        assert steps_of(scheduler, random_jobs(seed)) == steps_of(stock, random_jobs(seed))
        stock.shutdown()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_none_lost_none_twice_under_preemption_and_aborts(
    make: MakePars, tmp_path: Path, asynchronous: bool
) -> None:
    write_length_predictor(tmp_path / "length")
    scheduler = make(
        {"predictor": str(tmp_path / "length"), "patience": 2.0, "share": 0.3},
        blocks=45,
        slots=8,
        asynchronous=asynchronous,
    )
    ready(scheduler)
    jobs = random_jobs(6, count=150)
    driver = Driver(scheduler, jobs)
    while driver._future or scheduler.has_unfinished_requests() or driver._flying:
        driver.step()
        if random.Random(driver._step).random() < 0.2:
            ready(scheduler)
    history = driver.history
    assert history.preemptions > 0
    assert scheduler.pars_queue is not None
    assert scheduler.pars_queue.order.admitted_urgent > 0
    assert len(set(history.finished)) == len(history.finished)
    never_aborted = {job.id for job in jobs if job.abort_at is None}
    assert never_aborted <= set(history.finished)
    assert not scheduler.requests
    assert not scheduler.waiting
    assert not scheduler.running


def test_preempted_requests_resume_before_new_ones(make: MakePars, table: Table) -> None:
    # Two giants fill the cache; when one is preempted it comes back before the short newcomer.
    lengths = [200, 200, 5]
    scheduler = make({"predictor": str(table(lengths))}, blocks=22, slots=2)
    driver = Driver(scheduler)
    jobs = jobs_of(lengths)
    driver.add(jobs[0])
    driver.add(jobs[1])
    ready(scheduler)
    driver.step()
    driver.add(jobs[2])
    ready(scheduler)
    history = driver.run()
    assert history.preemptions > 0
    first_resumed = next(step for step in history.steps if step.resumed)
    assert not any("r2" in step.new for step in history.steps[: history.steps.index(first_resumed)])


def test_client_priority_is_ignored_unless_trusted(make: MakePars, table: Table) -> None:
    lengths = [10, 20, 30]
    for trusted, expected in ((False, ["r0", "r1", "r2"]), (True, ["r2", "r0", "r1"])):
        scheduler = make(
            {"predictor": str(table(lengths)), "trust_priority": trusted},
            slots=1,
        )
        driver = Driver(scheduler)
        jobs = jobs_of(lengths)
        jobs[2].priority = -1
        for job in jobs:
            driver.add(job)
        ready(scheduler)
        assert driver.run().admitted == expected


def break_byte(folder: Path) -> None:
    path = folder / "table.json"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))


def newer_format(folder: Path) -> None:
    path = folder / "predictor.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"format_version": 99}))


@pytest.mark.parametrize(
    ("change", "pars", "sentence"),
    [
        (None, {"predictor": "/no/such/folder"}, "there is no such predictor folder"),
        (break_byte, {}, "its content has changed"),
        (newer_format, {}, "install a newer pars-vllm"),
        (None, {"predictor_sha256": "0" * 64}, "that is pinned"),
        (None, {"runtime": "onnx"}, "cannot run on 'onnx'"),
        (None, {"runtime": "abacus"}, "no runtime 'abacus'"),
        (None, {"chat_template": "/no/such/file"}, "cannot be read"),
        (None, {"colour": "blue"}, "unknown key 'colour'"),
    ],
)
def test_wrong_configuration_refuses_to_start(
    make: MakePars,
    table: Table,
    change: Callable[[Path], None] | None,
    pars: dict[str, object],
    sentence: str,
) -> None:
    folder = table([1, 2, 3])
    if change is not None:
        change(folder)
    with pytest.raises(ParsError) as caught:
        make({"predictor": str(folder), **pars})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pinned_hash_is_accepted(make: MakePars, table: Table) -> None:
    folder = table([1])
    make({"predictor": str(folder), "predictor_sha256": folder_sha256(folder)})


def test_priority_policy_without_trust_is_refused(make: MakePars, table: Table) -> None:
    with pytest.raises(ConfigError, match="trust_priority"):
        make({"predictor": str(table([1]))}, policy="priority")


def test_unsupported_version_is_refused(make: MakePars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.__version__", "0.9.1")
    with pytest.raises(ConfigError, match=r"vLLM 0.9.1 is not supported"):
        make({"ranking": "off"})
    make({"ranking": "off", "allow_unsupported_vllm": True})


def test_predictor_without_calibration_is_refused(make: MakePars, tmp_path: Path) -> None:
    write_length_predictor(tmp_path / "length")
    path = tmp_path / "length" / "predictor.json"
    value = json.loads(path.read_text())
    del value["calibration"]
    path.write_text(json.dumps(value))
    with pytest.raises((ConfigError, PredictorError), match="calibration"):
        make({"predictor": str(tmp_path / "length")})


def test_no_prompt_text_is_logged(
    make: MakePars, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "a very private question"
    scheduler = make({"predictor": str(table([1]))})
    driver = Driver(scheduler)
    driver.add(Job("r", prompt(secret), 5))
    ready(scheduler)
    driver.run()
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.pid is not None
    os.kill(scheduler.pars_scorer.pid, signal.SIGKILL)
    end = time.monotonic() + WAIT
    while not scheduler.pars_counters.losses:
        assert time.monotonic() < end
        scheduler._take_scores(scheduler.pars_scorer)
    scheduler.shutdown()
    text = caplog.text + scheduler.pars_counters.line()
    assert "PARS" in text
    for word in (secret, "private", str(prompt(secret))[1:30]):
        assert word not in text
