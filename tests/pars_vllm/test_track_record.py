"""A wrong predictor under vLLM's real scheduler: arrival order by itself, and back again."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from modelless import Driver, Job, make_request, pars_scheduler
from tiny import byte_ids
from vllm import SamplingParams

from pars_export.table import write_table_predictor
from pars_vllm import ParsScheduler

pytestmark = pytest.mark.usefixtures("no_orphans")
WAIT = 60.0


class Traffic:
    """Questions with known lengths; ``wrong`` ones stand in the predictor's table reversed."""

    def __init__(self, folder: Path, wrong: int, right: int) -> None:
        draw = random.Random(0)
        self.lengths = [max(1, int(draw.lognormvariate(2.5, 1))) for _ in range(wrong + right)]
        self.table = folder / "table"
        known = {}
        for index, length in enumerate(self.lengths):
            known[f"Q{index:05d}"] = 200 / length if index < wrong else float(length)
        write_table_predictor(self.table, known)

    def jobs(self, first: int, last: int) -> list[Job]:
        return [
            Job(f"r{index}", byte_ids(f"Q{index:05d}"), self.lengths[index])
            for index in range(first, last)
        ]

    @staticmethod
    def put(driver: Driver, jobs: list[Job]) -> None:
        for job in jobs:
            driver.add(job)
        assert driver.scheduler.pars_scorer.wait(WAIT)


def run_dry(driver: Driver) -> None:
    while driver.scheduler.has_unfinished_requests() or driver._flying:
        driver.step()


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def listen(monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    """What the scheduler says from here on; making a configuration sets vLLM's logging anew."""
    heard, logger = Heard(), logging.getLogger("vllm.pars")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, heard])
    return heard.records


def waiting(scheduler: ParsScheduler) -> list[str]:
    return [request.request_id for request in scheduler.waiting]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_falls_back_to_arrival_and_comes_back(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asynchronous: bool,
) -> None:
    traffic = Traffic(tmp_path, wrong=300, right=700)
    pars = {"predictor": str(traffic.table), "feedback_window": 250}
    with pars_scheduler(tiny_model, pars, slots=16, asynchronous=asynchronous) as scheduler:
        heard = listen(monkeypatch)

        def trusted() -> bool:
            return scheduler.pars_record.trusted

        driver = Driver(scheduler)
        traffic.put(driver, traffic.jobs(0, 300))
        driver.step()
        assert waiting(scheduler) != sorted(waiting(scheduler), key=lambda name: int(name[1:]))
        while trusted():
            driver.step()
        driver.step()
        # Those that are left, and those that come now and are scored now, go by arrival.
        traffic.put(driver, traffic.jobs(300, 340))
        driver.step()
        assert len(waiting(scheduler)) > 40
        assert waiting(scheduler) == sorted(waiting(scheduler), key=lambda name: int(name[1:]))
        run_dry(driver)
        traffic.put(driver, traffic.jobs(340, 1000))
        while not trusted():
            driver.step()
        assert scheduler.pars_scorer is not None
        # All those that wait are ranked again, a bounded number in each step.
        left = waiting(scheduler)
        for _ in range(math.ceil(len(left) / 64)):
            driver.step()
        expected = sorted(
            waiting(scheduler), key=lambda n: (traffic.lengths[int(n[1:])], int(n[1:]))
        )
        assert waiting(scheduler) == expected
        assert len(expected) > 20
        run_dry(driver)
        assert len(set(driver.history.finished)) == len(driver.history.finished) == 1000
        counters = scheduler.pars_counters
        assert (counters.fallbacks, counters.returns) == (1, 1)
        assert counters.judged > 3
        assert counters.scored == counters.requests == 1000  # nobody was asked about again
    fallen, back = (r for r in heard if "concordance with the" in r.getMessage())
    assert fallen.levelno == logging.WARNING
    assert "requests go in arrival order until it is better" in fallen.getMessage()
    assert "requests go by expected work again" in back.getMessage()
    assert "concordance is" in heard[-1].getMessage()
    assert not any("Q0" in record.getMessage() for record in heard)


def test_shadow_judges_and_leaves_the_order(tiny_model: Path, tmp_path: Path) -> None:
    traffic = Traffic(tmp_path, wrong=300, right=0)
    pars = {"predictor": str(traffic.table), "feedback_window": 250, "ranking": "shadow"}
    with pars_scheduler(tiny_model, pars, slots=16) as scheduler:
        driver = Driver(scheduler)
        traffic.put(driver, traffic.jobs(0, 300))
        run_dry(driver)
        assert driver.history.admitted == [f"r{index}" for index in range(300)]
        found = scheduler.pars_record.concordance
        assert found is not None
        assert found.high < 0.2
        assert scheduler.pars_counters.fallbacks == 1


def test_all_is_logged_at_a_bounded_rate(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traffic = Traffic(tmp_path, wrong=0, right=1500)
    pars: dict[str, object] = {
        "predictor": str(traffic.table),
        "log_interval_s": 1000.0,
        "feedback_window": 256,
    }
    with pars_scheduler(tiny_model, pars, slots=16) as scheduler:
        heard = listen(monkeypatch)
        now = [0.0]
        record = scheduler.pars_record
        record._clock = lambda: now[0]
        record._next_log = 1000.0
        driver = Driver(scheduler)
        traffic.put(driver, traffic.jobs(0, 1500))
        logged = []
        while scheduler.has_unfinished_requests():
            judged = scheduler.pars_counters.judged
            driver.step()
            if scheduler.pars_counters.judged > judged:
                now[0] += 400.0
                logged.append(sum("concordance is" in r.getMessage() for r in heard))
    # Judged at 0, 400, 800, 1200 (logged), 1600, 2000, 2400 (logged), ...
    assert logged[:7] == [0, 0, 0, 1, 1, 1, 2]
    assert scheduler.pars_counters.fallbacks == 0


def test_an_expected_length_is_put_to_scale(tiny_model: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    lengths = [max(2, int(draw.lognormvariate(2.5, 1))) for _ in range(4000)]
    known: Mapping[str, float] = {f"Q{i:05d}": 5.0 * length for i, length in enumerate(lengths)}
    write_table_predictor(tmp_path / "table", known)
    with pars_scheduler(tiny_model, {"predictor": str(tmp_path / "table")}, slots=16) as scheduler:
        driver = Driver(scheduler)
        jobs = [Job(f"r{i}", byte_ids(f"Q{i:05d}"), n) for i, n in enumerate(lengths)]
        Traffic.put(driver, jobs)
        run_dry(driver)
        assert scheduler.pars_record.scored("new", 50.0) == pytest.approx(10.0, rel=0.1)


def test_requests_with_stop_strings_tell_no_scale(tiny_model: Path, tmp_path: Path) -> None:
    write_table_predictor(tmp_path / "table", {})
    with pars_scheduler(tiny_model, {"predictor": str(tmp_path / "table")}) as scheduler:
        for name, stop in (("with", ["END"]), ("without", None)):
            request = make_request(Job(name, byte_ids("Q"), 5))
            request.sampling_params = SamplingParams(max_tokens=9, stop=stop)
            scheduler.add_request(request)
        scheduler.schedule()
        cohort = scheduler.pars_record._feedback._cohort
        told = {name: bool(cohort._at_random[row]) for name, row in cohort._row.items()}
    assert told == {"with": False, "without": True}
