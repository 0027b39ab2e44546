"""`pars bench predictor`: fair turns, a floor that is worked out right, a run that goes on."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_predictor import tiny_config, tiny_tokenizer_json, write_tiny_predictor

from pars_bench.environment import forget_peak, memory_mib
from pars_bench.experiment import source_digest
from pars_bench.predictor import baselines, bench, cells, openvino_parts, processes, speed
from pars_bench.predictor.contestants import Contestant, choose
from pars_bench.predictor.grid import QUICK
from pars_bench.predictor.products import products_name
from pars_bench.predictor.rates import rate_calls
from pars_bench.predictor.texts import TextMaker, repeated
from pars_export.artifact import DEFAULT_PREDICTOR, read_manifest, write_predictor
from pars_export.build import add_engines
from pars_export.cpu import has_matrix_units
from pars_export.engines import ENGINES
from pars_export.errors import ConfigError
from pars_export.inputs import InputSpec, TextTokenizer
from pars_export.runtimes import RUNTIMES, openvino_engine
from pars_export.table import write_table_predictor
from pars_model.__main__ import main
from pars_model.experiments.linear_folder import write_linear
from pars_model.lengths import read_lengths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_predictor(tmp_path_factory.mktemp("bench") / "tiny")


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

    def sample(call: object, often: int, warm: bool) -> tuple[float, float]:
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


def test_a_call_that_is_slow_when_it_is_cold_is_measured_warm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, before = 0.0, ""

    def call(name: str, cold: float, warm: float) -> None:
        nonlocal now, before
        now, before = now + (warm if before == name else cold), name

    clock = SimpleNamespace(
        perf_counter=lambda: now, process_time=lambda: now, sleep=lambda seconds: None
    )
    monkeypatch.setattr(speed, "time", clock)
    calls = {"a": partial(call, "a", 0.04, 0.002), "b": partial(call, "b", 2.0, 2.0)}
    found = speed.take_turns(calls, 3)
    assert found["a"]["seconds"] == pytest.approx([0.002] * 3)
    assert found["b"]["seconds"] == pytest.approx([2.0] * 3)
    assert now < 12, "a long call has no other before it"


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
    measure = processes.measure_memory

    def stopped(contestant: Contestant, *rest: object) -> object:
        started.append(f"memory of {contestant.name}")
        if started.count("memory of other onnx") == 1:
            raise KeyboardInterrupt
        return measure(contestant, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cells, "measure_memory", stopped)
    assert main(command) == 130
    assert main(command) == 0
    # Nothing that was there was measured again.
    assert started[:2] == ["tiny onnx", "other onnx"]
    assert started[2:] == [f"memory of {name}" for name in ("tiny onnx", *["other onnx"] * 2)]
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
        products = {products_name(name, "float32", "onnxruntime") for name in ("tiny", "other")}
        assert set(cell["speeds"]) == {*rate_calls(1), *products, *report["contestants"]}
        profiled = cell["parts"]
        assert profiled.keys() == report["contestants"].keys()
        assert all(sum(each["shares"].values()) == pytest.approx(1) for each in profiled.values())
        for found in cell["speeds"].values():
            assert len(found["seconds"]) == QUICK.rounds_of(32, 4)
            assert min(found["seconds"]) > 0
            assert found["cores"][1] < 1.1  # bound to one CPU, whatever a library would like
    onnx = report["starts"]["tiny onnx"]
    assert onnx["imported"] == ["onnxruntime"]  # loading a predictor imports no training code
    assert onnx["cpu_seconds"][0] > 0
    assert onnx["peak_mib"][0] is not None
    assert onnx["resident_mib"][0] is not None
    assert onnx["peak_mib"][0] >= onnx["resident_mib"][0] > 20
    assert [(cell["length"], cell["batch"]) for cell in report["memory"]] == [
        (16, 1),
        (32, 1),
        (16, 4),
        (32, 4),
    ]
    for peaks in (each["peak_mib"] for each in report["memory"]):
        assert peaks.keys() == report["contestants"].keys()
        assert all(peak is not None and peak > 20 for peak in peaks.values())
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
    assert "## Where a call's time goes" in text
    assert "| one thread, tokens a call | 16 | 32 | 64 | 128 |" in text
    assert "| ms a prompt, 32 in one call | ms a prompt, one by one |" in text
    for name in ("latency", "floor"):
        picture = page.with_name(f"page-{name}.svg")
        assert f"]({picture.name})" in text
        assert "tiny onnx" in picture.read_text()
    before = {path: path.read_bytes() for path in page.parent.iterdir()}
    assert main([*command[:2], "--json", str(out), "--markdown", str(page), "--page-only"]) == 0
    assert {path: path.read_bytes() for path in page.parent.iterdir()} == before


_LOADING = """
import numpy as np
from pars_bench.predictor import loading

