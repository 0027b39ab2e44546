"""A linear model on n-grams, whose score joins the network's in every runtime."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from forged_arrays import forged, of_bfloat16
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from recording_gpu import RecordingDevice, RecordingEngine, sums
from tiny_predictor import tiny_half, tiny_tokenizer_json

from pars_export import Predictor, PredictorError
from pars_export.artifact import read_manifest, write_predictor
from pars_export.batches import padded
from pars_export.build import add_engines
from pars_export.inputs import InputSpec, TextTokenizer
from pars_export.parity import builtin_texts
from pars_export.runtimes import tensorrt
from pars_export.runtimes.arrays import arrays_bytes, pair_hash
from pars_export.runtimes.encoded import load_tokenizer
from pars_export.runtimes.ngram_half import HALF, NgramHalf, half_inputs, read_half
from pars_export.runtimes.tensorrt import TensorRtCore

if TYPE_CHECKING:
    from tests.pars_export.conftest import Write

Arrays = Mapping[str, NDArray[np.generic]]
ODD = ["", " ", "\ud800 lone", "\0", "?", "A1 " * 1_000_000, "x" * 3_000_000, "word " * 40 + "?"]
TEXTS = [*builtin_texts(), *ODD]


@pytest.fixture(scope="module")
def arrays(tokenizer_json: str) -> Arrays:
    return tiny_half(tokenizer_json)


@pytest.fixture(scope="module")
def tokenizer(exported: Path) -> TextTokenizer:
    return load_tokenizer(exported, read_manifest(exported))


def reference(arrays: Arrays, ids: Sequence[int], features: Sequence[float]) -> float:
    """The half's sum of one text, term by term."""
    numbers: dict[str, list[float]] = {name: each.tolist() for name, each in arrays.items()}
    pairs, ends = len(arrays["ngram_pair"]), len(arrays["ngram_end"])
    both = [pair_hash(one, two, pairs) for one, two in pairwise(ids)]
    counts = Counter(("ngram_token", each) for each in ids)
    counts += Counter(("ngram_pair", each) for each in both)
    total = square = 0.0
    for (name, column), count in counts.items():
        value = (1 + math.log(count)) * numbers[f"{name}_idf"][column]
        total += value * numbers[name][column]
        square += value**2
    score: float = total / math.sqrt(square) if square else 0.0
    found = [pair_hash(each, (1 << 20) + place, ends) for place, each in enumerate(ids[:4])]
    found.append(pair_hash(ids[-1], 3 << 20, ends))
    if len(ids) > 1:
        found.append(pair_hash((4 << 20) + ids[-2], ids[-1], ends))
    chained = ids[0]
    for each in ids[1:3]:
        chained = pair_hash(chained + (2 << 20), each, ends)
        found.append(chained)
    score += sum(numbers["ngram_end"][each] for each in found)
    for value, mean, scale, weight in zip(
        features,
        *(numbers[f"ngram_{name}"] for name in ("feature_mean", "feature_scale", "surface")),
        strict=True,
    ):
        score += weight * min(max((value - mean) * scale, -3.0), 3.0)
    return score + numbers["ngram_bias"][0]


def added(arrays: Arrays, tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.float64]:
    """What the half adds to each text's score."""
    every = []
    for text, (_, *content, _) in zip(texts, tokenizer.encode(texts), strict=True):
        read = text if len(text) <= 512 else f"{text[:256]}\n{text[-256:]}"
        size = max(1, len(read.encode("utf-8", "surrogatepass")))
        features = [
            math.log(1 + len(text)),
            math.log(1 + len(read.split())),
            math.log(1 + read.count("\n")),
            sum("A" <= sign <= "Z" for sign in read) / size,
            sum("0" <= sign <= "9" for sign in read) / size,
            float(read.rstrip().endswith("?")),
            float(len(text) > 512 or len(content) + 2 >= 64),
        ]
        every.append(reference(arrays, content or [tokenizer.pad_id], features))
    return np.array(every)


