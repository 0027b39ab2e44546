"""What scoring has to compute, and the least time that it takes."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pars_bench.predictor import baselines, products
from pars_bench.predictor.products import layers_model, layers_of, products_by
from pars_bench.predictor.rates import UNITS, product_session, rate_calls
from pars_bench.predictor.work import Work, products_of, work_of_encoder, work_of_student
from pars_export.cpu import multiplies_bfloat16
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.openvino_engine import precision_here

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
RATES = {"float32": 1e11, "int8": 2e11, "memory": 1e10}


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


def test_layers_that_int8_leaves_out_count_as_float32() -> None:
    whole, half = (work_of_encoder(MINILM, "onnx-int8", layers) for layers in (0, 3))
    floats = work_of_encoder(MINILM, "onnx")
    assert half.weight_bytes == (whole.weight_bytes + floats.weight_bytes) / 2
    middle = (whole.floor([64], RATES) + floats.floor([64], RATES)) / 2
    assert half.floor([64], RATES) == pytest.approx(middle)
    assert half.products() == replace(whole, attention=0)
    assert floats.products() == replace(floats, attention=0)


def test_all_products_of_an_engine_in_bfloat16_are_so() -> None:
    work = work_of_encoder(MINILM, "openvino", computes="bfloat16")
    assert work.weight_bytes == 2 * 10_616_832
    rates = {"bfloat16": 10.0, "float32": 1e-9, "memory": 1e12}
    whole = work_of_encoder(MINILM, "onnx").floor([32, 8], {"float32": 1.0, "memory": 1e12})
    assert work.floor([32, 8], rates) == pytest.approx(whole / 10)


def test_what_a_student_does_not_read_costs_it_nothing() -> None:
    work = Work("float32", 100, 0, 0, 0, 0, most_tokens=4)
    assert work.floor([4], RATES) == work.floor([400], RATES) > work.floor([3], RATES)


def test_what_a_student_computes_and_reads(tmp_path: Path) -> None:
    arrays = {"conv": np.zeros((3, 8, 16)), "hidden": np.zeros((39, 10))}
    (tmp_path / "student.safetensors").write_bytes(arrays_bytes(arrays))
    work = work_of_student(tmp_path, most_tokens=50)
    assert work is not None
    rates = {"float32": 1.0, "memory": 1e9}
    assert work.floor([10, 70], rates) == 2 * 2 * 390  # the hidden layer, once a text
    # Its weights once a call; of each of 60 tokens a row of subwords and a row of pairs.
    read = 4 * 390 + 60 * 2 * 4 * 3 * 16
    assert work.floor([10, 70], {"float32": 1e12, "memory": 1.0}) == read


@pytest.mark.parametrize("installed", [True, False])
def test_rates_are_of_the_libraries_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    calls = rate_calls(1)
    lacking = set() if multiplies_bfloat16() else {"bfloat16, torch"}
    if not installed:
        lacking = {name for name in UNITS if name.endswith("torch")}
    assert set(calls) == set(UNITS) - lacking
    for call in calls.values():
        call()


def test_products_alone_are_those_of_the_encoder() -> None:
    assert sum(count * rows * columns for count, rows, columns in products_of(MINILM)) == 10_616_832
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16}
    for precision in ("float32", "int8"):
        products_by("onnxruntime", tiny, precision, 1).of(tokens=3)()


def test_openvinos_products_alone_are_those_of_the_encoder() -> None:
    model = layers_model(MINILM)
    weights = [
        node.get_output_shape(0)
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_output_shape(0)[0] > 1
    ]
    assert sum(rows * columns for rows, columns in weights) == 10_616_832
    kinds = Counter(node.get_type_name() for node in model.get_ops())
    assert (kinds["MatMul"], kinds["Gelu"]) == (36, 6)
    products_by("openvino", MINILM, precision_here(), 1).of(tokens=3)()


def test_each_product_alone_has_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, ran = [], []

    class Session:
        def __init__(self, given: Sequence[NDArray[np.generic]], threads: int) -> None:
            (self.weight,) = given
            weights.append(self.weight)

        def run(self, outputs: None, feed: dict[str, NDArray[np.generic]]) -> None:
            assert feed["a"].shape == (3, len(self.weight))
            ran.append(self.weight)

    monkeypatch.setattr(products, "product_session", Session)
    call = products_by("onnxruntime", MINILM, "int8", 1).of(tokens=3)
    assert not ran
    call()
    assert sum(weight.size for weight in weights) == 10_616_832
    assert [id(weight) for weight in ran] == [id(weight) for weight in weights]


def test_products_alone_in_float32_take_all_layers_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def session(weights: Sequence[NDArray[np.generic]], threads: int) -> None:
        made.append([weight.shape for weight in weights])

    monkeypatch.setattr(products, "product_session", session)
    products_by("onnxruntime", MINILM, "float32", 1)
    layer = [(384, 384)] * 4 + [(384, 1536), (1536, 384)]
    assert made == [layer * 6]


def test_products_in_float32_are_one_model_that_multiplies_by_each_weight() -> None:
    weights = [weight for weight, _ in layers_of(MINILM)]
    assert sum(weight.size for weight in weights) == 10_616_832
    rows = np.random.default_rng(1).standard_normal((3, 384), dtype=np.float32)
    (found,) = product_session(weights, 1).run(None, {"a": rows})
    wanted = rows.astype(np.float64)
    for weight in weights:
        wanted = wanted @ weight
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
