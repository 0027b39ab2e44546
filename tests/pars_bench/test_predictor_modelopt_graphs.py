"""What modelopt is given: which products stay float, and prompts for its scales.

modelopt is not installed with the tests. onnxruntime, whose calibration it uses, is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
from tiny_predictor import write_tiny_predictor

from pars_bench.predictor.modelopt_graphs import (
    METHODS,
    Prompts,
    exclusions,
    float_products,
    int8_graphs,
    int8_products,
)
from pars_export.artifact import read_manifest
from pars_export.int8 import observe
from pars_export.parity import demonstration_texts
from pars_export.qdq import store_qdq
from pars_export.runtimes.encoded import load_tokenizer

PAD = 0
IDS = [[2, 7, 3], [2, 3], [2, 8, 9, 10, 3]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_predictor(tmp_path_factory.mktemp("graphs") / "tiny") / "model.onnx"


@pytest.fixture(scope="module")
def ids(model: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(model.parent, read_manifest(model.parent))
    return [list(each) for each in tokenizer.encode(demonstration_texts()[0][:16])]


@pytest.fixture(scope="module")
def int8(model: Path, ids: list[list[int]]) -> Path:
    """The same ranker's Q/DQ form by this project."""
    path = model.with_name("int8.onnx")
    store_qdq(model, path, ids)
    return path


def matched(patterns: Collection[str], names: Collection[str]) -> set[str]:
    """Names that modelopt (0.47) would take: it reads a pattern from where a name begins."""
    return {name for name in names for each in patterns if re.match(each, name)}


def names_of(model: Path) -> list[str]:
    return [node.name for node in onnx.load(str(model)).graph.node]


def test_a_product_is_left_out_without_any_other(model: Path) -> None:
    names = names_of(model)
    for name in float_products(model, ()):
        assert matched(exclusions([name]), names) == {name}


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("/MatMul", ["/MatMul_1", "/MatMul/Cast", "/self/MatMul", "MatMul"]),
        ("/layer.1/MatMul", ["/layer_1/MatMul", "/layer.10/MatMul", "/layer.1/MatMul.1"]),
        ("/a[0]+(b)/MatMul", ["/a0b/MatMul", "/a0+b/MatMul"]),
    ],
)
def test_a_name_is_taken_letter_by_letter(name: str, others: list[str]) -> None:
    assert matched(exclusions([name]), [name, *others]) == {name}


def test_of_no_names_nothing_is_left_out() -> None:
    assert exclusions(()) == []


class StandInQuantize:
    """Stands in for modelopt's `quantize()`: notes which products it would round, by what."""

    def __init__(self) -> None:
        self.products: set[str] = set()
        self.kinds: list[str] | None = None
        self.method = ""
        self.prompts = 0

    def __call__(
        self,
        source: str,
        *,
        calibration_method: str,
        calibration_data_reader: Prompts,
        op_types_to_quantize: list[str] | None = None,
        nodes_to_exclude: Collection[str] = (),
        **more: object,
    ) -> None:
        assert more.pop("output_path")
        assert more == {
            "quantize_mode": "int8",
            "calibration_eps": ["cpu"],
            "high_precision_dtype": "fp32",
        }
        nodes = [node for node in onnx.load(source).graph.node if node.op_type == "MatMul"]
        left_out = matched(nodes_to_exclude, [node.name for node in nodes])
        self.products = {node.output[0] for node in nodes if node.name not in left_out}
        self.kinds, self.method = op_types_to_quantize, calibration_method
        self.prompts = len(list(iter(calibration_data_reader.get_next, None)))


@pytest.fixture
def quantize(monkeypatch: pytest.MonkeyPatch) -> StandInQuantize:
    standin = StandInQuantize()
    for name in ("modelopt", "modelopt.onnx", "modelopt.onnx.quantization"):
        module = ModuleType(name)
        vars(module)["quantize"] = standin
        monkeypatch.setitem(sys.modules, name, module)
    return standin


def test_the_same_products_as_ours_are_rounded(
    model: Path, int8: Path, ids: list[list[int]], tmp_path: Path, quantize: StandInQuantize
) -> None:
    ours, every = int8_products(int8), {f"{name}_output_0" for name in float_products(model, ())}
    found = []
    for name, write in int8_graphs(ids, PAD, float_products(model, ours)):
        write(model, tmp_path / "target.onnx")
        placement, method = name.split(", ")
        assert method == quantize.method
        assert quantize.prompts == len(ids)
        assert quantize.kinds == (None if placement == "default placement" else ["MatMul"])
        assert quantize.products == (ours if placement == "the same products as ours" else every)
        found.append(method)
    assert found == [*METHODS] * 3
    assert len(ours) == 10
    assert len(every) == 16


def as_lists(feed: object) -> dict[str, list[list[int]]]:
    assert isinstance(feed, dict)
    assert {array.dtype for array in feed.values()} == {np.dtype(np.int64)}
    return {name: array.tolist() for name, array in feed.items()}


def test_each_prompt_is_given_once_by_itself() -> None:
    wanted = [{"input_ids": [each], "attention_mask": [[1] * len(each)]} for each in IDS]
    prompts = Prompts(IDS, PAD)
    for _ in range(2):
        given = []
        while (feed := prompts.get_next()) is not None:
            given.append(as_lists(feed))
            assert as_lists(prompts.get_first()) == wanted[0]
        assert given == wanted
        assert prompts.get_next() is None
        prompts.rewind()


def test_onnxruntime_sees_of_the_prompts_what_our_own_rounding_sees(
    model: Path, ids: list[list[int]], tmp_path: Path
) -> None:
    calibrator = create_calibrator(
        str(model),
        op_types_to_calibrate=["MatMul"],
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
    )
    calibrator.collect_data(Prompts(ids, PAD))
    ranges = calibrator.compute_data().data
    seen = observe(onnx.load(str(model)), ids)
    assert seen
    for name, each in seen.items():
        furthest = np.abs(ranges[name].range_value).max()
        assert furthest == pytest.approx(each.largest.max(), rel=1e-4), name