class Scorer:
    def score(self, texts):
        np.ones(int(texts[0]) << 20, dtype=np.uint8)

loading._load = lambda order: Scorer()
{more}
loading.main()
"""


def _peaks(more: str = "") -> list[float | None]:
    """What a process answers to calls that take 1, 300 and 1 MiB, and to the last one once more."""
    calls = [(1, True), (300, True), (1, True), (1, False)]
    given = [{}, *({"texts": [str(mib)], "anew": anew} for mib, anew in calls)]
    found = subprocess.run(
        [sys.executable, "-c", _LOADING.format(more=more)],
        input="".join(f"{json.dumps(each)}\n" for each in given),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in found.stdout.splitlines()[1:]]


def test_memory_of_a_call_is_not_that_of_a_larger_one_before() -> None:
    if not forget_peak():
        pytest.skip("a peak cannot begin anew here")
    first, most, after, last = _peaks()
    assert first is not None
    assert most is not None
    assert after is not None
    assert last is not None
    assert most > first + 200
    assert max(after, last) < most - 200


def test_memory_of_a_call_is_not_known_where_a_peak_cannot_begin_anew() -> None:
    *calls, ever = _peaks("loading.forget_peak = lambda: False")
    assert calls == [None] * 3
    assert ever is not None
    assert ever > 300


def test_memory_is_that_of_each_call(folder: Path) -> None:
    if not forget_peak():
        pytest.skip("a peak cannot begin anew here")
    own = choose([folder], [])[0]
    small, large = ["what is the moon"], ["what is the moon " * 5] * 600
    first, most, after = processes.measure_memory(own, 1, 32, [small, large, small])
    assert first is not None
    assert most is not None
    assert first < most
    assert after is not None  # at most as much, for what the library keeps stays


def test_a_peak_begins_anew_where_the_system_can_do_that(monkeypatch: pytest.MonkeyPatch) -> None:
    if not forget_peak():
        pytest.skip("a peak cannot begin anew here")
    before = np.ones(200 << 20, dtype=np.uint8)
    del before
    high = memory_mib("VmHWM")
    assert high is not None
    assert forget_peak()
    low = memory_mib("VmHWM")
    assert low is not None
    assert low < high - 100

    def refused(*given: object) -> int:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refused)
    assert not forget_peak()


def test_cells_count_only_for_the_code_that_decides_them() -> None:
    assert {"pars_bench.environment", "pars_bench.predictor.report"} < set(bench.MODULES)
    assert source_digest(bench.MODULES)
    modules = {each.module for each in RUNTIMES.values() if each.auto}
    code = (
        f"import sys, {', '.join(modules)}\n"
        "import pars_bench.predictor.cells, pars_bench.predictor.loading\n"
        "print(*(m for m in sys.modules if m.startswith(('pars_export.', "
        "'pars_bench.predictor.'))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    timeless = {
        "pars_export.built_here",
        "pars_export.calibration",
        "pars_export.errors",
        "pars_export.facts",
        "pars_export.files",
        "pars_export.forks",
        "pars_export.threads",
    }
    assert set(found.stdout.split()) - timeless <= set(bench.MODULES)


def test_an_older_openvino_takes_no_part(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(folder)
    engine = {"file": manifest.engines["onnx"]["file"], "computes": "float32"}
    engines = {**manifest.engines, "openvino": engine}
    files: dict[str, Path | str | bytes] = {name: folder / name for name in manifest.files}
    write_predictor(tmp_path / "with", replace(manifest, engines=engines), files)
    assert "openvino" in {each.what for each in choose([tmp_path / "with"], [])}
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "2026.3.9" if name == "openvino" else version(name),
    )
    assert {each.what for each in choose([tmp_path / "with"], [])} == {"onnx", "torch"}


def test_large_calls_are_the_folders_own_alone(folder: Path) -> None:
    everyone = choose([folder], ["ngram-ridge"])
    own, baseline = (each.name for each in everyone if each.what in ("onnx", "ngram-ridge"))
    grid = replace(QUICK, lengths=(32,), batches=(4, 128), rounds=2)
    assert grid.shapes() == [(32, 4), (32, 128)]
    assert [grid.rounds_of(*shape) for shape in grid.shapes()] == [6, 1]
    assert grid.rounds_of(32, 16) == 2
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
    for other in ("{}", '{"contestants": 1, "speed": 2, "starts": 3, "bursts": 4}'):
        (tmp_path / "out.json").write_text(other)
        assert main([*command, "--page-only"]) != 0
        assert "these are not the results of" in capsys.readouterr().err
    assert main(["bench", "predictor", str(folder), "--json", str(tmp_path)]) != 0
    assert f"{tmp_path} is a folder: name the file to write." in capsys.readouterr().err


def test_the_openvino_engine_is_measured_as_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_predictor(tmp_path / "tiny", half=True)
    engine = ENGINES["openvino"]
    loose = replace(engine.bound, difference=1.0, tau=0.9)  # for the tiny encoder's random weights
    monkeypatch.setitem(ENGINES, "openvino", replace(engine, bound=loose))
    add_engines(folder, ["openvino"])
    (found,) = (each for each in choose([folder], []) if each.what == "openvino")
    assert (found.name, found.auto) == ("tiny openvino", has_matrix_units())
    work, precision = found.work(), openvino_engine.precision_here()
    assert work is not None
    assert (work.precision, work.others, work.spared) == (precision, precision, 0.0)
    speeds = speed.Speeds([found], 1, 64, bench.PROMPTS)
    cell = speeds.cell(16, 2, 1)
    assert cell["tiny openvino"]["seconds"][0] > 0
    assert cell[products_name("tiny", precision, "openvino")]["seconds"][0] > 0
    profile = speeds.parts(16, 40, 2)["tiny openvino"]
    assert sum(profile["shares"].values()) == pytest.approx(1)
    assert profile["shares"]["rounding"] == 0
    for part in ("products", "attention", "functions", "rest", "outside"):
        assert profile["shares"][part] > 0, part
    graph = openvino_parts.Profiled(found, 1, 64)
    graph.score(["what is it"])
    kinds = [node.node_type for node in graph._request.profiling_info]
    layers = tiny_config(tiny_tokenizer_json())["num_hidden_layers"]
    assert isinstance(layers, int)
    assert kinds.count("FullyConnected") == 6 * layers


def test_the_first_call_of_a_profile_only_warms_up(tmp_path: Path) -> None:
    found = openvino_parts.Profiled.__new__(openvino_parts.Profiled)

    class Request:
        """Stands for OpenVINO's: what each run took, and their means."""

        def __init__(self) -> None:
            self.runs: list[tuple[int, int, int]] = []

        @property
        def profiling_info(self) -> list[SimpleNamespace]:
            means = [sum(taken) / len(self.runs) for taken in zip(*self.runs, strict=True)]
            kinds = ("FullyConnected", "Subgraph", "Reorder")
            return [
                SimpleNamespace(node_type=kind, real_time=timedelta(microseconds=mean))
                for kind, mean in zip(kinds, means, strict=True)
            ]

    request = Request()
    found._request, found._warm, found.outside = request, None, []
    found.core = SimpleNamespace(runs=0, seconds=0.0)  # type: ignore[assignment]

    def run(_: Sequence[str]) -> None:
        request.runs.append((900, 110, 5010) if not request.runs else (60, 30, 10))
        found.core.runs += 1

    found._scorer = SimpleNamespace(score=run)  # type: ignore[assignment]
    found._clock = lambda: 0.0
    for _ in range(4):
        found.score(["x"])
    parts = found.parts(1e-4)
    assert parts["shares"]["products"] == pytest.approx(0.6)
    assert parts["shares"]["attention"] == pytest.approx(0.3)
    assert parts["shares"]["rest"] == pytest.approx(0.1)
    assert parts["nodes"] == 3


def test_a_folder_that_reads_facts_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_predictor(tmp_path / "tiny", facts=["prompt_tokens"])
    with pytest.raises(ConfigError, match="tiny: it reads facts beside the text"):
        choose([folder], [])
