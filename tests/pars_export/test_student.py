from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forged_arrays import of_bfloat16
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from pars_export import Predictor, PredictorError
from pars_export.artifact import Manifest, write_predictor
from pars_export.calibration import Calibration
from pars_export.inputs import InputSpec
from pars_export.parity import builtin_texts
from pars_export.runtimes import blas
from pars_export.runtimes.arrays import arrays_bytes, pair_hash
from pars_export.runtimes.blas import BlasThreads, openblas
from pars_export.runtimes.ngrams import NgramNetwork
from pars_export.runtimes.student import TOKENIZER, WEIGHTS, StudentNetwork, read_network
from pars_export.words import WordTokenizer, train_tokenizer
from pars_model.linear import Design, LinearShape
from pars_model.student import StudentEnsemble, StudentModule, StudentShape
from pars_model.student_fit import predict

TEXTS = builtin_texts()
CONTENT = train_tokenizer(TEXTS, 300)
SPEC = InputSpec(32, "head_tail")
Arrays = dict[str, NDArray[np.generic]]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer() -> WordTokenizer:
    return WordTokenizer(CONTENT, SPEC)


@pytest.fixture(scope="module")
def network(tokenizer: WordTokenizer) -> StudentModule:
    torch.manual_seed(0)
    shape = StudentShape(vocabulary=300, buckets=500, width=8, channels=12, neurons=10)
    _, features = tokenizer.read_all(TEXTS)
    module = StudentModule(shape, tokenizer.vocab_size, features)
    with torch.no_grad():  # large enough that every part matters
        for weight in module.parameters():
            weight.copy_(torch.randn_like(weight))
        # The runtime has int8 rows and float16: give torch the same ones.
        arrays = {name: each.astype("f4") for name, each in module.arrays().items()}
        rows = {name: arrays[name] * arrays[f"{name}_scale"] for name in ("token", "pair")}
        rows |= {"head": arrays["head"], "tail": arrays["tail"]}
        rows["conv"] = arrays["conv"].reshape(24, 12).T
        for name, weight in rows.items():
            getattr(module, name).weight.copy_(torch.from_numpy(weight))
    module.eval()
    return module


@pytest.fixture(scope="module")
def linear(tokenizer: WordTokenizer) -> Arrays:
    """A linear model on the same tokens."""
    ids, features = tokenizer.read_all(TEXTS)
    rows = np.arange(len(TEXTS))
    design = Design(ids, features, rows, tokenizer.vocab_size, LinearShape(3001, 501, penalty=0.1))
    target = np.random.default_rng(2).normal(size=len(TEXTS))
    return design.arrays(design.fit(rows, target, np.ones(len(TEXTS))))


@pytest.fixture
def write(tmp_path: Path, network: StudentModule) -> Write:
    def write(content: bytes | None = None, **changes: NDArray[np.generic] | None) -> Path:
        arrays = {**network.arrays(), **changes}
        kept = {name: each for name, each in arrays.items() if each is not None}
        manifest = Manifest(
            kind="student",
            input=SPEC,
            engines={"student": {"file": WEIGHTS}},
            calibration=Calibration((-1.0, 1.0), (1.0, 100.0)),
        )
        files: dict[str, Path | str | bytes] = {
            TOKENIZER: CONTENT,
            WEIGHTS: arrays_bytes(kept) if content is None else content,
        }
        write_predictor(tmp_path / "student", manifest, files)
        return tmp_path / "student"

    return write


def assert_same(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))


def test_numpy_scores_as_torch_does(
    write: Write, network: StudentModule, tokenizer: WordTokenizer
) -> None:
    predictor = Predictor.load(write())
    assert predictor.runtime == "student"
    found = predictor.score(TEXTS)
    assert found.dtype == np.float32
    wanted = predict(network, *tokenizer.read_all(TEXTS))
    assert wanted.std() > 1
    assert_same(found, wanted)


@pytest.mark.parametrize("width", [3, 12])
def test_embeddings_begin_where_the_teacher_sees_words(
    tokenizer: WordTokenizer, width: int
) -> None:
    torch.manual_seed(0)
    shape = StudentShape(vocabulary=300, buckets=500, width=8, channels=12, neurons=10)
    module = StudentModule(shape, tokenizer.vocab_size, tokenizer.read_all(TEXTS)[1])
    before = module.token.weight.detach().clone()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(tokenizer.vocab_size, width)).astype("f4")
    vectors[:, 0] *= 100  # the first component is nearly this
    module.begin(vectors + 7)
    found = module.token.weight.detach()
    assert torch.equal(found[:2], before[:2])
    assert torch.equal(found[:, 3:], before[:, 3:]) == (width == 3)
    assert abs(np.corrcoef(found[2:, 0], vectors[2:, 0])[0, 1]) > 0.99
    assert found[2:, : min(width, 8)].std() == pytest.approx(0.1, rel=0.01)


