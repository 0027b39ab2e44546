"""The whole comparison against a stand-in server: resumption, failures, settings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pars_bench import live, provenance, serving
from pars_bench.client import Load, Prompt, drive
from pars_bench.orders import Order, check_orders, parse_order, scheduler_arguments
from pars_bench.schema import read_report
from pars_bench.server import Server, ServingError
from pars_bench.serving import ServingConfig, ServingResult, run_serving, served_name
from pars_export.errors import ConfigError, PredictorError

STANDIN = Path(__file__).parent / "standin_vllm.py"


class Lines:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.counts: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def count(self, label: str, done: int, total: int) -> None:
        self.counts.append((label, done, total))


def prepared(folder: Path) -> tuple[ServingConfig, Path]:
    """A comparison of twelve prompts, and the program to put in vLLM's place."""
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STANDIN}" "$@"\n')
    program.chmod(0o755)
    rows = [
        {"prompt": f"{i}: tokens={1 + i % 7}", "prompt_id": f"p{i}", "kind": "made"}
        for i in range(12)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ServingConfig(
        model="some/model",
        prompts=folder / "prompts.jsonl",
        out=folder / "out",
        orders=(Order("oracle"), Order("fcfs"), Order("prompt_length")),
        slots=2,
        max_tokens=6,
    )
    return config, program


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServingConfig:
    found, program = prepared(tmp_path)
    monkeypatch.setattr("pars_bench.server.vllm_program", lambda: str(program))
    return found


@dataclass(frozen=True)
class Done:
    """A comparison that several tests look at and none changes."""

    config: ServingConfig
    result: ServingResult
    started: list[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    config, program = prepared(tmp_path_factory.mktemp("done"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pars_bench.server.vllm_program", lambda: str(program))
        return Done(config, *measured(config))


def measured(config: ServingConfig) -> tuple[ServingResult, list[str]]:
    lines = Lines()
    result = run_serving(config, lines)
    return result, [line.partition(":")[0] for line in lines.said if "starting" in line]


def test_every_order_gives_rows_of_the_same_requests(done: Done) -> None:
    config, result = done.config, done.result
    assert done.started == ["fcfs", "oracle", "prompt_length"]
    report = read_report(config.out / "report.json")
    assert report == result.report
    assert [(run["policy"], run["arrivals"]) for run in report["runs"]] == [
        (policy, pattern) for pattern in ("burst", "poisson") for policy in done.started
    ]
    assert all(run["requests"] == 12 and run["preemptions"] == 0 for run in report["runs"])
    assert all(run["cut_share"] == pytest.approx(1 / 12) for run in report["runs"])
    rows = pq.read_table(config.out / "requests.parquet").to_pandas()
    assert len(rows) == 3 * 2 * 12
    assert rows.request_id.is_unique
    by_run = [group for _, group in rows.groupby(["policy", "arrivals"])]
    for group in by_run:
        assert group.prompt_id.tolist() == by_run[0].prompt_id.tolist() != sorted(group.prompt_id)
    poisson = rows[rows.arrivals == "poisson"]
    assert poisson.groupby("index").arrival_s.nunique().max() == 1  # the same for all orders
    burst = rows[(rows.arrivals == "burst") & (rows.policy == "fcfs")]
    assert burst.arrival_s.max() == 0
    rate = report["environment"]["settings"]["poisson_rate_per_s"]  # type: ignore[index]  # JSON
    ends = sorted(rows[(rows.arrivals == "burst") & (rows.policy == "fcfs")].ttlt)
    assert rate == pytest.approx(1.1 * 10 / ends[9])  # two slots: the last two finish the tail
    loads = [run["offered_load"] for run in report["runs"] if run["policy"] == "fcfs"]
    assert loads == [None, pytest.approx(1.1)]
    assert (config.out / "report.html").is_file()
    assert len(list((config.out / "plots").glob("*.png"))) == 6


def test_the_server_is_told_the_order(done: Done) -> None:
    config = done.config
    fcfs, oracle, length = (
        (config.out / "logs" / f"{name}.log").read_text()
        for name in ("fcfs", "oracle", "prompt_length")
    )
    for log in (fcfs, oracle, length):
        assert "'--scheduler-cls', 'pars_vllm.ParsScheduler'" in log
        assert "'--max-num-seqs', '2'" in log
        assert "'--no-enable-prefix-caching'" in log
    assert '{"pars": {"ranking": "off"}}' in fcfs
    assert json.dumps(str(config.out / "orders" / "oracle")) in oracle
    assert json.dumps(str(config.out / "orders" / "prompt_length")) in length


def test_the_scheduler_s_own_counters_are_reported(done: Done) -> None:
    scorers = {run["policy"]: run["scorer"] for run in done.result.report["runs"]}
    assert scorers["fcfs"] is None
    assert scorers["oracle"] == {"requests": 9, "scored": 8, "unknown": 1}


def test_a_scorer_that_never_gets_ready_is_no_benchmark(
    config: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SCORER_READY", "never said")
    monkeypatch.setattr(live, "SCORER_TIMEOUT_S", 0.5)
    with pytest.raises(ServingError, match=r"^oracle, warm-up: the scorer process was not ready"):
        measured(config)


def test_a_scorer_is_heard_of_only_by_an_engine_at_work(
    config: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_SCORER_START_S", "2")  # long after the warm-up
    monkeypatch.setattr(live, "SCORER_TIMEOUT_S", 20.0)
    sent: list[int] = []

    async def counted(load: Load, prompts: Sequence[Prompt], *rest: object) -> object:
        sent.append(len(prompts))
        return await drive(load, prompts, *rest)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(live, "drive", counted)
    both = replace(config, orders=(Order("fcfs"), Order("prompt_length")))
    result, _ = measured(both)
    assert sent[:4] == [2, 2, 12, 12]  # arrival order has nothing to wait for
    assert sent[4:6] == [2, 2]
    assert sent[-2:] == [12, 12]
    waited = sent[6:-2]
    assert len(waited) > 1
    assert set(waited) == {1}
    assert all(run["requests"] == 12 for run in result.report["runs"])


def test_the_sign_that_is_waited_for_is_the_one_the_scheduler_gives() -> None:
    source = (files("pars_vllm") / "scorer.py").read_text(encoding="utf-8")
    assert live.SCORER_READY in source


def test_the_oracle_holds_the_lengths_measured_in_arrival_order(done: Done) -> None:
    from pars_export import Predictor

    oracle = Predictor.load(done.config.out / "orders" / "oracle")
    assert oracle.score(["0: tokens=1", "4: tokens=5", "6: tokens=7"]).tolist() == [1, 5, 6]


def test_only_what_is_missing_is_measured(config: ServingConfig) -> None:
    both = replace(config, orders=(Order("fcfs"), Order("prompt_length")))
    assert measured(replace(config, orders=(Order("fcfs"),)))[1] == ["fcfs"]
    first, started = measured(both)
    assert started == ["prompt_length"]
    second, started = measured(both)
    assert started == []
    assert second.report == first.report
    # The rate is a measurement, never twice the same: without arrival order all is measured again.
    (config.out / "runs" / "fcfs.json").write_text('{"digest": "half')
    assert measured(both)[1] == ["fcfs", "prompt_length"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"slots": 3},
        {"max_tokens": 5},
        {"load": 2.0},
        {"requests": 11},
        {"max_model_len": 4096},
        {"model": "another/model"},
        {"server_args": ("--kv-cache-dtype", "fp8")},
    ],
)
def test_a_changed_setting_makes_old_runs_void(
    config: ServingConfig, change: Mapping[str, object]
) -> None:
    changed = replace(config, **change)  # type: ignore[arg-type]  # one setting each

    def digest(of: ServingConfig) -> str:
        return serving._digest(of, Order("fcfs"), serving._choose_prompts(of), None, {})

    assert digest(config) == digest(config)
    assert digest(changed) != digest(config)


@pytest.mark.parametrize(
    ("name", "value", "counts"),
    [("OMP_NUM_THREADS", "7", True), ("VLLM_CPU_KVCACHE_SPACE", "3", True), ("HOME", "/x", False)],
)
def test_the_environment_makes_old_runs_void_where_it_changes_the_speed(
    config: ServingConfig, monkeypatch: pytest.MonkeyPatch, name: str, value: str, counts: bool
) -> None:
    prompts = serving._choose_prompts(config)
    before = serving._digest(config, Order("fcfs"), prompts, None, {})
    monkeypatch.setenv(name, value)
    assert (serving._digest(config, Order("fcfs"), prompts, None, {}) != before) is counts


@pytest.mark.parametrize("of", ["pars_vllm", "pars_export", "vllm", "vllm-cpu"])
def test_other_code_makes_old_runs_void(
    config: ServingConfig, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    prompts = serving._choose_prompts(config)
    before = serving._digest(config, Order("fcfs"), prompts, None, {})
    kind = "sources_digest" if of.startswith("pars") else "_version"
    original = getattr(provenance, kind)
    monkeypatch.setattr(provenance, kind, lambda name: "new" if name == of else original(name))
    assert serving._digest(config, Order("fcfs"), prompts, None, {}) != before


def test_other_scheduler_settings_make_old_runs_void(
    config: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = serving._choose_prompts(config)

    def digest() -> str:
        return serving._digest(config, Order("oracle"), prompts, 1.0, {})

    before = digest()
    assert before == digest()
    monkeypatch.setattr(serving, "scheduler_arguments", lambda *_: ("--additional-config", "{}"))
    assert digest() != before


def test_the_report_says_when_each_order_was_measured(done: Done) -> None:
    moments = done.result.report["environment"]["measured_at"]
    assert isinstance(moments, dict)
    assert list(moments) == done.started
    parsed = [datetime.fromisoformat(moment) for moment in moments.values()]
    assert all(moment.utcoffset() == timedelta(0) for moment in parsed)
    assert parsed == sorted(parsed)
    page = (done.config.out / "report.html").read_text()
    assert all(moment in page for moment in moments.values())


def test_a_changed_predictor_prompt_or_length_makes_old_runs_void(
    config: ServingConfig, tmp_path: Path
) -> None:
    from pars_export.table import write_table_predictor

    folder = tmp_path / "predictor"
    prompts = serving._choose_prompts(config)
    pars, oracle = Order("pars", folder), Order("oracle")
    write_table_predictor(folder, {"a": 1.0})
    before = serving._digest(config, pars, prompts, 1.0, {})
    write_table_predictor(folder, {"a": 2.0})
    assert serving._digest(config, pars, prompts, 1.0, {}) != before
    known = serving._digest(config, oracle, prompts, 1.0, {"a": 1})
    assert serving._digest(config, oracle, prompts, 1.0, {"a": 2}) != known
    assert serving._digest(config, oracle, prompts, 1.5, {"a": 1}) != known
    assert serving._digest(config, oracle, prompts[1:], 1.0, {"a": 1}) != known


def test_a_failed_request_fails_the_run_and_keeps_what_is_finished(config: ServingConfig) -> None:
    good = config.prompts.read_text()
    config.prompts.write_text(good.replace("3: tokens=4", "3: fail"))
    with pytest.raises(ServingError, match=r"^fcfs, burst: 1 of 12 requests failed.*p3: HTTP 400"):
        measured(config)
    assert not (config.out / "report.json").exists()
    assert not list((config.out / "runs").glob("*")) if (config.out / "runs").exists() else True


@pytest.mark.parametrize("pattern", ["burst", "poisson"])
def test_answers_of_another_than_our_server_are_no_measurement(
    config: ServingConfig, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    checks: list[None] = []

    def ended(_: Server) -> None:
        checks.append(None)
        if len(checks) == {"burst": 2, "poisson": 3}[pattern]:  # the first follows the warm-up
            raise ServingError("the server's process ended with status -9")

    monkeypatch.setattr(Server, "check", ended)
    with pytest.raises(ServingError, match=f"^fcfs, {pattern}: the server's process ended with"):
        measured(config)
    assert not (config.out / "runs").exists()


def test_facts_measured_elsewhere_come_first_and_nulls_do_not_hide(
    config: ServingConfig, tmp_path: Path
) -> None:
    from pars_export.table import write_length_predictor

    folder = tmp_path / "predictor"
    write_length_predictor(folder)
    config = replace(
        config,
        orders=(Order("fcfs"), Order("pars", folder)),
        predictor_facts={"tau": 0.5, "ceiling": 0.7, "milliseconds": None},
    )
    result, started = measured(config)
    assert started == ["fcfs", "pars"]
    predictor = result.report["predictor"]
    assert (predictor["tau"], predictor["ceiling"]) == (0.5, 0.7)
    assert predictor["served_tau"] != 0.5
    milliseconds = predictor["milliseconds"]
    assert isinstance(milliseconds, float)
    assert milliseconds > 0
    assert result.report["runs"][0]["oracle_gap_closed"] is None  # no oracle was measured


def test_no_name_of_this_machine_or_path_is_reported(done: Done) -> None:
    config = done.config
    import getpass
    import platform

    text = (config.out / "report.json").read_text() + (config.out / "report.html").read_text()
    assert str(config.out) not in text
    assert str(Path.cwd()) not in text
    assert platform.node() not in text
    assert f"/{getpass.getuser()}/" not in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"slots": 0}, "slots is 0: expected at least 1"),
        ({"load": 0.0}, "load is 0.0: expected more than 0"),
        ({"requests": 13}, "holds 12 prompts and 13 requests"),
        ({"requests": 1}, "expected at least 2"),
        ({"orders": (Order("oracle"),)}, "--order fcfs is missing"),
        ({"orders": (Order("fcfs"), Order("fcfs"))}, "--order fcfs is given twice"),
    ],
)
def test_settings_out_of_range_are_refused_before_a_server_starts(
    config: ServingConfig, change: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        measured(replace(config, **change))  # type: ignore[arg-type]  # one setting each
    assert not (config.out / "logs").exists()


def test_a_missing_predictor_is_refused_before_a_server_starts(config: ServingConfig) -> None:
    orders = (Order("fcfs"), Order("pars", config.out / "none"))
    with pytest.raises(PredictorError):
        measured(replace(config, orders=orders))
    assert not (config.out / "logs").exists()


def test_orders_by_name() -> None:
    assert parse_order("fcfs") == Order("fcfs")
    assert parse_order("pars=a/b") == Order("pars", Path("a/b").resolve())
    assert [order.policy for order in check_orders((Order("oracle"), Order("fcfs")))] == [
        "fcfs",
        "oracle",
    ]
    for text, sentence in (
        ("sjf", "unknown order 'sjf'; known: fcfs, pars, oracle, prompt_length"),
        ("pars", "write --order pars=DIR"),
        ("oracle=x", "oracle takes no folder"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            parse_order(text)


def test_arrival_order_goes_through_the_same_class() -> None:
    off, on = scheduler_arguments("fcfs", None), scheduler_arguments("pars", Path("/x"))
    assert (
        off[:3] == on[:3] == ("--scheduler-cls", "pars_vllm.ParsScheduler", "--additional-config")
    )
    assert json.loads(off[3]) == {"pars": {"ranking": "off"}}
    assert json.loads(on[3]) == {"pars": {"predictor": "/x", "cache_entries": 0}}


def test_an_order_to_compare_with_never_falls_back_to_arrival_order() -> None:
    for policy in ("oracle", "prompt_length"):
        settings = json.loads(scheduler_arguments(policy, Path("/x"))[3])["pars"]
        assert settings["min_concordance"] == 0


def test_a_folder_is_served_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "smol").mkdir()
    assert served_name(str(tmp_path / "smol")) == "smol"
    assert served_name("org/model") == "org/model"


def test_command_line_settings_reach_the_run(
    config: ServingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    serving.add_arguments(parser)
    arguments = ["--model", "m", "--prompts", str(config.prompts), "--out", str(config.out)]
    options = ["--order", "fcfs", "--requests", "4", "--slots", "2", "--max-tokens", "6"]
    assert serving.run(parser.parse_args(arguments + options)) == 0
    printed = capsys.readouterr()
    assert "Burst, 4 requests" in printed.out
    assert "fcfs poisson: 4/4 requests" in printed.err