@pytest.mark.parametrize("runtime", ["torch", "onnx", "onnx-bf16", "onnx-int8", "openvino"])
def test_its_score_is_added_in_every_runtime(
    engines: Path, halved: Path, arrays: Arrays, tokenizer: TextTokenizer, runtime: str
) -> None:
    plain, both = (Predictor.load(folder, runtime) for folder in (engines, halved))
    scores, wanted = both.score(TEXTS), added(arrays, tokenizer, TEXTS)
    assert scores.dtype == np.float32
    assert wanted.std() > 0.1
    assert_allclose(scores - plain.score(TEXTS), wanted, rtol=0, atol=2e-5)
    assert both.score([]).shape == (0,)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_prompt_alone_and_in_any_batch_has_one_score(halved: Path, runtime: str) -> None:
    predictor = Predictor.load(halved, runtime)
    alone = np.concatenate([predictor.score([text]) for text in TEXTS])
    assert_allclose(alone, predictor.score(TEXTS), rtol=0, atol=2e-5)


def test_a_tensorrt_engine_gets_it_too(
    halved: Path, arrays: Arrays, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, shapes = RecordingDevice(), [(64, 64)]
    core = TensorRtCore("e", RecordingEngine(device, shapes), shapes, device)
    monkeypatch.setattr(tensorrt, "load_core", lambda *_, **__: core)
    manifest = replace(read_manifest(halved), engines={"tensorrt": {"file": "model.onnx"}})
    found = tensorrt.load(halved, manifest, 1).score(TEXTS)
    plain = sums(*padded(tokenizer.encode(TEXTS), tokenizer.pad_id))
    assert_allclose(found, plain + added(arrays, tokenizer, TEXTS), rtol=1e-6)


CONTENT = tiny_tokenizer_json()


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=300), max_size=8))
def test_any_texts_score_exactly_as_they_do_alone(exported: Path, texts: list[str]) -> None:
    tokenizer = TextTokenizer(exported / "tokenizer.json", InputSpec(64, "head_tail"))
    half, ids = NgramHalf(tiny_half(CONTENT), tokenizer), tokenizer.encode(texts)
    together = half.score(texts, ids)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    for text, each, score in zip(texts, ids, together, strict=True):
        assert_array_equal(half.score([text], [each]), [score])


def test_what_it_reads_is_bounded(tokenizer: TextTokenizer) -> None:
    ids, features = half_inputs(tokenizer, ODD, tokenizer.encode(ODD))
    assert min(map(len, ids)) == 1
    assert max(map(len, ids)) <= 62
    assert features.shape == (len(ODD), 7)
    # The last one's 40 words fill no more than the encoder takes, and its letters do.
    assert features[:, -1].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_the_same_arrays_are_the_same_bytes(arrays: Arrays) -> None:
    content = arrays_bytes(arrays)
    assert arrays_bytes({name: arrays[name] for name in reversed(list(arrays))}) == content
    assert arrays_bytes({**arrays, "ngram_bias": np.ones(1, "f4")}) != content


def test_an_export_writes_it_in_a_format_of_its_own(
    tmp_path: Path, write: Write, arrays: Arrays, exported: Path, tokenizer: TextTokenizer
) -> None:
    manifest = write(tmp_path / "p", ngrams=arrays)
    assert manifest.ngrams == HALF
    assert manifest == read_manifest(tmp_path / "p")
    assert json.loads((tmp_path / "p" / "predictor.json").read_text())["format_version"] == 5
    assert manifest.engines["onnx"] == read_manifest(exported).engines["onnx"], "network alone"
    plain, both = (Predictor.load(each) for each in (exported, tmp_path / "p"))
    wanted = added(arrays, tokenizer, TEXTS)
    assert_allclose(both.score(TEXTS) - plain.score(TEXTS), wanted, rtol=0, atol=2e-5)


def test_an_export_with_a_half_that_does_not_fit_leaves_nothing(
    tmp_path: Path, write: Write, arrays: Arrays
) -> None:
    with pytest.raises(
        PredictorError, match=r"ngrams\.safetensors: the array 'ngram_bias' holds NaN"
    ):
        write(tmp_path / "p", ngrams={**arrays, "ngram_bias": np.full(1, np.nan, "f4")})
    assert list(tmp_path.iterdir()) == []


