"""`pars bench replay` in a small form: from a data root to the page, resumed, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_bench.replay import sweep
from pars_bench.study import design, speed
from pars_bench.study.conditions import traffic
from pars_bench.study.design import CORE, Comparison, Engine, TrafficKind
from pars_bench.study.gains import PARS, READER
from pars_bench.study.lengths import LengthSource, Samples
from pars_export import Predictor
from pars_model.__main__ import main

REQUESTS = 16
KINDS = {
    "chat": TrafficKind(
        "chat", REQUESTS, LengthSource(("ours",), Samples("llm"), "tokens"), burst=REQUESTS
    ),
    "azure-conv": TrafficKind("Azure conversation", 6, trace="conv.csv"),
}
COMPARISONS = (
    Comparison("burst", "chat", "low", CORE, predictor=True),
    Comparison("sweep", "azure-conv", "low", CORE[:2], (0.5, 3.0)),
    Comparison("orders", "chat", "low", (*CORE[:2], "hrrn"), (3.0,)),
    Comparison("tau", "chat", "low", CORE, taus=(0.5, 0.9)),
    Comparison("sweep", "azure-conv", "4090-low", CORE[:2], (3.0,)),
)


class InThisProcess:
    """Stands in for a pool whose processes take seconds to import vLLM."""

    def __init__(self, processes: int, mp_context: object) -> None:
        del processes, mp_context

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def submit(self, function: Callable[..., None], *arguments: object) -> Future[None]:
        future: Future[None] = Future()
        function(*arguments)
        future.set_result(None)
        return future


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(design, "comparisons", lambda: iter(COMPARISONS))
    monkeypatch.setitem(design.ENGINES, "low", Engine("h100", 2))
    monkeypatch.setitem(design.ENGINES, "4090-low", Engine("rtx4090", 2))
    monkeypatch.setattr(speed, "ProcessPoolExecutor", InThisProcess)
    for name, kind in KINDS.items():
        monkeypatch.setitem(design.TRAFFIC, name, kind)
    folder = tmp_path / "data"
    (folder / "traces").mkdir(parents=True)
    lines = [f"2023-11-16 18:15:{n:02},{20 + n},{(n * 7) % 16 + 1}" for n in range(8)]
    text = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines, ""])
    (folder / "traces" / "conv.csv").write_text(text)
    ids = [f"{n}" for n in range(REQUESTS)]
    texts = [f"Say {n}, and why." for n in ids]
    pq.write_table(
        pa.table({"dataset": ["ours"] * REQUESTS, "prompt_id": ids, "prompt": texts}),
        folder / "prompts.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "dataset": ["ours"] * REQUESTS,
                "prompt_id": ids,
                "model": ["llm"] * REQUESTS,
                "gen_config": [""] * REQUESTS,
                "length": [(n * 7) % 20 + 1 for n in range(REQUESTS)],
            }
        ),
        folder / "lengths.parquet",
    )
    return folder


def test_from_a_data_root_to_the_page_and_nothing_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(design, "WINDOWS", (5,))
    out, page = tmp_path / "out", tmp_path / "serving.md"
    command = ["bench", "replay", "--out", str(out), "--data-root", str(data), "--page", str(page)]
    command += ["--seeds", "1"]
    assert main(command) == 0
    text = page.read_text()
    monkeypatch.setattr(sweep, "run_cell", None)  # nothing is run again
    assert main(command) == 0
    assert page.read_text() == text

    study = json.loads((out / "study.json").read_text())
    assert [(part["section"], part["engine"]) for part in study["parts"]] == [
        (each.section, each.engine) for each in COMPARISONS
    ]
    assert {run["requests"] for run in study["parts"][1]["report"]["runs"]} == {6}
    assert study["kept"]["chat-16-seed-0.csv"] == "16 drawn without replacement from 16 prompts"
    (cost,) = study["speed"]
    assert cost["requests"] == 5
    assert cost["peak_mib"] > 100
    scores = {run["policy"]: run["scores"] for run in study["parts"][0]["report"]["runs"]}
    assert list(scores) == ["fcfs", PARS, "oracle", READER]
    assert scores[READER]["predictor_sha256"] == Predictor.default().sha256

    # Seeds that kept something else say so.
    study["kept"]["another.csv"] = "requests 4 to 9 of 10"
    study["parts"][1]["report"]["traffic"]["by_seed"] = {
        "0": {"source": "azure-conv-6-seed-0.csv"},
        "1": {"source": "another.csv"},
    }
    assert f"{study['kept']['azure-conv-6-seed-0.csv']}; requests 4 to 9 of 10 |" in traffic(study)

    # Chat in a burst and at load 3, Azure at two loads and on a second GPU at one; the burst
    # of the taus is the first again.
    assert text.splitlines()[2].startswith("**Over all 5 cells")
    assert "loads above 1" in text.splitlines()[2]
    assert text.index("the median gain of PARS") < text.index("The paper reports up to 15.7 times")
    losses = text.partition("## Where PARS loses")[2].partition("##")[0]
    assert losses.count("| H100, max_num_seqs 2 |") == 4
    assert losses.count("| RTX 4090, max_num_seqs 2 |") == 1
    assert "| chat | H100, max_num_seqs 2 | burst of 16 | default predictor |" in text
    assert "| chat | burst of 16 | score model, tau 0.9 |" in text
    assert "HRRN, tau 0.5" in text
    for name in ("serving-load.png", "serving-tau.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--seeds", "0"], "--seeds is 0: expected at least 1"),
        (["--jobs", "0"], "--jobs is 0: expected at least 1"),
        ([], "give --data-root a folder with lengths.parquet and prompts.parquet"),
        (["--predictor", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "replay", "--out", str(tmp_path / "out"), "--data-root", str(tmp_path)]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("pars: error: ")
    assert sentence in error


def test_the_default_predictor_orders_data_sets_that_it_was_not_trained_on() -> None:
    trained_on = json.loads((files("pars_model.universal") / "sources.json").read_text())
    ordered = [design.TRAFFIC[each.traffic] for each in design.comparisons() if each.predictor]
    assert ordered
    for kind in ordered:
        assert kind.unseen
        assert kind.lengths is not None
        assert not set(kind.lengths.datasets) & set(trained_on)


def test_every_traffic_is_swept_from_light_load_to_overload_on_a_queue_that_can_form() -> None:
    swept = {
        each.traffic
        for each in design.comparisons()
        if each.section == "sweep" and each.engine == "low" and each.loads == design.LOADS
    }
    assert swept == set(design.TRAFFIC)
    assert min(kind.requests for kind in design.TRAFFIC.values()) >= 20 * design.LOW
    engines = {design.ENGINES[each.engine] for each in design.comparisons()}
    assert len({engine.gpu for engine in engines}) == 2
    assert {engine.max_num_seqs for engine in engines} == {design.LOW, None}
