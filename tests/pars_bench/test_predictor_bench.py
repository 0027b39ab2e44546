"""`pars bench predictor`: fair turns, a floor that is worked out right, a run that goes on."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_predictor import tiny_config, tiny_tokenizer_json, write_tiny_predictor

from pars_bench.predictor import baselines, bench, cells, processes, speed
from pars_bench.predictor.contestants import Contestant, choose
from pars_bench.predictor.goals import sentences
from pars_bench.predictor.grid import QUICK
from pars_bench.predictor.page import losses, render
from pars_bench.predictor.products import Products, products_name
from pars_bench.predictor.rates import OPERATIONS, UNITS, rate_calls
from pars_bench.predictor.report import (
    PredictorReport,
    SpeedCell,
    over_floor,
    over_floor_exchanged,
    over_floor_of_products,
    rates_of,
)
from pars_bench.predictor.roundings import Roundings, roundings_name
from pars_bench.predictor.texts import TextMaker, repeated
from pars_bench.predictor.work import Work, products_of, work_of_encoder, work_of_student
from pars_export.artifact import DEFAULT_PREDICTOR, read_manifest
from pars_export.errors import ConfigError
from pars_export.inputs import InputSpec, TextTokenizer
from pars_export.int8 import store_int8
from pars_export.runtimes import RUNTIMES
from pars_export.table import write_table_predictor
from pars_model.__main__ import main
from pars_model.experiments.linear_folder import write_linear
from pars_model.lengths import read_lengths

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
RATES = {"float32": 1e11, "int8": 2e11, "memory": 1e10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_predictor(tmp_path_factory.mktemp("bench") / "tiny")


def test_work_of_an_encoder_by_its_published_sizes() -> None:
    work = work_of_encoder(MINILM, "onnx")
    # 10.6 million weights in six layers, two operations each; 384 wide: 4 x 384 x 6 by attention.
    assert work.weights == 2 * 10_616_832
    assert work.attention == 9216
    assert work.weight_bytes == 4 * 10_616_832
    assert work_of_encoder(MINILM, "onnx-bf16").weight_bytes == 2 * 10_616_832
    assert work_of_encoder(baselines.BERT_BASE, "torch").weights == 2 * 84_934_656
    assert work_of_encoder(baselines.OPT_125M, "torch").weights == 2 * 84_934_656


def test_the_floor_is_the_longer_of_computing_and_reading() -> None:
    work = Work("int8", weights=200, attention=10, text=400, weight_bytes=50, row_bytes=5)
    rates = {"float32": 10.0, "int8": 100.0, "memory": 1e9}
    # (3 + 5 tokens) x 200 and two texts x 400 in int8; (9 + 25) x 10 in float32
    assert work.floor([3, 5], rates) == pytest.approx((8 * 200 + 2 * 400) / 100 + 34 * 10 / 10)
    assert work.floor([3, 5], rates | {"memory": 0.5}) == pytest.approx((50 + 8 * 5) / 0.5)


def test_what_a_student_does_not_read_costs_it_nothing() -> None:
    work = Work("float32", 100, 0, 0, 0, 0, most_tokens=4)
    assert work.floor([4], RATES) == work.floor([400], RATES) > work.floor([3], RATES)


def test_texts_have_exactly_the_tokens_asked_for(folder: Path) -> None:
    tokenizer = TextTokenizer(folder / "tokenizer.json", InputSpec(max_length=128))
    maker = TextMaker(tokenizer, ["what is the moon", "write a wonderful story"])
    for length in (3, 16, 128):
        texts = maker.draw(length, 5)
        assert [len(ids) for ids in tokenizer.encode(texts)] == [length] * 5
    assert len(set(maker.draw(16, 5))) == 5
    with pytest.raises(ConfigError, match="none of their words is one token"):
        TextMaker(tokenizer, ["zzz 12 !"])
    assert repeated(["a", "b"], 5) == ["a", "b", "a", "b", "a"]


def test_everyone_has_turns_and_the_first_round_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[str] = []

    def sample(call: object, often: int) -> tuple[float, float]:
        assert callable(call)
        call()
        return float(len(turns)), 1 / len(turns)

    monkeypatch.setattr(speed, "_sample", sample)
    found = speed.take_turns({name: lambda n=name: turns.append(n) for name in "abc"}, 2, threads=2)  # type: ignore[misc]
    assert "".join(turns) == "abcbcacab"
    assert found["a"] == {"seconds": [6.0, 8.0], "cores": (1 / 8, 1 / 6)}
    assert found["b"]["seconds"] == [4.0, 9.0]
    turns.clear()
    # With one thread it is CPU time: of 6 seconds it ran a sixth, and so on.
    found = speed.take_turns({name: lambda n=name: turns.append(n) for name in "abc"}, 2, threads=1)  # type: ignore[misc]
    assert found["a"]["seconds"] == [1.0, 1.0]


def test_a_run_that_is_interrupted_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, page = tmp_path / "out.json", tmp_path / "docs" / "page.md"
    other = shutil.copytree(folder, tmp_path / "other")
    command = ["bench", "predictor", str(folder), str(other), "--json", str(out)]
    command += ["--markdown", str(page), "--quick", "--baselines", "none"]
    # Importing torch takes longer than all of the rest.
    monkeypatch.setitem(RUNTIMES, "torch", replace(RUNTIMES["torch"], auto=False))
    started: list[str] = []
    real = processes.measure_start

    def interrupted(contestant: Contestant, *rest: object) -> object:
        if started:
            raise KeyboardInterrupt
        started.append(contestant.name)
        return real(contestant, *rest)  # type: ignore[arg-type]

    def counted(contestant: Contestant, *rest: object) -> object:
        started.append(contestant.name)
        return real(contestant, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cells, "measure_start", interrupted)
    assert main(command) == 130
    assert not out.exists()
    monkeypatch.setattr(cells, "measure_start", counted)
    assert main(command) == 0
    assert started == ["tiny onnx", "other onnx"]  # the first one was not measured again
    assert not out.with_name("out.json.cells").exists()

    report = bench.read_report(out)
    assert list(report["contestants"]) == ["tiny onnx", "other onnx"]
    assert [entry["auto"] for entry in report["contestants"].values()] == [True, True]
    assert [(cell["length"], cell["batch"]) for cell in report["speed"]] == [
        (16, 1),
        (16, 4),
        (32, 1),
        (32, 4),
    ]
    assert report["predictors"].keys() == {"tiny", "other"}
    for name in ("tiny onnx", "other onnx"):
        parity = report["contestants"][name]["parity"]
        assert parity is not None
        assert parity["max_abs_diff"] <= parity["bound"]
    for cell in report["speed"]:
        products = {products_name(name, "float32") for name in ("tiny", "other")}
        assert set(cell["speeds"]) == {*UNITS, *products, *report["contestants"]}
        for found in cell["speeds"].values():
            assert len(found["seconds"]) == 2
            assert min(found["seconds"]) > 0
            assert found["cores"][1] < 1.1  # bound to one CPU, whatever a library would like
    onnx = report["starts"]["tiny onnx"]
    assert onnx["imported"] == ["onnxruntime"]  # loading a predictor imports no training code
    assert onnx["cpu_seconds"][0] > 0
    assert onnx["peak_mib"][0] is not None
    assert onnx["resident_mib"][0] is not None
    assert onnx["peak_mib"][0] >= onnx["resident_mib"][0] > 20
    (burst,) = report["bursts"]
    assert burst["seconds"].keys() == {"tiny onnx", "other onnx"}
    few = burst["few"]
    assert few["prompts"] == 32
    for ways in (few["together"], few["alone"]):
        assert ways.keys() == {"tiny onnx", "other onnx"}
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in ways.values())
    assert len(report["burst_lengths"]["tiny"]) == burst["prompts"]
    assert report["orders"]["tiny onnx"]["prompts"] == 400
    assert not report["orders"]["tiny onnx"]["seen"]

    text = page.read_text()
    assert "`pars bench predictor" in text
    assert "| ms a prompt, 32 in one call | ms a prompt, one by one |" in text
    for name in ("latency", "floor"):
        picture = page.with_name(f"page-{name}.svg")
        assert f"]({picture.name})" in text
        assert "tiny onnx" in picture.read_text()
    before = {path: path.read_bytes() for path in page.parent.iterdir()}
    assert main([*command[:2], "--json", str(out), "--markdown", str(page), "--page-only"]) == 0
    assert {path: path.read_bytes() for path in page.parent.iterdir()} == before


def test_large_calls_are_the_folders_own_alone(folder: Path) -> None:
    everyone = choose([folder], ["ngram-ridge"])
    own, baseline = (each.name for each in everyone if each.what in ("onnx", "ngram-ridge"))
    grid = replace(QUICK, lengths=(32,), batches=(4, 128), rounds=2)
    assert grid.shapes() == [(32, 4), (32, 128)]
    assert [grid.rounds_of(*shape) for shape in grid.shapes()] == [2, 1]
    speeds = speed.Speeds(everyone, 1, 32, bench.PROMPTS)
    for shape in grid.shapes():
        names = speeds.cell(*shape, rounds=1).keys()
        assert own in names
        assert (baseline in names) == (shape == (32, 4))


def test_baselines_score_what_they_are_given(folder: Path) -> None:
    tiny = tiny_config(tiny_tokenizer_json())
    manifest = read_manifest(folder)
    texts = ["what is the moon", "write a story of ten words"]
    decoder = {**baselines.OPT_125M, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64}
    decoder |= {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 8}
    openers = {
        "bert": baselines.open_eager(tiny, "cls"),
        "opt": baselines.open_eager(decoder, "mean"),
        "pipeline": baselines.OPEN["pipeline"],
    }
    for name, opener in openers.items():
        scores = opener(folder, manifest, 1).score(texts)
        assert scores.shape == (2,), name
        assert np.isfinite(scores).all(), name
        assert scores[0] != scores[1], name


def report_of(name: str, entry: dict[str, object], ms: float, bert_ms: float) -> PredictorReport:
    """A report with one predictor, whose every figure follows from two times of a prompt."""
    seconds = {name: ms / 1e3, "BERT": bert_ms / 1e3}
    seconds |= {rate: amount / (OPERATIONS / 20e-3) for rate, (_, amount) in UNITS.items()}
    work = {"precision": "float32", "weights": 1e6, "attention": 0.0, "text": 0.0}
    work |= {"weight_bytes": 0.0, "row_bytes": 0.0, "most_tokens": None}
    value = {
        "environment": {"cores": 2},
        "settings": {"command": "pars bench predictor x --json OUT", "rounds": 3},
        "predictors": {"x": "ab" * 32},
        "contestants": {
            name: {
                "folder": "x",
                "auto": True,
                "large": False,
                "work": work,
                "parity": {"max_abs_diff": 0.08, "bound": 0.29, "tau": 0.9912, "prompts": 500},
                **entry,
            },
            "BERT": {
                "what": "bert-base",
                "folder": None,
                "auto": False,
                "large": True,
                "work": None,
                "parity": None,
            },
        },
        "speed": [
            {
                "threads": 1,
                "length": 32,
                "batch": 1,
                "speeds": {
                    n: {"seconds": [s] * 3, "cores": [0.5, 1.0]} for n, s in seconds.items()
                },
            }
        ],
        "starts": {
            n: {
                "seconds": [ms / 5],
                "cpu_seconds": [ms / 10],
                "resident_mib": [ms * 50],
                "peak_mib": [500.0],
                "imported": [],
            }
            for n in (name, "BERT")
        },
        "bursts": [{"threads": 1, "prompts": 2000, "seconds": {name: [ms] * 3}}],
        "burst_lengths": {"x": [40] * 2000},
        "orders": {
            name: {"tau": 0.5, "interval": [0.4, 0.6], "prompts": 400, "of": {}, "seen": False}
        },
    }
    found: PredictorReport = json.loads(json.dumps(value))
    return found


def test_goals_are_judged_by_the_numbers() -> None:
    # 32 tokens x 1e6 operations at 2 ** 31 in 20 ms: 0.298 ms at least
    fast = report_of("x onnx", {"what": "onnx"}, ms=0.4, bert_ms=5.0)
    (cell,) = fast["speed"]
    assert rates_of(fast, cell)["float32"] == pytest.approx(OPERATIONS / 20e-3)
    # Its own products, where they are faster than those of large matrices: 32e6 in .2 ms.
    alone = {"seconds": [0.2e-3] * 3, "cores": (1.0, 1.0)}
    quick: SpeedCell = {**cell, "speeds": {**cell["speeds"], products_name("x", "float32"): alone}}  # type: ignore[dict-item]
    assert rates_of(fast, quick)["float32"] == pytest.approx(32e6 / 0.2e-3)
    assert over_floor(fast, fast["speed"][0], "x onnx") == pytest.approx(0.4 / 0.298, rel=1e-3)
    said = sentences(fast)
    assert "one thread: **reached**, holds in 1 of 1 shapes; 1.34 at best" in said[0]
    assert "10 times faster a prompt than BERT, one thread: **reached**" in said[1]
    assert "12.5 times at worst" in said[1]
    assert "tau than a trained BERT-base: **not compared**" in said[2]
    assert "the interpreter, one thread: **reached**, 0.04 s" in said[3]
    assert "**reached**, 0.04 s of CPU time and 20 MiB (0.08 s on the clock)" in said[3]
    assert "ranks 2,000 prompts of the demonstration in under 5 s, one thread: " in said[4]
    assert "under 5 s, one thread: **reached**, 0.4 s" in said[4]
    fast["settings"]["command"] = "pars bench predictor x --json OUT --prompts mine.txt"
    assert "ranks 2,000 prompts of `--prompts` in under 5 s" in sentences(fast)[4]
    assert losses(fast) == [
        "Nowhere is anything faster than what a folder is loaded with by default."
    ]

    slow = report_of("x onnx", {"what": "onnx"}, ms=20.0, bert_ms=10.0)
    slow["contestants"]["x onnx"]["work"]["weights"] = 1e7  # type: ignore[index]
    assert all("**missed**" in each for i, each in enumerate(sentences(slow)) if i != 2)
    assert sentences(slow)[4].endswith(
        " s, so nothing could whose products are no faster than the fastest in float32 measured "
        "here."
    )
    assert losses(slow)[0].startswith("BERT is faster than x onnx in 1 of 1 shapes; it takes 0.50")
    page = render(slow, [("page-latency.svg", "A caption.")])
    assert "**missed**" in page
    assert "after scoring 32 prompts of the demonstration in one call" in page
    assert "The prompts of the demonstration, all ranked in one call" in page
    assert "| **x onnx** | 0.08 | 0.29 | 0.9912 | 500 |" in page
    assert f"- `x`: sha256 {'ab' * 32}" in page

    student = report_of("x", {"what": "student"}, ms=0.7, bert_ms=10.0)
    assert "under 0.5 s, one thread: **missed**" in sentences(student)[-1]
    assert not any("times the floor of" in each for each in sentences(student))


def test_goals_say_how_many_shapes_of_the_grid_they_are_about() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=0.4, bert_ms=5.0)
    (cell,) = report["speed"]
    own: SpeedCell = {**cell, "speeds": {n: s for n, s in cell["speeds"].items() if n != "BERT"}}
    for batch in (4, 128):
        report["speed"].append({**own, "batch": batch})
    floors, bert, *_ = sentences(report)
    assert "holds in 2 of 2 shapes (of 3 from 32 tokens on; larger calls have no floor); " in floors
    assert "holds in 1 of 1 shapes (of 3; BERT takes no part in larger calls); 12.5 times" in bert


def test_the_floor_is_that_of_the_fastest_library_there_was() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=0.4, bert_ms=5.0)
    (cell,) = report["speed"]
    assert "fastest of numpy, onnxruntime and torch on matrices" in render(report, [])
    cell["speeds"]["float32, torch"]["seconds"] = [5e-3] * 3
    assert rates_of(report, cell)["float32"] == pytest.approx(OPERATIONS / 5e-3)
    del cell["speeds"]["float32, torch"]  # as results of before, or where it is not installed
    assert rates_of(report, cell)["float32"] == pytest.approx(OPERATIONS / 20e-3)
    assert "fastest of numpy and onnxruntime on matrices" in render(report, [])


@pytest.mark.parametrize("installed", [True, False])
def test_rates_are_of_the_libraries_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    calls = rate_calls(1)
    assert set(calls) == set(UNITS) - (set() if installed else {"float32, torch"})
    for call in calls.values():
        call()


def test_the_page_says_what_batching_is_worth_where_that_was_measured() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=4.0, bert_ms=5.0)
    before = render(report, [])
    assert "| | threads | prompts | seconds | floor, seconds |\n" in before
    assert "one by one" not in before
    report["bursts"][0]["few"] = {
        "prompts": 256,
        "together": {"x onnx": [0.512, 0.512]},
        "alone": {"x onnx": [0.256, 0.768]},
    }
    page = render(report, [])
    columns = "floor, seconds | ms a prompt, 256 in one call | ms a prompt, one by one |\n"
    assert columns + "|---|---:|---:|---:|---:|---:|---:|\n" in page
    assert "| 2 | 2 (1.5 to 2.5) |" in page
    assert "as above.\nBesides, 256 of them, evenly taken, were ranked in one call" in page


def test_some_prompts_of_a_burst_are_ranked_one_by_one_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = choose([folder], [])[0]
    speeds = speed.Speeds([own], 1, 32, bench.PROMPTS)
    calls: list[list[int]] = []

    def ranked(name: str, given: Sequence[Sequence[str]]) -> float:
        calls.append([len(each) for each in given])
        return 1.0

    monkeypatch.setattr(speeds, "_ranked", ranked)
    assert speeds.burst([own.name], 600, 256, 0) == {
        own.name: {"all": 1.0, "together": 1.0, "alone": 1.0}
    }
    assert calls == [[600], [256], [1] * 256]


def test_what_bounds_an_int8_engine() -> None:
    # Float32: 10 ms, of which 6 are products; those take 3.2 in int8, rounding 1, the engine 9.
    report = report_of("x onnx", {"what": "onnx"}, ms=10.0, bert_ms=80.0)
    work = report["contestants"]["x onnx"]["work"]
    assert work is not None
    report["contestants"]["x onnx-int8"] = {
        **report["contestants"]["x onnx"],
        "what": "onnx-int8",
        "work": {**work, "precision": "int8", "weights": 1e7},
    }
    for part in (report["starts"], report["orders"]):
        part["x onnx-int8"] = part["x onnx"]  # type: ignore[assignment]
    report["bursts"][0]["seconds"]["x onnx-int8"] = [1.0]
    (cell,) = report["speed"]
    for name, ms in (
        ("x onnx-int8", 9.0),
        (products_name("x", "float32"), 6.0),
        (products_name("x", "int8"), 3.2),
        (roundings_name("x"), 1.0),
    ):
        cell["speeds"][name] = {"seconds": [ms / 1e3] * 3, "cores": (1.0, 1.0)}
    floor = 32 * 1e7 / (OPERATIONS / 20e-3) * 1e3
    assert over_floor_of_products(report, cell, "x onnx-int8") == pytest.approx(3.2 / floor)
    for name, rounding, least in (
        ("x onnx-int8", False, (10 - 2.8) / floor),
        ("x onnx-int8", True, (10 - 1.8) / floor),
        ("x onnx", True, None),
    ):
        found = over_floor_exchanged(report, cell, name, rounding)
        assert found == (None if least is None else pytest.approx(least))
    (said,) = [each for each in sentences(report) if each.startswith("x onnx-int8 within")]
    assert "**missed**" in said
    assert "1 of the 1 missed would still be missed (2.42 to 2.42 times the floor)" in said
    assert "1 of the 1 missed would still be missed (2.75 to 2.75 times the floor)" in said
    cell["speeds"]["x onnx-int8"]["seconds"] = [0.0075]
    (said,) = [each for each in sentences(report) if each.startswith("x onnx-int8 within")]
    assert "1 of the 1 missed would still be missed (2.42 to 2.42 times the floor)" in said
    assert "by themselves: 1 in which the engine is faster than that estimate" in said
    page = render(report, [])
    assert "| *x onnx-int8: were rounding free* | 2.42 |" in page
    assert "| *x onnx-int8: rounding as by itself* | 2.75 |" in page
    del cell["speeds"][roundings_name("x")]
    assert over_floor_exchanged(report, cell, "x onnx-int8", rounding=True) is None


def test_what_a_student_computes_and_reads(tmp_path: Path) -> None:
    arrays = {"conv": np.zeros((3, 8, 16)), "hidden": np.zeros((39, 10))}
    np.savez(tmp_path / "student.npz", **arrays)  # type: ignore[arg-type]
    work = work_of_student(tmp_path, most_tokens=50)
    assert work is not None
    rates = {"float32": 1.0, "memory": 1e9}
    assert work.floor([10, 70], rates) == 2 * 2 * 390  # the hidden layer, once a text
    # Its weights once a call; of each of 60 tokens a row of subwords and a row of pairs.
    read = 4 * 390 + 60 * 2 * 4 * 3 * 16
    assert work.floor([10, 70], {"float32": 1e12, "memory": 1.0}) == read


def test_products_alone_are_those_of_the_encoder() -> None:
    assert sum(count * rows * columns for count, rows, columns in products_of(MINILM)) == 10_616_832
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16}
    for precision in ("float32", "int8"):
        Products(tiny, precision, 1).of(tokens=3)()


def test_rounding_alone_is_all_that_an_int8_engine_adds(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "int8.onnx"
    store_int8(folder / "model.onnx", file, [[4, 5, 6], [7, 8, 9, 4]])
    roundings = Roundings(file, threads=1)
    # Of each of two layers: what feeds query, key and value, what they give, both feed-forward
    # layers; and six products to scale, one of them also to shift.
    kinds = Counter(node.op_type for node in roundings.nodes)
    assert kinds == {
        **dict.fromkeys(["Reshape", "ReduceMax", "Max", "Div", "QuantizeLinear", "Unsqueeze"], 8),
        "Mul": 6 + 12,
        "Abs": 6,
        "Add": 2 + 2,
    }
    roundings.of(length=3, batch=2)()


def test_default_is_the_predictor_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench._folder(Path("default")) == DEFAULT_PREDICTOR
    (tmp_path / "default").mkdir()
    assert bench._folder(Path("default")) == Path("default")
    default = Contestant("default", "student", str(DEFAULT_PREDICTOR), baseline=False)
    assert default.work() is not None, "a convolution, whose products have a floor"
    table = {"prompt": [f"say {n}" for n in range(90)], "response_tokens": list(range(90))}
    pq.write_table(pa.table(table), tmp_path / "lengths.parquet")
    linear = write_linear(tmp_path / "linear", read_lengths(tmp_path / "lengths.parquet"))
    contestant = Contestant("linear", "student", str(linear), baseline=False)
    assert contestant.work() is None, "a linear student multiplies no matrices"
    assert cells._learned_from_the_test(DEFAULT_PREDICTOR), "its tau there must not pass for more"


def test_what_cannot_be_measured_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "tiny"
    write_table_predictor(table, {"a": 1.0})
    with pytest.raises(ConfigError, match="None of the predictor folders is of the kind encoder"):
        choose([table], None)
    with pytest.raises(ConfigError, match="Two predictor folders are called 'tiny'"):
        choose([folder, table], None)
    with pytest.raises(ConfigError, match="there is no baseline 'gpt'; choose of bert-base"):
        choose([folder], ["gpt"])
    command = ["bench", "predictor", "--json", str(tmp_path / "out.json")]
    assert main(command) != 0
    assert "Which predictor folders?" in capsys.readouterr().err
    assert main([*command, str(folder), "--rounds", "0"]) != 0
    assert "--rounds is 0; at least 1" in capsys.readouterr().err
    assert main([*command, str(folder), "--threads", "1", "4096"]) != 0
    assert "--threads 4096: give 1 to" in capsys.readouterr().err
    assert main([*command, "--page-only"]) != 0
    assert "run without --page-only first" in capsys.readouterr().err
    (tmp_path / "out.json").write_text("{}")
    assert main([*command, "--page-only"]) != 0
    assert "these are not the results of" in capsys.readouterr().err
