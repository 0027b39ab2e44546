"""`pars bench scheduler`: the load is the same for all three, and the results say what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler

from pars_bench.modelless import describe_model, make_scheduler
from pars_bench.schedule_costs import SLOTS, BusyServer, busy_config, make_jobs
from pars_bench.scheduler import SchedulerReport
from pars_bench.scheduler_page import render
from pars_bench.sidebyside import FCFS, OURS, Case, case_of, take_turns
from pars_model.__main__ import main
from pars_vllm import ParsScheduler


def test_everyone_has_a_turn_in_every_place_of_a_round() -> None:
    turns: list[str] = []

    def contestant(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    samples = take_turns({name: lambda name=name: contestant(name) for name in "abc"}, 2)  # type: ignore[misc]
    assert "".join(turns) == "abcbcacab"
    assert samples == {"a": [6.0, 8.0], "b": [4.0, 9.0], "c": [5.0, 7.0]}  # without the first


def test_medians_ratios_and_their_spread() -> None:
    case = case_of("add", 7, {OURS: [2.0, 4.0, 60.0], FCFS: [1.0, 2.0, 2.0]})
    assert (case["ours_us"], case["fcfs_us"], case["ratio_fcfs"]) == (4.0, 2.0, 2.0)
    assert case["ratio_fcfs_quartiles"] == (2.0, 16.0)
    assert case["priority_us"] is None
    assert case["ratio_priority"] is None
    assert case["priority_us_quartiles"] is None


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[BusyServer]]:
    model = describe_model(tmp_path / "model")
    jobs = make_jobs(1000, 3, tmp_path / "table")
    pars: dict[str, object] = {"predictor": str(tmp_path / "table"), "patience": 0.0}
    schedulers = [
        make_scheduler(ParsScheduler, busy_config(model, pars=pars)),
        make_scheduler(Scheduler, busy_config(model)),
        make_scheduler(Scheduler, busy_config(model, policy="priority")),
    ]
    yield [BusyServer(scheduler, jobs, 50, seed=3, warm=0) for scheduler in schedulers]
    for scheduler in schedulers:
        scheduler.shutdown()


def test_all_three_see_the_same_load(servers: list[BusyServer]) -> None:
    """In each step as many run, as many are admitted and as many wait, whoever they are."""

    def admit(server: BusyServer) -> tuple[int, int, int, list[str]]:
        output: SchedulerOutput = server._scheduler.schedule()
        server._run(output)
        names = [new.req_id for new in output.scheduled_new_reqs]
        running, waiting = server._scheduler.get_request_counts()
        return running, waiting, len(names), names

    admitted: list[list[str]] = [[], [], []]
    for _ in range(60):
        steps = [admit(server) for server in servers]
        assert len({step[:3] for step in steps}) == 1
        assert sum(steps[0][:2]) == SLOTS + 50
        for names, step in zip(admitted, steps, strict=True):
            names += step[3]
    assert len(admitted[0]) > 20
    assert admitted[0] != admitted[1]  # only the order differs
    ours = servers[0]._scheduler
    assert isinstance(ours, ParsScheduler)
    assert ours.pars_counters.scored >= SLOTS + 50
    assert ours.pars_counters.unknown == 0
    assert ours.pars_queue is not None
    assert ours.pars_queue.order.admitted_urgent > 0


def test_every_case_is_measured(tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    command = ["bench", "scheduler", "--json", str(out), "--markdown", str(page)]
    assert main([*command, "--waiting", "20", "--rounds", "2"]) == 0
    report: SchedulerReport = json.loads(out.read_text())
    assert report["environment"]["versions"]
    assert [case["operation"] for case in report["cases"]] == [
        "add",
        "pop",
        "remove",
        "set aside",
        "re-score",
        "lose all scores",
        "schedule",
        "add_request, 100 tokens",
        "add_request, 1000 tokens",
        "add_request, 100000 tokens",
    ]
    for case in report["cases"]:
        assert case["waiting"] == 20
        assert case["rounds"] == (16 if case["operation"] == "schedule" else 2)
        assert case["ours_us"] > 0
        assert (case["fcfs_us"] is None) == (case["operation"] in ("re-score", "lose all scores"))
    assert "--waiting 20 --rounds 2" in page.read_text()


def test_the_page_says_what_was_reached_and_what_costs_more() -> None:
    def case(operation: str, ours: float, fcfs: float) -> Case:
        return case_of(operation, 10_000, {OURS: [ours], FCFS: [fcfs], "priority": [2 * fcfs]})

    report: SchedulerReport = {
        "environment": {"cores": 2},
        "cases": [case("add", 3.0, 1.0), case("remove", 3.0, 200.0), case("schedule", 110, 100)],
    }
    page = render(report, "pars bench scheduler --json OUT")
    assert "`pars bench scheduler --json OUT`" in page
    assert "at 10,000 waiting: missed, 1.1 (1.1 to 1.1)" in page
    assert "at 10,000 waiting: reached, 0.0075" in page
    assert "- `add` with 10,000 waiting: 2 µs more than stock FCFS." in page
    assert "`remove` with" not in page


def test_a_few_scattered_rounds_decide_nothing() -> None:
    samples = {OURS: [90.0, 102.0, 115.0, 101.0], FCFS: [100.0] * 4, "priority": [100.0] * 4}
    report: SchedulerReport = {
        "environment": {},
        "cases": [case_of("schedule", 10_000, samples)],
    }
    assert "waiting: not decided by 4 rounds" in render(report, "")


def test_too_few_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "scheduler", "--json", "out", "--waiting", "1"])
    assert "too few" in capsys.readouterr().err
