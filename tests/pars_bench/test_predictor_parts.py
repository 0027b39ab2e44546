"""Where an engine's call spends its time, by onnxruntime's own profile."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import helper
from tiny_predictor import write_tiny_predictor

from pars_bench.predictor import bench, parts, speed
from pars_bench.predictor.contestants import Contestant
from pars_bench.predictor.parts import OPTIMISED, Profiled, part_of
from pars_bench.predictor.report import PARTS
from pars_bench.predictor.speed import Speeds
from pars_export import Predictor
from pars_export.errors import ParsError
from pars_export.int8 import store_int8
from pars_export.runtimes.encoded import EncodedScorer

TEXTS = ["what is the moon", "write a story of ten words a story of ten words"]


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_predictor(tmp_path_factory.mktemp("floats") / "tiny")


@pytest.fixture(scope="module")
def whole(floats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder, its engine in int8."""
    folder = shutil.copytree(floats, tmp_path_factory.mktemp("whole") / "tiny")
    store_int8(floats / "model.onnx", folder / "model.onnx", [[4, 5, 6], [7, 8, 9, 4]])
    manifest = json.loads((folder / "predictor.json").read_text())
    manifest["files"]["model.onnx"]["bytes"] = (folder / "model.onnx").stat().st_size
    (folder / "predictor.json").write_text(json.dumps(manifest))
    return folder


def contestant(folder: Path) -> Contestant:
    return Contestant("tiny onnx", "onnx", str(folder), baseline=False)


def kinds(folder: Path) -> dict[str, Counter[str]]:
    """Operators of each part, of the graph that onnxruntime wrote."""
    graph = onnx.load(str(folder / OPTIMISED)).graph
    matrices = {each.name for each in graph.initializer if len(each.dims) == 2}
    found = {part: Counter[str]() for part in PARTS}
    for node in graph.node:
        found[part_of(node, matrices)][node.op_type] += 1
    return found


def test_a_float_engine_has_no_rounding(floats: Path, tmp_path: Path) -> None:
    profiled = Profiled(contestant(floats), 1, 32, tmp_path)
    for _ in range(3):
        profiled.score(TEXTS)
    found = profiled.parts(1e-3)
    # Of each of two layers: query, key, value, what follows them, the two of feed-forward; and the
    # head. Scores of attention and their sums.
    kind = kinds(tmp_path)
    assert sum(kind["products"].values()) == 2 * 6 + 1
    assert sum(kind["attention"].values()) == 2 * 2
    assert kind["functions"]["Softmax"] == 2
    assert kind["functions"]["LayerNormalization"] == 2 * 2 + 1
    assert not kind["rounding"]
    shares = found["shares"]
    assert list(shares) == list(PARTS)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["rounding"] == 0
    assert min(share for part, share in shares.items() if part != "rounding") > 0
    # Two texts of unlike length are two batches.
    assert found["nodes"] == 2 * sum(each.total() for each in kind.values())


def test_rounding_is_all_that_int8_adds(whole: Path, tmp_path: Path) -> None:
    profiled = Profiled(contestant(whole), 1, 32, tmp_path)
    for _ in range(2):
        profiled.score(TEXTS)
    assert min(profiled.parts(1e-3)["shares"].values()) > 0
    kind = kinds(tmp_path)
    assert kind["products"] == {"MatMulIntegerToFloat": 12, "Gemm": 1}
    # Of each of two layers: what feeds query, key and value, what they give, both feed-forward
    # layers; and six products to scale, one of them also to shift. Channels of what attention
    # gives are evened out in weights.
    each = dict.fromkeys(["ReduceMax", "Max", "Div", "QuantizeLinear", "Unsqueeze"], 8)
    each |= {"Mul": 4 + 12, "Abs": 6, "Add": 2 + 2}
    shared = {"ReduceProd": 1, "Expand": 2}
    assert kind["rounding"] == {**each, **shared}


def test_an_ngram_half_is_part_of_a_call(tmp_path: Path) -> None:
    folder = write_tiny_predictor(tmp_path / "tiny", half=True)
    (tmp_path / "profile").mkdir()
    profiled = Profiled(contestant(folder), 1, 64, tmp_path / "profile")
    wanted = Predictor.load(folder, "onnx").score(TEXTS)
    assert_allclose(profiled._scorer.score(TEXTS), wanted, rtol=0, atol=1e-5)
    for _ in range(2):
        profiled.score(TEXTS)
    assert sum(profiled.parts(1e-3)["shares"].values()) == pytest.approx(1)


def test_an_operator_that_nobody_knows_is_the_rest() -> None:
    assert part_of(helper.make_node("Anything", ["x.int8"], ["y"]), set()) == "rest"
    assert part_of(helper.make_node("MatMul", ["x", "weight"], ["y"]), {"weight"}) == "products"
    assert part_of(helper.make_node("MatMul", ["x", "key"], ["y"]), {"weight"}) == "attention"


