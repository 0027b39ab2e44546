"""`pars replay` from a trace to its report, resumed, and what it refuses."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import pytest

from pars_bench.replay import sweep
from pars_bench.replay.cells import Cell, run_cell
from pars_bench.replay.hardware import GPUS
from pars_bench.replay.plan import ReplayConfig, make_sweep, vllm_defaults
from pars_export.artifact import DEFAULT_PREDICTOR
from pars_export.errors import InputError
from pars_model.__main__ import main


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    lines = ["arrival_s,prompt_tokens,output_tokens,tenant"]
    lines += [f"{i / 100},{20 + i % 7},{(i * 37) % 60 + 1},team {i % 2}" for i in range(60)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


SMALL = ["--max-num-seqs", "2", "--orders", "fcfs", "oracle", "--kv-blocks", "2000"]


def test_a_trace_becomes_a_report_and_a_second_call_runs_nothing(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["replay", "--trace", str(trace), "--out", str(tmp_path / "out"), *SMALL]
    assert main([*arguments, "--load", "1", "2", "--seed", "0", "1"]) == 0
    printed = capsys.readouterr()
    assert "load 2, seed 1, oracle: mean time to last token" in printed.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(run["load"], run["seed"]) for run in report["runs"]] == [
        *([(1.0, 0)] * 2),
        *([(2.0, 0)] * 2),
        *([(1.0, 1)] * 2),
        *([(2.0, 1)] * 2),
    ]
    assert len(report["over_seeds"]) == 4
    assert {each["seeds"] for each in report["over_seeds"]} == {2}
    assert report["traffic"]["requests"] == 60
    assert "by_seed" not in report["traffic"]

    def never(*_: object) -> None:
        raise AssertionError("it was run before")

    monkeypatch.setattr(sweep, "run_cell", never)
    assert main([*arguments, "--slo", "ttft=1"]) == 0
    assert "2 of 2 cells were run before" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").is_file()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [each["measure"] for each in report["runs"][0]["slo"]] == ["ttft"]


def test_every_seed_says_which_window_it_kept(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["replay", "--trace", str(trace), "--out", str(out), *SMALL]
    assert main([*arguments, "--max-requests", "9", "--seed", "0", "1"]) == 0
    traffic = json.loads((out / "report.json").read_text())["traffic"]
    kept = {seed: facts["kept"] for seed, facts in traffic["by_seed"].items()}
    assert list(kept) == ["0", "1"]
    assert kept["0"] == traffic["kept"] != kept["1"]
    page = (out / "report.html").read_text()
    for seed, words in kept.items():
        assert f"Of the traffic was replayed with seed {seed}: {escape(words)}." in page


def test_an_interrupted_sweep_goes_on_where_it_was(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["replay", "--trace", str(trace), "--out", str(tmp_path / "out"), *SMALL]
    ran: list[str] = []

    def interrupted(cell: Cell, out: Path, progress: object) -> None:
        if ran:
            raise KeyboardInterrupt
        ran.append(cell.name)
        run_cell(cell, out, lambda _done, _total: None)

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "run_cell", interrupted)
        assert main(arguments) == 130
    assert not (tmp_path / "out" / "report.json").exists()
    assert main(arguments) == 0
    assert "1 of 2 cells were run before" in capsys.readouterr().err


def digests(trace: Path, **options: object) -> list[str]:
    config = ReplayConfig(trace, max_num_seqs=2, **options)  # type: ignore[arg-type]  # by name
    return [cell.digest for cell in make_sweep(config).cells()]


def test_a_cell_is_void_when_anything_that_it_hangs_on_changes(trace: Path) -> None:
    base = digests(trace, orders=("pars",))
    changes: list[dict[str, object]] = [
        {"max_num_seqs": 3},
        {"tau": (0.6,)},
        {"load": (2.0,)},
        {"seed": (1,)},
        {"gpu": "h200"},
        {"asynchronous": False},
        {"patience": 3.0},
        {"score_rate": 9.0},
        {"arrivals": "poisson", "rate": 3.0},
    ]
    for change in changes:
        config = {"max_num_seqs": 2, "orders": ("pars",), **change}
        other = [cell.digest for cell in make_sweep(ReplayConfig(trace, **config)).cells()]  # type: ignore[arg-type]  # by name
        assert other != base, change
    assert digests(trace, orders=("pars",)) == base
    trace.write_text(trace.read_text() + "9,5,5,\n")
    assert digests(trace, orders=("pars",)) != base


def test_a_cell_is_void_when_code_that_it_runs_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [{"prompt": f"Say {n}.", "output_tokens": n} for n in range(1, 9)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = {"orders": ("fcfs", "pars"), "predictor": DEFAULT_PREDICTOR}
    base = digests(trace, **choice)

    def changed(part: str) -> list[bool]:
        """Whether arrival order's cell and the predictor's are void."""
        with monkeypatch.context() as patched:
            for name in ("sources_digest", "sha256_file", "version"):
                real = getattr(sweep, name)

                def other(*args: object, real: Any = real, **more: object) -> str:
                    found: str = real(*args, **more)
                    return f"not {found}" if part in str(args[0]) else found

                patched.setattr(sweep, name, other)
            now = digests(trace, **choice)
        return [new != old for new, old in zip(now, base, strict=True)]

    for part in ("pars_vllm", "pars_bench.replay", "arrivals.py", "modelless.py", "numpy"):
        assert changed(part) == [True, True], part
    for part in ("pars_export", "onnxruntime", "tokenizers"):
        assert changed(part) == [False, True], part
    assert changed("nothing") == [False, False]


def test_a_cell_of_a_mix_is_void_when_one_of_its_traces_changes(
    trace: Path, tmp_path: Path
) -> None:
    mix = tmp_path / "mix.json"
    mix.write_text(json.dumps({"rate": 5, "parts": [{"trace": trace.name, "share": 1}]}))
    base = digests(mix, orders=("fcfs",))
    assert digests(mix, orders=("fcfs",)) == base
    trace.write_text(trace.read_text().replace("0.59,23,24", "0.59,23,25"))
    assert digests(mix, orders=("fcfs",)) != base
    trace.unlink()
    with pytest.raises(InputError, match=r"mix\.json names .*trace\.csv: there is no such file"):
        digests(mix, orders=("fcfs",))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--llm", "llama-3.1-70b", "--tp", "1"], "does not fit on 1 x h100"),
        (["--tp", "3"], "cannot be split into 3 equal parts"),
        (["--orders", "magic"], "--orders magic: unknown order"),
        (["--orders", "fcfs", "rerun"], "60 of 60 requests have none"),
        (["--predictor", str(DEFAULT_PREDICTOR)], "60 of 60 requests of the traffic have no text"),
        (["--slo", "speed=3"], "--slo speed=3: expected NAME=SECONDS"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--load", "1", "1"], "--load: expected one or more values, each given once"),
        (["--load", "0"], "load is 0.0"),
        (["--max-model-len", "10"], "but the longest context is 10"),
        (["--max-model-len", "9999999"], "--max-model-len is 9999999: expected 2 to"),
        (["--kv-blocks", "1"], "kv_blocks is 1"),
        (["--kv-blocks", "0"], "kv_blocks is 0: expected at least 2"),
        (["--kv-blocks", "99999"], "--kv-blocks is 99999: expected at most 29"),
        (["--llm", "deepseek-r1", "--gpu", "rtx4090", "--kv-blocks", "2000"], "does not fit on"),
        (["--max-num-seqs", "0"], "max_num_seqs is 0: expected at least 1"),
        (["--max-num-batched-tokens", "0"], "max_num_batched_tokens is 0: expected at least"),
        (["--max-num-batched-tokens", "1"], "max_num_batched_tokens is 1"),
        (["--gpu-memory-utilization", "2"], "--gpu-memory-utilization is 2.0"),
        (["--score-rate", "0"], "--score-rate is 0.0"),
        (["--score-rate", "inf"], "--score-rate is inf: expected a finite number"),
        (["--step-overhead", "nan"], "--step-overhead is nan: expected 0 to 60 seconds"),
        (["--step-overhead", "inf"], "--step-overhead is inf"),
        (["--step-overhead", "-1"], "--step-overhead is -1.0"),
        (["--slo", "ttft=inf"], "--slo ttft=inf: expected NAME=SECONDS"),
        (["--seed", "0", "-1"], "--seed is -1: expected 0 to"),
        (["--seed", str(2**63)], "--seed is 9223372036854775808: expected 0 to"),
        (["--arrivals", "gamma:1e-200", "--rate", "1"], "expected a positive number after the col"),
        (["--arrivals", "gamma:1e200", "--rate", "1"], "expected a positive number after the col"),
        (["--score-latency", "-1"], "--score-latency is -1.0"),
        (["--share", "2"], "--share is 2.0"),
        (["--predictor", "nowhere"], "nowhere"),
        (["--fit", "nowhere.csv"], "--fit nowhere.csv cannot be read"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    trace: Path,
    tmp_path: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(["replay", "--trace", str(trace), "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("pars: error: ")
    assert sentence in error
    assert not out.exists()  # nothing ran


def test_a_trace_of_one_length_is_replayed_with_nothing_but_noise(tmp_path: Path) -> None:
    trace, out = tmp_path / "trace.csv", tmp_path / "out"
    trace.write_text("prompt_tokens,output_tokens\n" + "20,7\n" * 5)
    assert main(["replay", "--trace", str(trace), "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "score model, tau 0.5: its scores are noise and have no tau, for all" in page


def test_left_open_the_gpus_hold_the_longest_context(trace: Path) -> None:
    for llm, gpu, degree in (
        ("llama-3.1-8b", "h100", 1),
        ("llama-3.1-70b", "h100", 4),
        ("llama-3.1-8b", "rtx4090", 2),
        ("deepseek-r1", "h200", 8),
    ):
        setting = make_sweep(ReplayConfig(trace, llm=llm, gpu=gpu)).setting
        assert setting.step_time.facts()["tensor_parallel"] == degree
        assert setting.engine.kv_tokens >= setting.engine.max_model_len


def test_kv_blocks_change_the_cache_and_not_the_gpus(trace: Path, tmp_path: Path) -> None:
    setting = make_sweep(ReplayConfig(trace, kv_blocks=2000)).setting
    assert setting.engine.kv_blocks == 2000
    assert setting.step_time.facts()["tensor_parallel"] == 1
    steps = tmp_path / "steps.csv"
    rows = [f"{n},{10 * n},{0.01 + n / 1000}\n" for n in range(1, 13)]
    steps.write_text("tokens,context,seconds\n" + "".join(rows))
    measured = ReplayConfig(trace, llm="deepseek-r1", gpu="rtx4090", kv_blocks=2000, fit=steps)
    assert make_sweep(measured).setting.engine.kv_blocks == 2000


def test_batches_are_as_large_as_vllm_would_make_them() -> None:
    assert {name: vllm_defaults(gpu) for name, gpu in GPUS.items()} == {
        "h100": (1024, 8192),
        "h200": (1024, 8192),
        "a100": (256, 2048),
        "rtx4090": (256, 2048),
    }