def test_a_prompt_alone_and_in_any_batch_has_one_score(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(write())
    together = predictor.score(TEXTS)
    assert_same(np.concatenate([predictor.score([each]) for each in TEXTS]), together)
    assert_same(predictor.score(TEXTS[::-1])[::-1], together)
    monkeypatch.setattr("pars_export.runtimes.student._TOKENS", 40)
    monkeypatch.setattr("pars_export.runtimes.student._LENGTHS", 2)
    assert_same(predictor.score(TEXTS), together)


@pytest.fixture
def two_threads() -> Iterator[Callable[[], int]]:
    """How many threads OpenBLAS has, which is 2 to start with."""
    found = openblas()
    if found is None:
        pytest.skip("numpy is linked with another library than OpenBLAS")
    get, set_ = found
    before = get()
    set_(2)
    yield get
    set_(before)


def test_products_use_as_many_threads_as_the_predictor_may(
    write: Write, two_threads: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    for name in ("_one", "_score"):
        network = getattr(StudentNetwork, name)

        def spied(self: StudentNetwork, *given: Any, network: Any = network) -> NDArray[np.float32]:
            seen.append(two_threads())
            found: NDArray[np.float32] = network(self, *given)
            return found

        monkeypatch.setattr(StudentNetwork, name, spied)
    folder = write()
    for threads in (1, 2):
        predictor = Predictor.load(folder, threads=threads)
        predictor.score(["a", "b"])
        predictor.score(["a"])
    assert seen == [1, 1, 2, 2]
    assert two_threads() == 2  # as it was for everybody else


def test_the_number_of_threads_comes_back_when_the_last_one_is_done(
    two_threads: Callable[[], int],
) -> None:
    for other in (1, 2):
        first, second = BlasThreads(1), BlasThreads(other)
        first.__enter__()
        second.__enter__()
        first.__exit__()
        assert two_threads() == 1
        second.__exit__()
        assert two_threads() == 2
    with pytest.raises(ValueError, match="wrong"), BlasThreads(1):
        raise ValueError("wrong")
    assert two_threads() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_multiplies_can_score(write: Write) -> None:
    predictor = Predictor.load(write())
    wanted = predictor.score(TEXTS[:4])
    inside, done = threading.Event(), threading.Event()

    def multiply() -> None:
        with BlasThreads(1), blas._limit.lock:  # where a fork is worst
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=multiply)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            os._exit(0 if (predictor.score(TEXTS[:4]) == wanted).all() else 1)
        finally:
            os._exit(2)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert (predictor.score(TEXTS[:4]) == wanted).all()


def test_many_threads_score_at_once(write: Write) -> None:
    predictor = Predictor.load(write())
    wanted = predictor.score(TEXTS)
    barrier = threading.Barrier(64)

    def call(_: int) -> NDArray[np.float32]:
        barrier.wait()
        return predictor.score(TEXTS)

    with ThreadPoolExecutor(64) as pool:
        for found in pool.map(call, range(64)):
            assert (found == wanted).all()


def test_pairs_are_hashed_alike_in_numpy_and_torch_and_into_all_buckets() -> None:
    first, second = np.meshgrid(np.arange(200), np.arange(200))
    numpy = pair_hash(first.ravel(), second.ravel(), 1000)
    one, two = (torch.from_numpy(each.ravel()) for each in (first, second))
    assert (pair_hash(one, two, 1000).numpy() == numpy).all()
    counts = np.bincount(numpy, minlength=1000)
    assert counts.min() > 0
    assert counts.max() < 4 * counts.mean()
    assert pair_hash(np.array([7]), np.array([11]), 32_768).tolist() == [2643]


@pytest.mark.parametrize("buckets", [500, 512, 1])
def test_one_text_has_the_score_that_it_has_among_others(
    write: Write, network: StudentModule, buckets: int
) -> None:
    """Alone it goes another way, with a hash in 32 bits where there are a power of two buckets."""
    rows = np.resize(network.arrays()["pair"], (buckets, 8))
    scale = np.resize(network.arrays()["pair_scale"], (buckets, 1))
    predictor = Predictor.load(write(pair=rows, pair_scale=scale))
    alone = np.concatenate([predictor.score([text]) for text in TEXTS])
    assert_allclose(alone, predictor.score(TEXTS), rtol=1e-4, atol=1e-5)


def test_odd_texts(write: Write) -> None:
    predictor = Predictor.load(write())
    scores = predictor.score(["", "\ud800 lone", "\0", "a " * 1_000_000, "日本語" * 1000])
    assert np.isfinite(scores).all()
    assert predictor.score([]).shape == (0,)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("gate", None, "the array 'gate' is missing"),
        ("gate", np.zeros(3, "f4"), "the array 'gate' has 3 channels, and 12 were expected"),
        ("conv", np.zeros((3, 8), "f4"), r"the array 'conv' is float32 of shape \(3, 8\)"),
        (
            "token",
            np.zeros((300, 8), "f4"),
            "the array 'token' is float32 .* expected whole numbers",
        ),
        ("gate", np.zeros(12, "?"), "the array 'gate' is bool .* expected fractions"),
        ("token", np.zeros((300, 8), "u1"), "the array 'token' is uint8 .* expected whole numbers"),
        ("out_bias", np.full(1, np.nan, "f4"), "the array 'out_bias' holds NaN"),
        ("hidden", np.zeros((5, 10), "f4"), "the array 'hidden' has 5 inputs"),
    ],
)
def test_arrays_that_are_no_student(
    write: Write, name: str, change: NDArray[np.generic] | None, sentence: str
) -> None:
    folder = write(**{name: change})
    with pytest.raises(PredictorError, match=rf"student\.safetensors: {sentence}"):
        Predictor.load(folder)


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\x03\x04", of_bfloat16("gate", 12)])
def test_a_file_of_another_form(write: Write, content: bytes) -> None:
    with pytest.raises(PredictorError, match=r"student\.safetensors: no arrays that can be read"):
        Predictor.load(write(content))


