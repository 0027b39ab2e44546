"""Cells through the real scheduler, kept, found again and made into a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from replay_bursts import mixed, small_engine, traffic_of

from pars_bench.replay.cells import Cell, Setting, load_facts, replay, run_cell
from pars_bench.replay.columns import read_columns
from pars_bench.replay.costmodel import Roofline
from pars_bench.replay.hardware import GPUS
from pars_bench.replay.llms import LLMS
from pars_bench.replay.policies import KINDS, Order, Scores, beliefs
from pars_bench.replay.record import ConservationError
from pars_bench.replay.results import report_of, write_results
from pars_bench.replay.schema import ReplayReport, ReplayRun
from pars_bench.replay.scorer import ScorerSpeed
from pars_bench.replay.traffic import Traffic, TrafficRequest
from pars_export.errors import InputError

STEP_TIME = Roofline(LLMS["llama-3.1-8b"], GPUS["h100"])
TRAFFIC = traffic_of(mixed(80, seed=4, gap_s=0.01))
ORDERS = [Order(kind, kind, Scores(noise=0.4)) for kind in KINDS]


AT_ONCE = ScorerSpeed(latency_s=0, rate=1e9)


def cell(
    order: Order,
    traffic: Traffic = TRAFFIC,
    asynchronous: bool = True,
    speed: ScorerSpeed = AT_ONCE,
) -> Cell:
    engine = small_engine(blocks=120, asynchronous=asynchronous)
    setting = Setting(engine, STEP_TIME, speed)
    return Cell(setting, traffic, order, 1.0, 0, f"digest of {order.name}")


def ends_of(own: Cell) -> list[float]:
    columns = read_columns(own.traffic, own.setting.engine)
    record = replay(own, columns, beliefs(own.order, columns, own.traffic, 0))
    record.check()
    return list(record.last_token_s)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    for order in ORDERS:
        run_cell(cell(order), folder, lambda _done, _total: None)
    return folder


@pytest.fixture(scope="module")
def report(out: Path) -> ReplayReport:
    cells = [cell(order) for order in ORDERS]
    report = report_of(out, cells, {0: TRAFFIC}, {"note": 1}, {"ttft": 0.5, "per_token": 0.05})
    write_results(out, cells, report)
    return report


def run_of(report: ReplayReport, policy: str) -> ReplayRun:
    return next(run for run in report["runs"] if run["policy"] == policy)


def test_every_order_answers_the_same_requests_with_the_same_tokens(report: ReplayReport) -> None:
    assert [run["policy"] for run in report["runs"]] == list(KINDS)
    assert {run["requests"] for run in report["runs"]} == {80}
    assert len({run["output_tokens"] for run in report["runs"]}) == 1


def test_orders_gain_what_they_know(report: ReplayReport) -> None:
    means = {}
    for run in report["runs"]:
        assert run["ttlt"] is not None
        means[run["policy"]] = run["ttlt"]["mean"]
    assert means["oracle"] < means["pars"] < means["fcfs"]
    assert means["rerun"] < means["fcfs"]
    assert means["hrrn"] < means["fcfs"]
    assert means["vllm_priority"] < means["fcfs"]
    assert run_of(report, "oracle")["oracle_gap_closed"] == pytest.approx(1)
    assert run_of(report, "fcfs")["oracle_gap_closed"] == pytest.approx(0)
    closed = run_of(report, "pars")["oracle_gap_closed"]
    interval = run_of(report, "pars")["oracle_gap_closed_interval"]
    assert closed is not None
    assert interval is not None
    assert interval[0] < closed < interval[1]


def test_measures_agree_with_the_rows(out: Path, report: ReplayReport) -> None:
    rows = pq.read_table(out / "requests.parquet").to_pandas()
    assert list(rows.columns) == [
        *("policy", "load", "seed", "request", "arrival_s", "prompt_tokens", "output_tokens"),
        *("ttft_s", "ttlt_s", "queued_s", "preemptions", "tenant"),
    ]
    for run in report["runs"]:
        own = rows[rows.policy == run["policy"]]
        assert run["ttlt"] is not None
        assert run["ttlt"]["p99"] == pytest.approx(np.percentile(own.ttlt_s, 99))
        per_token = own.ttlt_s / own.output_tokens
        attained = {each["measure"]: each["share"] for each in run["slo"]}
        assert attained == {
            "ttft": pytest.approx((own.ttft_s <= 0.5).mean()),
            "per_token": pytest.approx((per_token <= 0.05).mean()),
        }
        assert run["preemptions"] == own.preemptions.sum()
        assert (own.queued_s <= own.ttft_s).all()
        assert run["makespan"] == pytest.approx((own.arrival_s + own.ttlt_s).max())
        assert run["throughput"] == pytest.approx(own.output_tokens.sum() / run["makespan"])
        deciles = run["slowdown_by_decile"]
        assert len(deciles) == 10
        assert np.mean([each["ttlt"] for each in deciles]) == pytest.approx(own.ttlt_s.mean())
        assert run["slowdown"] is not None
        assert run["slowdown"]["mean"] >= 0.99  # nobody is served faster than alone
        assert 0 < len(run["queue_depth"]) <= 500
        assert run["scheduler_cost"]["microseconds_per_request_step"] > 0  # type: ignore[operator]  # a number


def test_the_mean_queue_is_littles_law_where_the_server_idles(tmp_path: Path) -> None:
    arrivals = [0.0] * 40 + [1000.0] * 40
    traffic = traffic_of([TrafficRequest(arrival, 20, 10) for arrival in arrivals])
    own = cell(ORDERS[0], traffic)
    run_cell(own, tmp_path, lambda _done, _total: None)
    (run,) = report_of(tmp_path, [own], {0: traffic}, {}, {})["runs"]
    queued = pq.read_table(own.path(tmp_path))["queued_s"].to_numpy()
    assert run["mean_queue"] == pytest.approx(queued.sum() / run["makespan"])
    times, depths = np.array(run["queue_depth"]).T
    held = np.diff([*times, run["makespan"]])
    assert run["mean_queue"] == pytest.approx((held * depths).sum() / run["makespan"])
    assert depths[0] == depths.max() == 36  # 4 slots
    assert depths[np.searchsorted(times, 500.0) - 1] == 0
    assert run["mean_queue"] < 0.1


def test_the_report_is_plain_json_with_everything_in_it(out: Path, report: ReplayReport) -> None:
    stored = json.loads((out / "report.json").read_text())
    assert stored == json.loads(json.dumps(report))
    assert set(stored) == set(ReplayReport.__annotations__)
    assert set(stored["runs"][0]) == set(ReplayRun.__annotations__)
    assert stored["traffic"]["name"] == "made up"
    assert stored["cost_model"]["kind"] == "roofline"
    assert stored["environment"]["settings"] == {"note": 1}
    scores = {run["policy"]: run["scores"] for run in stored["runs"]}
    assert scores["fcfs"] is None
    assert scores["pars"]["kind"] == "score model"
    assert scores["oracle"]["tau"] == pytest.approx(1)


def test_a_finished_cell_is_found_by_its_digest_only(out: Path) -> None:
    own = cell(ORDERS[0])
    facts = load_facts(own.path(out), own.digest)
    assert facts is not None
    assert facts["policy"] == "fcfs"
    assert load_facts(own.path(out), "another digest") is None
    assert load_facts(out / "cells" / "none.parquet", own.digest) is None
    (out / "cells" / "torn.parquet").write_bytes(b"PAR1")
    assert load_facts(out / "cells" / "torn.parquet", own.digest) is None


def test_orders_over_other_requests_are_not_compared(out: Path, tmp_path: Path) -> None:
    fcfs, oracle = ORDERS[0], next(order for order in ORDERS if order.kind == "oracle")
    run_cell(cell(fcfs), tmp_path, lambda _done, _total: None)
    other = cell(oracle, traffic_of(mixed(50, seed=9)))
    run_cell(other, tmp_path, lambda _done, _total: None)
    with pytest.raises(ConservationError, match="answered 50 requests"):
        report_of(tmp_path, [cell(fcfs), other], {0: TRAFFIC}, {}, {})
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_with_one_length_for_all_no_order_gains(asynchronous: bool) -> None:
    """Equal scores leave arrival order, and so the very same times."""
    same = traffic_of([TrafficRequest(0.0, 20, 10) for _ in range(40)])
    fcfs, oracle = (ends_of(cell(Order(k, k), same, asynchronous)) for k in ("fcfs", "oracle"))
    assert fcfs == oracle


def test_a_late_score_leaves_arrival_order() -> None:
    never = ScorerSpeed(latency_s=1e9)
    fcfs, oracle = (ends_of(cell(Order(k, k), speed=never)) for k in ("fcfs", "oracle"))
    assert fcfs == oracle


def too_large(requests: Sequence[TrafficRequest]) -> str:
    with pytest.raises(InputError) as refusal:
        read_columns(requests, small_engine(blocks=30))
    return str(refusal.value)


def test_requests_that_the_engine_cannot_hold_are_refused() -> None:
    sentence = too_large([TrafficRequest(0, 5, 5), TrafficRequest(0, 500, 10)])
    assert sentence.startswith("request 1 has 500 prompt and 10 response tokens, but the KV cache")
    assert "holds 464" in sentence
    assert "the longest context is 1024" in too_large([TrafficRequest(0, 1000, 30)])
    assert "no request" in too_large([])
    assert "has the tenant '\\ud800'" in too_large([TrafficRequest(0, 5, 5, tenant="\ud800")])
    read_columns([TrafficRequest(0, 5, 5, tenant="Büro")], small_engine())