def test_an_operator_that_nobody_knows_is_a_product_where_it_has_a_matrix() -> None:
    for kind, part in (("Attention", "products"), ("Gather", "rest"), ("Reshape", "rest")):
        node = helper.make_node(kind, ["x", "weight", "bias"], ["y"])
        assert part_of(node, {"weight"}) == part
        assert part_of(node, {"other"}) == "rest"


def test_what_a_profile_takes_for_itself_is_taken_off(
    floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiled = Profiled(contestant(floats), 1, 32, tmp_path)
    for _ in range(3):
        profiled.score(["what is the moon"])
    events = [
        {"name": "_kernel_time", "dur": 13 if node.op_type == "Softmax" else 3, "op": node.op_type}
        for node in onnx.load(str(tmp_path / OPTIMISED)).graph.node
    ]
    given = [{**each, "args": {"op_name": each["op"]}} for _ in range(3) for each in events]
    given.insert(0, {"name": "model_run", "dur": 1000})
    profile = tmp_path / "given.json"
    profile.write_text(json.dumps(given))
    monkeypatch.setattr(profiled, "_session", SimpleNamespace(end_profiling=lambda: profile))
    found = profiled.parts(1.0)
    assert found["surplus"] == pytest.approx(3e-6)
    outside = found["shares"]["outside"]
    # Two nodes of 10 microseconds, in a call of a second.
    assert found["slower"] == pytest.approx(20e-6 / (1 - outside))
    assert found["shares"] == pytest.approx(
        {**dict.fromkeys(PARTS, 0), "functions": 1 - outside, "outside": outside}
    )


def test_a_profile_of_something_else_is_refused(floats: Path, tmp_path: Path) -> None:
    profiled = Profiled(contestant(floats), 1, 32, tmp_path)
    for _ in range(2):
        profiled.score(TEXTS)
    graph = onnx.load(str(tmp_path / OPTIMISED))
    del graph.graph.node[0]
    onnx.save(graph, str(tmp_path / OPTIMISED))
    with pytest.raises(ParsError, match="of other nodes than the graph"):
        profiled.parts(1e-3)


def test_a_profile_that_is_full_is_refused_as_such(
    floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiled = Profiled(contestant(floats), 1, 32, tmp_path)
    for _ in range(2):
        profiled.score(TEXTS)
    given = [{"name": "a_kernel_time", "dur": 1, "args": {"op_name": "Add"}}] * 50
    profile = tmp_path / "given.json"
    profile.write_text(json.dumps(given))
    monkeypatch.setattr(profiled, "_session", SimpleNamespace(end_profiling=lambda: profile))
    monkeypatch.setattr(parts, "MOST_EVENTS", 50)
    with pytest.raises(ParsError, match=r"is full: it holds 50 events, .* fewer --rounds"):
        profiled.parts(1e-3)


def test_a_profile_gets_no_fuller_than_half(
    floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    real = json.loads

    def loads(text: str, **more: Any) -> Any:
        found = real(text, **more)
        if isinstance(found, list):
            kept.append(len(found))
        return found

    nodes = len(onnx.load(str(floats / "model.onnx")).graph.node)
    monkeypatch.setattr(parts, "MOST_EVENTS", 60 * nodes)
    monkeypatch.setattr(json, "loads", loads)
    monkeypatch.setattr(speed, "BURST_S", 1)  # many calls a sample, were there no limit
    Speeds([contestant(floats)], 1, 32, bench.PROMPTS).parts(16, 2, rounds=2)
    # The session has a few of its own, before any run.
    assert 15 * nodes < kept[-1] <= 30 * nodes + 4


def test_profiles_take_turns_with_calls_without_one(
    floats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for of, kind in ((Profiled, "profiled"), (EncodedScorer, "any")):
        real = of.score

        def score(self: object, *texts: object, real: Any = real, kind: str = kind) -> object:
            calls.append(kind)
            return real(self, *texts)

        monkeypatch.setattr(of, "score", score)
    monkeypatch.setattr(speed, "BURST_S", 0)  # a call a sample
    monkeypatch.setattr(speed, "WARMED_S", 0)  # and none before it
    found = Speeds([contestant(floats)], 1, 32, bench.PROMPTS).parts(16, 2, rounds=2)
    assert found.keys() == {"tiny onnx"}
    # One shows how much a profile holds, one warms up, two count: a call without a profile, and one
    # within that with it.
    plain, profiled = ["any"], ["profiled", "any"]
    assert calls == [*profiled, *plain, *profiled, *profiled, *plain, *plain, *profiled]