def test_tokenizer_and_weights_of_two_students(write: Write, network: StudentModule) -> None:
    arrays = network.arrays()
    shorter = {name: arrays[name][:-1] for name in ("token", "token_scale")}
    with pytest.raises(PredictorError, match="they are not of one student"):
        Predictor.load(write(**shorter))


def test_serving_needs_the_base_dependencies_alone(write: Write) -> None:
    code = """
import sys
from pars_export import Predictor
assert Predictor.load(sys.argv[1]).expected_tokens(["write a story"]).shape == (1,)
heavy = {"torch", "onnxruntime", "transformers", "scipy", "lightning"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code, str(write())], check=True)


def test_a_convolution_and_a_linear_model_are_added_up(
    network: StudentModule, tokenizer: WordTokenizer, linear: Arrays
) -> None:
    deep, (ids, features) = network.arrays(), tokenizer.read_all(TEXTS)
    both = read_network(deep | linear)
    wanted = StudentNetwork(deep)(ids, features) + NgramNetwork(linear)(ids, features)
    assert NgramNetwork(linear)(ids, features).std() > 0.1
    assert np.array_equal(both(ids, features), wanted)
    alone = [both([each], features[[row]])[0] for row, each in enumerate(ids)]
    assert_allclose(alone, wanted, atol=1e-4 * wanted.std())
    assert both([], features[:0]).shape == (0,)
    fewer = {name: linear[name][:-1] for name in ("ngram_token", "ngram_token_idf")}
    with pytest.raises(
        PredictorError, match=r"one network have \d+ tokens, and those of another \d+"
    ):
        read_network(deep | linear | fewer)
    with pytest.raises(PredictorError, match="'conv' is missing"):
        read_network({name: each for name, each in (deep | linear).items() if name != "conv"})


def test_members_score_by_their_mean(network: StudentModule, tokenizer: WordTokenizer) -> None:
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.out.weight.copy_(torch.randn_like(other.out.weight))
    ids, features = tokenizer.read_all(TEXTS)
    one, two = (StudentNetwork(each.arrays())(ids, features) for each in (network, other))
    both = StudentEnsemble([network, other]).eval()
    found = read_network(both.arrays())(ids, features)
    assert_allclose(found, (one + two) / 2, atol=1e-5 * one.std())
    assert_allclose(found, predict(both, ids, features), atol=1e-4 * one.std())
    both.rescale(2.0, 4.0)
    assert_allclose(
        read_network(both.arrays())(ids, features), (found - 2) / 4, atol=1e-5 * one.std()
    )
    assert StudentEnsemble([network]).arrays().keys() == network.arrays().keys()
    broken = {name: each for name, each in both.arrays().items() if name != "gate.1"}
    with pytest.raises(PredictorError, match="'gate' is missing"):
        read_network(broken)
