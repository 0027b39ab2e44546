"""Layers that an int8 engine leaves in float32."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from minilm_predictor import minilm_network

from pars_export import export_prompts, spared
from pars_export.artifact import folder_sha256, read_manifest
from pars_export.build import add_engines
from pars_export.engines import ENGINES
from pars_export.errors import PredictorError
from pars_export.int8 import observe, plain_session, products, store_int8
from pars_export.onnx import export_onnx
from pars_export.predictor import Predictor
from pars_export.spared import layers_of, store_sparing

IDS = [[101, *range(2000 + 7 * row, 2012 + 7 * row + row), 102] for row in range(12)]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real encoder in ONNX, with a head that nobody trained."""
    path = tmp_path_factory.mktemp("minilm") / "model.onnx"
    export_onnx(minilm_network(), path)
    return path


def scores(path: Path) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    session = plain_session(onnx.load(str(path)))
    texts = [np.array([ids], dtype=np.int64) for ids in IDS]
    return np.concatenate(
        [
            session.run(None, {"input_ids": text, "attention_mask": np.ones_like(text)})[0]
            for text in texts
        ]
    )


def test_layers_are_told_apart_by_the_names_of_their_products(minilm: Path) -> None:
    model = onnx.load(str(minilm))
    layers = layers_of(model)
    assert {number: len(names) for number, names in layers.items()} == dict.fromkeys(range(6), 6)
    assert sum(map(len, layers.values())) == len(products(model))


def test_each_try_leaves_one_more_layer_in_float32_and_is_truer_than_int8(
    minilm: Path, tmp_path: Path
) -> None:
    wanted, path = scores(minilm), tmp_path / "int8.onnx"
    store_int8(minilm, path, IDS)
    errors, left = [np.abs(scores(path) - wanted).mean()], [set[int]()]
    for layers in store_sparing(minilm, path, IDS):
        written = onnx.load(str(path))
        kinds = [node.op_type for node in written.graph.node]
        assert kinds.count("MatMulIntegerToFloat") == 6 * (6 - len(layers))
        assert set(layers_of(written)) == set(layers)
        errors.append(np.abs(scores(path) - wanted).mean())
        left.append(set(layers))
    assert [len(each) for each in left] == [0, 1, 2]
    assert left[1] < left[2]
    assert max(errors[1:]) < errors[0]


def test_layers_are_compared_by_what_they_move_beside_rounded_embeddings(
    minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[onnx.ModelProto] = []

    def spy(model: onnx.ModelProto, *given: object) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        scored.append(model)
        return np.zeros(1, dtype=np.float32)

    monkeypatch.setattr(spared, "_scores", spy)
    model = onnx.load(str(minilm))
    layers = layers_of(model)
    spared._by_sensitivity(model, layers, observe(model, IDS[:2]), IDS[:2], None)
    counts = [[node.op_type for node in each.graph.node] for each in scored]
    assert [each.count("MatMulIntegerToFloat") for each in counts] == [0, *[6] * len(layers)]
    for each in scored:
        tables = [
            tensor.name for tensor in each.graph.initializer if tensor.name.endswith(".table")
        ]
        assert any("word_embeddings" in name for name in tables)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_where_no_layer_can_be_spared_nothing_is_run(
    count: int, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> None:
        raise AssertionError("it ran the prompts")

    names = {number: frozenset({f"layer.{number}.x"}) for number in range(count)}
    monkeypatch.setattr(spared, "layers_of", lambda model: names)
    monkeypatch.setattr(spared, "observe", refused)
    assert list(store_sparing(minilm, tmp_path / "int8.onnx", IDS)) == []


def test_the_layer_that_moves_the_scores_apart_most_is_spared_first(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the embeddings alone, then of layers 0 to 5: a shift of all moves nothing apart.
    moved = [0.0, 0.3, 0.1, 0.9, 0.0, 0.2, 0.5]
    scores = iter(scale * np.arange(4.0) + (7.0 if scale == 0.1 else 0.0) for scale in moved)
    monkeypatch.setattr("pars_export.spared._scores", lambda *_: next(scores))
    assert list(store_sparing(minilm, tmp_path / "int8.onnx", IDS[:1])) == [[2], [2, 5]]


def bounded(folder: Path, texts: list[str], tau: float, patch: pytest.MonkeyPatch) -> None:
    """Add int8 that is held to ``tau``, compared on these texts alone."""
    int8 = ENGINES["onnx-int8"]
    bound = dataclasses.replace(int8.bound, tau=tau)
    patch.setitem(ENGINES, "onnx-int8", dataclasses.replace(int8, bound=bound))
    patch.setattr(export_prompts, "enough", list)
    add_engines(folder, ["onnx-int8"], texts)


def test_an_engine_beyond_its_bound_is_written_again_and_says_so(
    exported: Path,
    tmp_path: Path,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(exported, folder)
    with monkeypatch.context() as patch:
        bounded(folder, texts, 0.5, patch)
    whole = read_manifest(folder).engines["onnx-int8"]
    assert "float_layers" not in whole
    parity = whole["parity"]
    assert isinstance(parity, dict)
    monkeypatch.setattr("pars_export.spared.SHARE", 0.5)  # the tiny encoder has two layers
    before = folder_sha256(folder)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "pars"):
        bounded(folder, texts, parity["tau"] + 1e-6, patch)
    found = read_manifest(folder).engines["onnx-int8"]
    assert found["float_layers"] in ([0], [1])
    nearer = found["parity"]
    assert isinstance(nearer, dict)
    assert nearer["tau"] > parity["tau"]
    assert "is wanted): it is written again with float_layers [" in caplog.text
    assert np.isfinite(Predictor.load(folder, "onnx-int8").score(["say one word"])).all()
    assert folder_sha256(folder) != before
    after = folder_sha256(folder)
    with (
        monkeypatch.context() as patch,
        pytest.raises(PredictorError, match=r"orders .* otherwise .*; nothing was written"),
    ):
        bounded(folder, texts, 1.1, patch)
    assert folder_sha256(folder) == after
