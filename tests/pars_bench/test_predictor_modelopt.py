"""`pars bench modelopt` without modelopt: what it refuses, how graphs are judged, the page."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_predictor import write_tiny_predictor

from pars_bench.predictor.modelopt_compare import Graph, Judge, graphs
from pars_bench.predictor.modelopt_graphs import Write, float_products, int8_products
from pars_bench.predictor.modelopt_page import MODELOPT, OURS, Comparison, Kept, render
from pars_bench.progress import TerminalProgress
from pars_export.artifact import DEFAULT_PREDICTOR, read_manifest
from pars_export.graph import constants
from pars_export.parity import demonstration_texts
from pars_export.qdq import store_qdq
from pars_export.runtimes.encoded import load_tokenizer
from pars_export.runtimes.torch_eager import load_network
from pars_model.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_predictor(tmp_path_factory.mktemp("modelopt") / "tiny")


@pytest.fixture(scope="module")
def judge(folder: Path) -> Judge:
    tokenizer = load_tokenizer(folder, read_manifest(folder))
    texts = demonstration_texts()[1][:60]
    return Judge(folder / "model.onnx", tokenizer, texts, None, TerminalProgress())


def refusal(folder: Path, page: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["bench", "modelopt", str(folder), "--markdown", str(page)]) == 2
    assert not page.exists()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


def test_without_modelopt_one_sentence_says_how_to_get_it(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)  # as if it were not there, where it is
    assert "run `make modelopt`" in refusal(folder, tmp_path / "page.md", capsys)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda _: DEFAULT_PREDICTOR, "give an encoder's"),
        (lambda path: path / "none", "no such predictor folder"),
        (
            lambda path: write_tiny_predictor(path / "facts", facts=("max_tokens",)),
            "it reads facts beside the text",
        ),
    ],
    ids=["another kind", "none", "facts"],
)
def test_only_encoders_of_texts_are_compared(
    made: Callable[[Path], Path], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refusal(made(tmp_path), tmp_path / "page.md", capsys)


def test_our_own_graphs_are_judged(folder: Path, judge: Judge, tmp_path: Path) -> None:
    model, int8 = folder / "model.onnx", tmp_path / "int8.onnx"
    tokenizer = load_tokenizer(folder, read_manifest(folder))
    ids = tokenizer.encode(demonstration_texts()[0][:16])
    store_qdq(model, int8, ids)
    every = list(graphs(model, int8, load_network(folder, "model.safetensors"), ids, 0))
    assert [each.precision for each in every] == ["fp32", *["int8"] * 7, *["fp16"] * 3]
    same, rounded, half = (judge.kept(each) for each in every if each.maker != MODELOPT)
    assert (same.tau, same.difference, same.products, same.builds) == (1.0, 0.0, 0, None)
    # Two layers of query, key, value, attention's output and what comes before GELU.
    assert rounded.products == 10
    assert rounded.tau is not None
    assert 0.8 < rounded.tau < 1.0
    assert half.tau is not None
    assert half.tau > rounded.tau
    assert half.difference
    assert not any(each.rewrote or each.infinite for each in (same, rounded, half))
    # With those that ours leaves float, every product is named once: attention's and GELU's.
    left = float_products(model, int8_products(int8))
    assert len(left) == len(set(left)) == 6
    products = [node for node in onnx.load(str(model)).graph.node if node.op_type == "MatMul"]
    assert len(products) == 16


def edited(judge: Judge, change: Write) -> Kept:
    return judge.kept(Graph(MODELOPT, "fp16", "edited", change))


def followed_by(kind: str) -> Write:
    """Writes a graph whose scores go through one more operator."""

    def write(source: Path, target: Path) -> None:
        model = onnx.load(str(source))
        for node in model.graph.node:
            node.output[:] = ["before" if name == "scores" else name for name in node.output]
        model.graph.node.append(helper.make_node(kind, ["before"], ["scores"]))
        onnx.save(model, str(target))

    return write


def test_a_reversed_order_shows(judge: Judge) -> None:
    found = edited(judge, followed_by("Neg"))
    assert found.tau is not None
    assert found.tau == pytest.approx(-1)
    assert not found.promised


def test_ties_show(judge: Judge) -> None:
    assert edited(judge, followed_by("Sign")).distinct <= 2


def test_an_infinite_mask_and_a_spoilt_input_show(judge: Judge) -> None:
    def spoil(source: Path, target: Path) -> None:
        model = onnx.load(str(source))
        graph = model.graph
        (mask,) = (name for name, value in constants(graph).items() if np.array_equal(value, -1e4))
        (place,) = (place for place, node in enumerate(graph.node) if mask in node.input)
        unseen = next(name for name in graph.node[place].input if name != mask)
        (addend,) = graph.node[place].output
        for name, value in (("infinite", -math.inf), ("nothing", 0.0)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        where = [
            helper.make_node("Cast", [unseen], ["unseen"], to=onnx.TensorProto.BOOL),
            helper.make_node("Where", ["unseen", "infinite", "nothing"], [addend]),
        ]
        nodes = [*graph.node[:place], *where, *graph.node[place + 1 :]]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        onnx.save(model, str(target))
        onnx.save(model, str(source))

    found = edited(judge, spoil)
    assert math.isnan(found.padding)
    assert found.infinite == 1
    assert found.rewrote
    assert found.tau == 1.0


MODEL = Kept("", "fp32", "`model.onnx`", 0, 1.0, 0.0, 500, 0.5, 0, True, False)
GOOD = Kept(OURS, "int8", "Q/DQ", 30, 0.9912, 0.15, 500, 0.5, 0, True, False)
POOR = Kept(MODELOPT, "int8", "default", 48, 0.7721, 1.0511, 499, 0.5, 0, True, True)
OURS_16 = Kept(OURS, "fp16", "traced", 0, 0.9998, 0.001, 500, 0.5, 0, True, False)
HALF = Kept(MODELOPT, "fp16", "AutoCast", 0, 0.9997, 0.002, 476, 0.5, 0, True, False)
BROKEN = Kept(MODELOPT, "fp16", "blind", 0, None, None, 1, math.nan, 1, False, False)


def page(*kept: Kept) -> str:
    environment = {"python": "3.11.7", "versions": {"nvidia-modelopt": "0.47.0"}}
    return render(Comparison("demo/predictor", "abc", environment, 128, 500, kept))


def test_the_page_says_what_was_found() -> None:
    text = page(MODEL, GOOD, POOR, OURS_16, HALF, BROKEN)
    for words in (
        "Made by `make modelopt PREDICTOR=demo/predictor`",
        "by the same 128\nprompts",
        "int8: modelopt keeps tau 0.7721, ours 0.9912.",
        "reached by Q/DQ (ours, int8).",
        "fp16: modelopt keeps tau 0.9997, ours 0.9998.",
        "modelopt's graphs have 1 to 476 different scores, ours 500;",
        "blind (modelopt, fp16) gives a row of padding alone no number for a score (infinite "
        "constants in its graph: 1).",
        "modelopt wrote into its input file while it made 1 of its 3 graphs",
        "`tensorrt_rtx` builds 5 of the 6 graphs.",
        "| int8, modelopt | default | 48 | 0.7721 | 1.051 | 499 | finite | yes |",
        "| **int8, ours** | **Q/DQ** | **30** | **0.9912** | **0.150** | **500** | **finite** |",
        "| fp16, modelopt | blind |  | NaN | NaN | 1 | NaN | no |",
        "Nothing here was run on a GPU.",
        "- versions: nvidia-modelopt: 0.47.0",
        "- sha256 of the predictor: abc",
    ):
        assert words in text


def test_the_page_says_nothing_that_was_not_found() -> None:
    kept = [
        replace(each, builds=None, rewrote=False)
        for each in (MODEL, replace(GOOD, tau=0.98), POOR, OURS_16, HALF)
    ]
    text = page(*kept)
    assert "reached by none of them." in text
    assert "| finite | - |" in text
    for words in ("input file", "builds 0", "no number", "NaN", "infinite constants"):
        assert words not in text