def test_added_engines_leave_it_as_it_is(halved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(halved, tmp_path / "p")
    before = Predictor.load(folder, "onnx-bf16").score(TEXTS)
    manifest = add_engines(folder, ["onnx-bf16"], builtin_texts())
    assert manifest.ngrams == HALF
    assert manifest.files[HALF] == read_manifest(halved).files[HALF]
    assert_array_equal(Predictor.load(folder, "onnx-bf16").score(TEXTS), before)


def _with(halved: Path, folder: Path, content: bytes) -> Path:
    """The predictor with another half, and hashes that fit."""
    manifest = read_manifest(halved)
    files: dict[str, Path | str | bytes] = {name: halved / name for name in manifest.files}
    write_predictor(folder, manifest, {**files, HALF: content})
    return folder


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ngram_end": None}, "the array 'ngram_end' is missing"),
        ({"ngram_surface": np.zeros(6, "f4")}, "the array 'ngram_surface' has 6 features, and 7"),
        ({"ngram_pair": np.zeros((2, 2), "f4")}, r"'ngram_pair' is float32 of shape \(2, 2\)"),
        ({"ngram_pair": np.zeros(97, "i4")}, "'ngram_pair' is int32 .* expected fractions"),
        ({"ngram_pair_idf": np.zeros(98, "f4")}, "'ngram_pair_idf' has 98 buckets, and 97 were"),
        ({"ngram_end": np.full(31, np.inf, "f4")}, "'ngram_end' holds NaN or infinity"),
        ({"ngram_bias": np.zeros(1, "c8")}, "'ngram_bias' is complex64 .* expected fractions"),
    ],
)
def test_arrays_that_are_no_half(
    halved: Path, tmp_path: Path, arrays: Arrays, changes: Any, sentence: str, runtime: str
) -> None:
    changed = {name: each for name, each in ({**arrays, **changes}).items() if each is not None}
    folder = _with(halved, tmp_path / "p", arrays_bytes(changed))
    with pytest.raises(PredictorError, match=rf"ngrams\.safetensors: .*{sentence}") as caught:
        Predictor.load(folder, runtime)
    assert "student" not in str(caught.value)


def test_a_half_of_fewer_tokens_is_refused(
    halved: Path, tmp_path: Path, arrays: Arrays, tokenizer: TextTokenizer
) -> None:
    last = tokenizer.vocab_size - 1
    shorter = {name: arrays[name][:last] for name in ("ngram_token", "ngram_token_idf")}
    folder = _with(halved, tmp_path / "p", arrays_bytes({**arrays, **shorter}))
    sentence = rf"has weights for {last} tokens, and the tokenizer has ids up to {last}; they are"
    with pytest.raises(PredictorError, match=rf"ngrams\.safetensors: it {sentence} not of one"):
        Predictor.load(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"no arrays", b"PK\x03\x04", forged(b"{"), of_bfloat16("ngram_token", 300)],
)
def test_a_file_of_another_form(halved: Path, tmp_path: Path, content: bytes) -> None:
    folder = _with(halved, tmp_path / "p", content)
    with pytest.raises(PredictorError, match=r"ngrams\.safetensors: no arrays that can be read"):
        Predictor.load(folder)


def test_damage_anywhere_is_told_as_such(
    tmp_path: Path, arrays: Arrays, tokenizer: TextTokenizer
) -> None:
    whole, path, rng = arrays_bytes(arrays), tmp_path / HALF, np.random.default_rng(0)
    told = []
    for step in range(600):
        content = bytearray(whole if step % 3 else whole[: int(rng.integers(len(whole)))])
        for place in rng.integers(0, max(1, len(content)), 1 + step % 4 if step % 3 else 0):
            content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            read_half(path, tokenizer)  # a byte that nothing reads may differ
        except PredictorError as error:
            told.append(str(error))
    assert len(told) > 300
    assert all(str(path) in each for each in told)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "its content has changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes instead of"),
        (lambda path: path.unlink(), "this file of the predictor is missing"),
    ],
)
def test_a_half_that_was_changed_is_refused(
    halved: Path, tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    folder = shutil.copytree(halved, tmp_path / "p")
    damage(folder / HALF)
    with pytest.raises(PredictorError, match=rf"ngrams\.safetensors: .*{sentence}"):
        Predictor.load(folder)
