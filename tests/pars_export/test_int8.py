"""What an int8 model computes otherwise than the float one that it is made from, and what not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pars_export.batches import padded
from pars_export.even_values import even_values
from pars_export.gelu import by_tanh
from pars_export.int8 import FLOOR, observe, rewrite
from pars_export.network import RankerNetwork
from pars_export.onnx import export_onnx
from pars_export.runtimes.onnxruntime_engines import OnnxCore

_IDS = [
    np.random.default_rng(row).integers(1, 60, 2 + row % 40).tolist()  #
    for row in range(40)
]


def _model(folder: Path, **changes: object) -> onnx.ModelProto:
    """A tiny exported network of which no two weights are alike."""
    config = {
        "model_type": "bert",
        "vocab_size": 90,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        **changes,
    }
    torch.manual_seed(1)
    network = RankerNetwork(config, "mean")
    network.eval()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    export_onnx(network, folder / "model.onnx")
    return onnx.load(folder / "model.onnx")


def _scores(model: onnx.ModelProto, folder: Path) -> NDArray[np.float32]:
    onnx.save(model, folder / "changed.onnx")
    return OnnxCore(folder / "changed.onnx", threads=1)(*padded(_IDS, pad_id=0))


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_a_gelu_by_tanh_is_one_operator_and_scores_almost_alike(tmp_path: Path) -> None:
    model = _model(tmp_path)
    wanted = _scores(model, tmp_path)
    by_tanh(model.graph)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    operators = _operators(model)
    assert operators["FastGelu"] == 2
    assert operators["Erf"] == 0
    assert 0 < np.abs(_scores(model, tmp_path) - wanted).max() < 0.01 * wanted.std()


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu_new"])
def test_other_activation_functions_stay(tmp_path: Path, activation: str) -> None:
    model = _model(tmp_path, hidden_act=activation)
    before = model.SerializeToString(deterministic=True)
    by_tanh(model.graph)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("value", [2**0.5, 1.0, 0.5])
def test_an_error_function_that_is_no_gelu_stays(tmp_path: Path, value: float) -> None:
    model = _model(tmp_path, num_hidden_layers=1)
    changed = 0
    for node in model.graph.node:
        if node.op_type == "Constant" and "intermediate_act" in node.name:
            found = onnx.numpy_helper.to_array(node.attribute[0].t)
            if np.isclose(found, value):
                other = onnx.numpy_helper.from_array(np.array(3.0, dtype=np.float32))
                node.attribute[0].t.CopyFrom(other)
                changed += 1
    assert changed == 1
    by_tanh(model.graph)
    assert _operators(model)["FastGelu"] == 0


def test_a_gelu_that_is_read_in_the_middle_stays(tmp_path: Path) -> None:
    model = _model(tmp_path)
    first, second = (node for node in model.graph.node if node.op_type == "Erf")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(first.output[0], onnx.TensorProto.FLOAT, None)
    )
    model.graph.node.append(onnx.helper.make_node("Neg", [second.output[0]], ["negative"]))
    by_tanh(model.graph)
    assert _operators(model)["FastGelu"] == 0


def test_values_are_evened_out_without_an_operator(tmp_path: Path) -> None:
    model = _model(tmp_path)
    seen = observe(model, _IDS)
    wanted = _scores(model, tmp_path)
    factors = {name: np.linspace(0.5, 2, len(each.largest)) for name, each in seen.items()}
    before = _operators(model)
    done = even_values(model.graph, factors)
    # What attention gives, in each of two layers; not what a normalisation or a function does.
    assert len(done) == 2
    assert all("attention/self" in name for name in done)
    assert _operators(model) == before
    for name in done:
        for node in model.graph.node:
            if node.op_type == "MatMul" and node.input[0] == name:
                weight = next(w for w in model.graph.initializer if w.name == node.input[1])
                whole = onnx.numpy_helper.to_array(weight) * factors[name][:, None]
                even = onnx.numpy_helper.from_array(whole.astype(np.float32), weight.name)
                weight.CopyFrom(even)
    after = observe(model, _IDS)
    for name in done:
        assert_allclose(after[name].largest, seen[name].largest / factors[name], rtol=1e-3)
    assert_allclose(_scores(model, tmp_path), wanted, rtol=0, atol=2e-5)


def test_values_that_are_read_elsewhere_are_left(tmp_path: Path) -> None:
    model = _model(tmp_path)
    seen = observe(model, _IDS)
    factors = {name: np.full(len(each.largest), 2.0) for name, each in seen.items()}
    first, second = (name for name in factors if "attention/self" in name)
    attended = next(node for node in model.graph.node if second in node.output)
    # One is read by somebody else, the other before it is put together.
    model.graph.node.append(onnx.helper.make_node("Neg", [first], ["negative"]))
    model.graph.node.append(onnx.helper.make_node("Neg", [attended.input[0]], ["apart"]))
    before = model.SerializeToString(deterministic=True)
    assert even_values(model.graph, factors) == set()
    assert model.SerializeToString(deterministic=True) == before


def test_int8_multiplies_by_factors_where_a_normalisation_feeds_it_alone(tmp_path: Path) -> None:
    model = _model(tmp_path)
    seen = observe(model, _IDS)
    rewrite(model, seen)
    factors = [name for node in model.graph.node for name in node.input if "int8.factor" in name]
    assert len(factors) == 2 * 2
    operators = _operators(model)
    assert (operators["FastGelu"], operators["Erf"]) == (2, 0)
    assert not [name for name in factors if "attention/self" in name]
    moved = [name for name, each in seen.items() if each.least >= -FLOOR]
    assert len(moved) == 2
    assert all("intermediate" in name for name in moved)
