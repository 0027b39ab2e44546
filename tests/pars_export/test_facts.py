"""Facts known at arrival: numbers from them, and every CPU engine that reads them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_predictor import tiny_half

from pars_export import ConfigError, InputError, Predictor, PredictorError
from pars_export.artifact import Manifest, read_manifest, write_predictor
from pars_export.build import add_engines, write_encoder_predictor
from pars_export.calibration import Calibration
from pars_export.facts import Facts, FactSpec, Standard, check_names, columns, rows, standardise
from pars_export.inputs import InputSpec
from pars_export.network import RankerNetwork
from pars_export.parity import builtin_texts
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.ngram_half import HALF
from pars_export.runtimes.torch_eager import load_network

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = FactSpec((Standard("prompt_tokens", math.log1p(100), 0.5), Standard("tools", 0.25, 2.0)))
TEXTS = builtin_texts()


def test_numbers_are_standardised_and_unknown_ones_are_marked() -> None:
    known = [
        Facts(prompt_tokens=100, tools=True),
        Facts(tools=False),
        Facts(max_tokens=7),
        Facts(prompt_tokens=10**9),
    ]
    wanted = np.array([[0, 1.5, 0, 0], [0, -0.5, 1, 0], [0, 0, 1, 1], [4, 0, 0, 1]])
    assert_allclose(SPEC.of(known, 4), wanted, atol=1e-6)
    assert_array_equal(SPEC.of(None, 2), [[0, 0, 1, 1]] * 2)
    assert SPEC.width == 4
    assert FactSpec().of(known, 4).shape == (4, 0)


def test_training_values_standardise_and_one_value_says_nothing() -> None:
    found = columns([Facts(prompt_tokens=n, max_tokens=512) for n in (1, 10, 100, 1000)])
    spec = standardise(["max_tokens", "prompt_tokens", "reasoning"], found)
    assert [fact.name for fact in spec.facts] == ["prompt_tokens", "max_tokens", "reasoning"]
    vectors = spec.vectors(found, 4)
    assert_allclose(vectors[:, 0].mean(), 0, atol=1e-6)
    assert_allclose(vectors[:, 0].std(), 1, rtol=1e-6)
    assert_array_equal(vectors[:, 1:], [[0, 0, 0, 0, 1]] * 4)
    other = spec.of([Facts(max_tokens=1, reasoning=True)], 1)
    # What training never varied says nothing, known or unknown.
    assert_array_equal(other, [[0, 0, 0, 1, 0, 0]])


def test_facts_are_read_from_rows_and_odd_ones_are_unknown() -> None:
    assert Facts.of({"prompt_tokens": "12", "tools": "True", "structured": 0, "x": 1}) == Facts(
        prompt_tokens=12, tools=True, structured=False
    )
    odd = {"prompt_tokens": 1.5, "max_tokens": -1, "structured": {"a": 1}, "reasoning": "so I add"}
    assert Facts.of({**odd, "tools": 2}) == Facts()
    some = [Facts(1, 2, True, False, None), Facts(reasoning=True), Facts()]
    assert rows(columns(some), 3) == some
    with pytest.raises(ConfigError, match=r"model\.facts names 'colour'; .* one of prompt_tokens"):
        check_names(["colour"], "model.facts")


@pytest.fixture(scope="module")
def predictor(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_json: str,
    encoder_config: dict[str, object],
) -> Path:
    """A predictor whose facts weigh as much as its text, with every CPU engine."""
    folder = tmp_path_factory.mktemp("facts") / "predictor"
    torch.manual_seed(0)
    network = RankerNetwork(encoder_config, "mean", facts=SPEC.width).eval()
    assert network.fact_head is not None
    torch.nn.init.normal_(network.fact_head.facts.weight)
    manifest = Manifest(
        kind="encoder",
        input=InputSpec(max_length=64, truncation="head_tail"),
        calibration=Calibration((-1.0, 0.0, 1.0), (10.0, 100.0, 1000.0)),
        facts=SPEC,
    )
    config, texts = encoder_config, builtin_texts()
    to = ["onnx-bf16", "onnx-int8", "openvino"]
    write_encoder_predictor(folder, network, config, tokenizer_json, manifest, texts, to)
    return folder


def told() -> list[Facts]:
    return [
        Facts(prompt_tokens=None if place % 3 == 0 else 7 * place, tools=place % 2 == 0)
        for place in range(len(TEXTS))
    ]


def test_the_manifest_names_them_in_a_format_of_its_own(predictor: Path, exported: Path) -> None:
    assert read_manifest(predictor).facts == SPEC
    assert json.loads((predictor / "predictor.json").read_text())["format_version"] == 3
    plain = json.loads((exported / "predictor.json").read_text())
    assert plain["format_version"] == 2
    assert "facts" not in plain
    assert "facts" not in json.loads((exported / "config.json").read_text())


@pytest.mark.parametrize(
    ("runtime", "tolerance"),
    [("torch", 2e-5), ("onnx", 2e-5), ("onnx-bf16", 0.1), ("onnx-int8", 0.2), ("openvino", 0.1)],
)
def test_every_engine_reads_them(predictor: Path, runtime: str, tolerance: float) -> None:
    network = load_network(predictor, "model.safetensors").eval()
    loaded = Predictor.load(predictor, runtime=runtime)
    assert loaded.reads == ("prompt_tokens", "tools")
    found = loaded.score(TEXTS, told())
    ids = loaded._ready()._tokenizer.encode(TEXTS)  # type: ignore[attr-defined]
    with torch.inference_mode():
        wanted = np.array(
            [
                network(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.int64), facts)
                for row, facts in zip(
                    ids, torch.from_numpy(SPEC.of(told(), len(ids))).unsqueeze(1), strict=True
                )
            ]
        ).ravel()
    assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1.0, float(wanted.std())))
    unknown = loaded.score(TEXTS)
    assert_array_equal(unknown, loaded.score(TEXTS, [Facts()] * len(TEXTS)))
    assert np.abs(found - unknown).max() > 0.5 * wanted.std()
    alone = [
        loaded.score([text], [facts])[0] for text, facts in zip(TEXTS[:9], told(), strict=False)
    ]
    assert_allclose(alone, found[:9], rtol=0, atol=0.02)


def test_what_reads_none_takes_them_and_does_not_mind(exported: Path) -> None:
    loaded = Predictor.load(exported)
    assert loaded.reads == ()
    assert_array_equal(loaded.score(TEXTS, told()), loaded.score(TEXTS))
    with pytest.raises(InputError, match="There are 1 facts for 59 texts; give one of each"):
        loaded.score(TEXTS, [Facts()])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda facts: facts[0].update(name="colour"), "facts names 'colour'"),
        (lambda facts: facts[0].update(scale=-1.0), "scale is -1.0"),
        (lambda facts: facts[0].update(mean="x"), "holds 'x'"),
        (lambda facts: facts[0].pop("mean"), "must hold name, mean and scale"),
        (lambda facts: facts.append(dict(facts[0])), "names one of them twice"),
        (lambda facts: facts.pop(), "reads 4 numbers beside the text, and .* make 2|of shape"),
    ],
)
@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_facts_that_do_not_fit_are_refused(
    predictor: Path,
    tmp_path: Path,
    change: Callable[[list[dict[str, object]]], object],
    sentence: str,
    runtime: str,
) -> None:
    folder = shutil.copytree(predictor, tmp_path / "predictor")
    manifest = json.loads((folder / "predictor.json").read_text())
    change(manifest["facts"])
    (folder / "predictor.json").write_text(json.dumps(manifest))
    with pytest.raises(PredictorError, match=sentence):
        Predictor.load(folder, runtime=runtime)


def test_a_model_with_an_input_too_many_is_refused(predictor: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(predictor, tmp_path / "predictor")
    manifest = json.loads((folder / "predictor.json").read_text())
    del manifest["facts"]
    (folder / "predictor.json").write_text(json.dumps(manifest))
    with pytest.raises(PredictorError, match=r"the model's inputs are .*facts"):
        Predictor.load(folder, runtime="onnx")


def test_only_an_encoder_reads_them() -> None:
    with pytest.raises(PredictorError, match="of kind 'length' reads no facts"):
        Manifest(kind="length", facts=SPEC)


def test_engines_are_added_to_it(predictor: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(predictor, tmp_path / "predictor")
    add_engines(folder, ["onnx-bf16"], builtin_texts())
    assert read_manifest(folder).facts == SPEC


def test_an_ngram_half_stands_beside_them(
    predictor: Path, tmp_path: Path, tokenizer_json: str
) -> None:
    manifest, folder = read_manifest(predictor), tmp_path / "predictor"
    files: dict[str, Path | str | bytes] = {name: predictor / name for name in manifest.files}
    files[HALF] = arrays_bytes(tiny_half(tokenizer_json))
    write_predictor(folder, replace(manifest, ngrams=HALF), files)
    plain, both = (Predictor.load(each, runtime="onnx") for each in (predictor, folder))
    added = both.score(TEXTS, told()) - plain.score(TEXTS, told())
    assert added.std() > 0.1
    assert_allclose(both.score(TEXTS) - plain.score(TEXTS), added, rtol=0, atol=1e-5)


def test_what_no_float_tells_apart_is_unknown() -> None:
    assert Facts.of({"max_tokens": 10**400, "prompt_tokens": 2**53 + 1}) == Facts()


def test_numbers_of_numpy_are_numbers() -> None:
    found = Facts.of({"max_tokens": np.int64(5), "tools": np.bool_(True)})
    assert found == Facts(max_tokens=5, tools=True)


@pytest.mark.parametrize("scale", [10**400, float("nan"), "1"])
def test_a_scale_that_is_no_number_is_refused(scale: object) -> None:
    with pytest.raises(PredictorError, match=r"facts\.tools holds .*; expected a number"):
        FactSpec.from_json([{"name": "tools", "mean": 0.0, "scale": scale}])
