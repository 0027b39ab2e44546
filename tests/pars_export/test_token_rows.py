"""Exported graphs of several families of encoders: their mask, and tokens as rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from encoder_families import CONFIG, FAMILIES, network_of
from numpy.testing import assert_allclose
from onnx import helper, numpy_helper

from pars_export.batches import padded
from pars_export.int8 import observe, products, rewrite, store_int8
from pars_export.onnx import WHOLE_ATTENTION, export_onnx
from pars_export.qdq import store_qdq
from pars_export.runtimes.onnxruntime_engines import OnnxCore

_JOINED = {"albert", "bert", "distilbert", "electra", "roberta", "xlm-roberta"}
"""The others normalise elsewhere, or write their views otherwise."""


def test_an_encoder_that_is_built_as_a_decoder_keeps_its_mask(tmp_path: Path) -> None:
    network = network_of("bert", is_decoder=True)
    export_onnx(network, tmp_path / "model.onnx")
    batch = padded([[5, 9, 7, 3], [8, 4]], pad_id=0)
    with torch.inference_mode():
        wanted = network(*map(torch.from_numpy, batch)).numpy()
    assert_allclose(OnnxCore(tmp_path / "model.onnx", threads=1)(*batch), wanted, atol=2e-5)


def test_every_family_with_one_mask_is_tried_here() -> None:
    assert set(FAMILIES) > WHOLE_ATTENTION


@pytest.mark.parametrize("pooling", ["mean", "layers"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_scores_as_its_network_beyond_any_window(
    tmp_path: Path, kind: str, pooling: str
) -> None:
    network = network_of(kind, pooling=pooling)
    export_onnx(network, tmp_path / "model.onnx")
    core = OnnxCore(tmp_path / "model.onnx", threads=1)
    rng = np.random.default_rng(0)
    for rows, width in [(1, 1), (1, 130), (2, 7), (5, 5), (7, 130)]:
        ids = [rng.integers(1, 60, rng.integers(1, width + 1)).tolist() for _ in range(rows)]
        ids[-1] = rng.integers(1, 60, width).tolist()
        batch = padded(ids, pad_id=0)
        with torch.inference_mode():
            wanted = network(*map(torch.from_numpy, batch)).numpy()
        assert_allclose(core(*batch), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "layers"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_bias_is_added_within_the_product_where_tokens_are_rows(
    tmp_path: Path, kind: str, pooling: str
) -> None:
    export_onnx(network_of(kind, pooling=pooling), tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    products = 6 * CONFIG["num_hidden_layers"]
    assert (operators.count("Gemm") > products) == (kind in _JOINED)


@pytest.mark.parametrize("kind", sorted(WHOLE_ATTENTION))
def test_every_constant_of_a_graph_is_a_number_in_float16(tmp_path: Path, kind: str) -> None:
    export_onnx(network_of(kind), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    values = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    values += [
        numpy_helper.to_array(helper.get_node_attr_value(node, "value"))
        for node in graph.node
        if node.op_type == "Constant"
    ]
    floats = [value for value in values if value.dtype == np.float32]
    assert floats
    largest = np.finfo(np.float16).max
    assert all(np.abs(value).max(initial=0) <= largest for value in floats)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_int8_rounds_tokens_that_are_rows_and_those_that_are_not(tmp_path: Path, kind: str) -> None:
    export_onnx(network_of(kind), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 60, rng.integers(2, 60)).tolist() for _ in range(40)]
    seen = observe(model, ids)
    assert {each.joined for each in seen.values()} == {kind in _JOINED}
    rewrite(model, seen)
    onnx.save(model, tmp_path / "int8.onnx")
    batch = padded(ids, pad_id=0)
    wanted = OnnxCore(tmp_path / "model.onnx", threads=1)(*batch)
    found = OnnxCore(tmp_path / "int8.onnx", threads=1)(*batch)
    assert 0 < np.abs(found - wanted).max() < 0.2 * wanted.std()
    alone = [OnnxCore(tmp_path / "int8.onnx", threads=1)(*padded([ids[0]], 0))[0]]
    assert_allclose(alone, found[:1], rtol=0, atol=2e-5)


def test_int8_rounds_the_weights_of_every_layer_that_shares_them(tmp_path: Path) -> None:
    export_onnx(network_of("albert", num_hidden_layers=3), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert "Identity" not in {node.op_type for node in model.graph.node}
    count = len(products(model))
    assert count >= 6 * 3
    rewrite(model, observe(model, [[5, 9, 7, 3], [8, 4]]))
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("MatMulIntegerToFloat") == count


def test_int8_and_its_pairs_round_no_facts_whatever_the_prompts(tmp_path: Path) -> None:
    export_onnx(network_of("bert", outputs=5, facts=3), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 60, rng.integers(2, 60)).tolist() for _ in range(40)]
    ids[5] = [7]
    facts = rng.standard_normal((40, 3)).astype(np.float32)
    batch = padded(ids, pad_id=0)
    wanted = OnnxCore(tmp_path / "model.onnx", threads=1, facts=3)(*batch, facts)
    for store in (store_int8, store_qdq):
        store(tmp_path / "model.onnx", tmp_path / "rounded.onnx", ids, facts)
        found = OnnxCore(tmp_path / "rounded.onnx", threads=1, facts=3)(*batch, facts)
        assert 0 < np.abs(found - wanted).max() < 0.2 * wanted.std()
