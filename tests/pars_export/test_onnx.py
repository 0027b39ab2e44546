"""The exported model against the network, and exports that must fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pars_export import Predictor, PredictorError, build
from pars_export.artifact import Manifest, folder_sha256, read_manifest
from pars_export.batches import padded
from pars_export.onnx import OPSET, export_onnx
from pars_export.parity import (
    CALIBRATION,
    PROMPTS,
    builtin_texts,
    demonstration_texts,
    enough,
    measure,
    split,
    tau_b,
)
from pars_export.runtimes.encoded import Core, EncodedScorer
from pars_export.runtimes.onnxruntime_engines import OnnxCore

if TYPE_CHECKING:
    from tests.pars_export.conftest import MakeNetwork, Write


@pytest.mark.parametrize(
    ("pooling", "outputs"), [("mean", 1), ("cls", 1), ("pooler", 1), ("mean", 7)]
)
def test_onnx_scores_as_the_network_at_any_batch_and_length(
    tmp_path: Path, make_network: MakeNetwork, pooling: str, outputs: int
) -> None:
    network = make_network(pooling, outputs, seed=3)
    export_onnx(network, tmp_path / "model.onnx")
    core = OnnxCore(tmp_path / "model.onnx", threads=1)
    rng = np.random.default_rng(0)
    for rows, width in [(1, 1), (1, 128), (2, 7), (3, 3), (17, 40), (64, 2)]:
        ids = [rng.integers(1, 60, rng.integers(1, width + 1)).tolist() for _ in range(rows)]
        batch = padded(ids, pad_id=0)
        with torch.inference_mode():
            wanted = network(*map(torch.from_numpy, batch)).numpy()
        assert_allclose(core(*batch), wanted, rtol=0, atol=2e-5)
        alone = [core(*padded([row], pad_id=0))[0] for row in ids]
        assert_allclose(alone, wanted, rtol=0, atol=2e-5)


def test_heads_are_parted_without_looking_sizes_up(
    tmp_path: Path, make_network: MakeNetwork
) -> None:
    export_onnx(make_network("mean", 1), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert any("layer.1" in node.name for node in graph.node)
    looked_up = [node.input[0] for node in graph.node if node.op_type == "Shape"]
    assert "input_ids" in looked_up
    assert not [name for name in looked_up if "layer." in name]


def test_several_outputs_score_the_expected_bucket(
    make_network: MakeNetwork,
) -> None:
    network = make_network("mean", 3)
    with torch.inference_mode():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
        ids = torch.ones(2, 4, dtype=torch.int64)
        assert_allclose(network(ids, ids).numpy(), [1.3, 1.3], rtol=1e-6)


def test_padding_does_not_change_a_score(make_network: MakeNetwork) -> None:
    for pooling in ("mean", "cls", "pooler"):
        network = make_network(pooling)
        short, mask = padded([[2, 5, 6, 3]], 0)
        long, long_mask = padded([[2, 5, 6, 3], [2, *[7] * 60, 3]], 0)
        with torch.inference_mode():
            one = network(torch.from_numpy(short), torch.from_numpy(mask))
            two = network(torch.from_numpy(long), torch.from_numpy(long_mask))
        assert_allclose(one[0], two[0], rtol=0, atol=2e-5)


def test_the_file_is_one_valid_model_whose_opset_is_recorded(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {each.domain: each.version for each in model.opset_import}[""] == OPSET
    engine = read_manifest(exported).engines["onnx"]
    assert engine["opset"] == OPSET
    parity: Any = engine["parity"]
    assert 0 <= parity["max_abs_diff"] < parity["bound"] < 1e-2
    assert parity["tau"] > 0.999
    assert parity["prompts"] == PROMPTS


def test_few_texts_are_filled_up_and_many_are_what_parity_is_measured_on(
    tmp_path: Path, write: Write
) -> None:
    for texts, prompts in ((["what"], PROMPTS), ([f"say {n}" for n in range(700)], 572)):
        parity: Any = write(tmp_path / "p", texts=texts).engines["onnx"]["parity"]
        assert parity["prompts"] == prompts


def _wrong_model(monkeypatch: pytest.MonkeyPatch, make_network: MakeNetwork) -> None:
    other = make_network(seed=99)
    monkeypatch.setattr(build, "export_onnx", lambda network, path: export_onnx(other, path))


def test_an_export_beyond_its_bound_fails_and_leaves_nothing(
    tmp_path: Path,
    write: Write,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _wrong_model(monkeypatch, make_network)
    with pytest.raises(PredictorError, match=r"differ from the reference by up to .* allowed"):
        write(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_older_predictor_as_it_was(
    tmp_path: Path,
    write: Write,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "p")
    before = folder_sha256(tmp_path / "p")
    _wrong_model(monkeypatch, make_network)
    with pytest.raises(PredictorError):
        write(tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert folder_sha256(tmp_path / "p") == before
    Predictor.load(tmp_path / "p").score(["what"])


@pytest.mark.parametrize("step", ["save_model", "export_onnx", "measure", "seal"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_at_any_step_leaves_nothing(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    real = getattr(build, step)

    def fail(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)  # files of this step are written, then it fails
        raise failure

    monkeypatch.setattr(build, step, fail)
    with pytest.raises(type(failure)):
        write(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


class _DependsOnBatch:
    """An engine that is right for a prompt alone and wrong among others."""

    survives_fork = True

    def __init__(self, core: Core) -> None:
        self.core = core

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        scores = self.core(input_ids, attention_mask, facts)
        padding = np.float32(attention_mask.size - attention_mask.sum())
        return scores + np.float32(0.1) * padding


def _encoded(predictor: Predictor) -> EncodedScorer:
    scorer = predictor._ready()
    assert isinstance(scorer, EncodedScorer)
    return scorer


def test_parity_catches_an_engine_whose_scores_depend_on_the_batch(exported: Path) -> None:
    reference = Predictor.load(exported, runtime="torch")
    candidate = Predictor.load(exported, runtime="onnx")
    scorer = _encoded(candidate)
    core, tokenizer = scorer._core, scorer._tokenizer
    fine = measure(reference._ready(), scorer, core, tokenizer, builtin_texts())
    fine.check("onnx")
    bad = measure(reference._ready(), scorer, _DependsOnBatch(core), tokenizer, builtin_texts())
    with pytest.raises(PredictorError, match="int8 engine's scores differ"):
        bad.check("int8")


def test_odd_texts_count_for_differences_and_not_for_the_order(exported: Path) -> None:
    scorer = _encoded(Predictor.load(exported))
    core, tokenizer, odd = scorer._core, scorer._tokenizer, ["", "x", "word " * 200]

    class Wrong:
        """Right on the real texts, off on the others."""

        survives_fork = True

        def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
            off: NDArray[np.float32] = np.isin(texts, odd).astype("f4")
            return scorer.score(texts) + off

    texts = [text for text in builtin_texts() if text not in odd]
    found = measure(scorer, Wrong(), core, tokenizer, texts, odd=odd)
    assert (found.prompts, found.odd) == (len(texts), 3)
    assert found.tau == 1.0
    with pytest.raises(PredictorError, match="differ from the reference by up to 1"):
        found.check("onnx")


def test_few_prompts_are_filled_up_with_those_of_the_package() -> None:
    texts = enough(["mine", "mine too"])
    assert texts[:2] == ["mine", "mine too"]
    assert len(texts) == PROMPTS + CALIBRATION
    assert len(split(texts)[1]) == PROMPTS
    many = [f"prompt {number}" for number in range(PROMPTS + CALIBRATION)]
    assert enough(many) == many


def test_the_same_prompt_twice_is_one() -> None:
    calibration, compared = demonstration_texts()
    few = [*compared[:200], *compared[:200], *["mine"] * 1000]
    found = enough(few)
    assert found[:201] == [*compared[:200], "mine"]
    assert set(found) == {*compared, *calibration[:-1], "mine"}
    assert len(found) == PROMPTS + CALIBRATION


def test_nan_is_no_parity(exported: Path) -> None:
    class Broken:
        survives_fork = True

        def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.full(len(texts), np.nan, dtype=np.float32)

    scorer = _encoded(Predictor.load(exported))
    found = measure(scorer, Broken(), scorer._core, scorer._tokenizer, builtin_texts())
    with pytest.raises(PredictorError):
        found.check("onnx")
    with pytest.raises(PredictorError, match="The ranker itself scores NaN"):
        measure(Broken(), scorer, scorer._core, scorer._tokenizer, builtin_texts())


def test_tau_b_against_scipy() -> None:
    from scipy.stats import kendalltau

    rng = np.random.default_rng(1)
    for _ in range(20):
        first, second = rng.integers(0, 12, (2, 40)).astype(np.float32)
        assert_allclose(tau_b(first, second), kendalltau(first, second).statistic, atol=1e-12)
    assert tau_b(np.zeros(4, np.float32), np.arange(4, dtype=np.float32)) == 0


def test_tokenizer_and_encoder_must_be_of_one_model(
    tmp_path: Path,
    make_network: MakeNetwork,
    encoder_config: dict[str, object],
    tokenizer_json: str,
    manifest: Manifest,
) -> None:
    with pytest.raises(PredictorError, match="they are not of one model"):
        build.write_encoder_predictor(
            tmp_path / "p",
            make_network(),
            {**encoder_config, "vocab_size": 5},
            tokenizer_json,
            manifest,
        )
    gap = json.loads(tokenizer_json)
    word = next(iter(gap["model"]["vocab"]))
    gap["model"]["vocab"][word] = 5_000_000
    with pytest.raises(PredictorError, match=r"has ids up to 5000000, and .* not of one model"):
        build.write_encoder_predictor(
            tmp_path / "p", make_network(), encoder_config, json.dumps(gap), manifest
        )
    with pytest.raises(PredictorError, match=r"takes 32 tokens at most, and .* 64"):
        build.write_encoder_predictor(
            tmp_path / "p",
            make_network(),
            {**encoder_config, "max_position_embeddings": 32},
            tokenizer_json,
            manifest,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_only_fits_the_weights_is_refused(
    tmp_path: Path,
    make_network: MakeNetwork,
    encoder_config: dict[str, object],
    tokenizer_json: str,
    manifest: Manifest,
) -> None:
    with pytest.raises(PredictorError, match="the configuration is not of this network"):
        build.write_encoder_predictor(
            tmp_path / "p",
            make_network(),
            {**encoder_config, "hidden_act": "relu"},
            tokenizer_json,
            manifest,
        )
    assert list(tmp_path.iterdir()) == []
