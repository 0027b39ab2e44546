"""The OpenVINO engine: what it is made of, scores that no batch changes, and what it refuses."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from encoder_families import FAMILIES, network_of
from numpy.testing import assert_allclose
from onnx import TensorProto, helper

from pars_export import Predictor, PredictorError, cpu, runtimes
from pars_export.artifact import read_manifest, write_predictor
from pars_export.batches import padded
from pars_export.build import add_engines
from pars_export.cpu import multiplies_bfloat16
from pars_export.engines import ENGINES, parse_names
from pars_export.inputs import InputSpec
from pars_export.onnx import export_summed
from pars_export.parity import builtin_texts, demonstration_texts, tau_b
from pars_export.runtimes import openvino_engine
from pars_export.runtimes.openvino_engine import BFLOAT16, FLOAT32, OpenVinoCore

if TYPE_CHECKING:
    from tests.pars_export.conftest import MakeNetwork, Write

TEXTS = [*demonstration_texts()[1][:120], *builtin_texts()]
FILE = ENGINES["openvino"].file
SAME: dict[str, Any] = {"rtol": 0, "atol": 0 if multiplies_bfloat16() else 2e-5}
"""To the bit in bfloat16; float32 has its own tolerance."""
LONGEST = 64
"""Tokens of a text, by the manifest of these predictors."""
Forge = Callable[..., Path]
"""Content of the engine's file, and what the manifest says of it, to a folder."""


@pytest.fixture(scope="module")
def core(engines: Path) -> OpenVinoCore:
    return OpenVinoCore(engines / FILE, 1, openvino_engine.precision_here(), LONGEST)


def rows_of(lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(5, 60, length).tolist() for length in lengths]


def test_a_score_is_the_same_to_the_bit_in_every_batch_and_padding(core: OpenVinoCore) -> None:
    rows = rows_of([1, 2, 7, 15, 16, 17, 20, 31, 32, 33, 40, 47, 50, 63, 64, 64])
    alone = np.concatenate([core(*padded([row], 0)) for row in rows])
    for size in (2, 3, 5, len(rows)):
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            assert_allclose(core(*padded(rows[part], 0)), alone[part], **SAME)


def test_batches_are_as_wide_as_registers_are_or_as_the_longest_text(
    core: OpenVinoCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    request = core.request

    class Watched:
        def infer(self, feed: dict[str, Any]) -> Any:
            assert feed["input_ids"].shape == feed["attention_mask"].shape
            assert not feed["attention_mask"][:, length:].any()
            widths.append(feed["input_ids"].shape[1])
            return request.infer(feed)

    monkeypatch.setattr(core, "request", Watched())
    monkeypatch.setattr(core, "_widest", 60)
    for length in (1, 16, 17, 40, 49, 60):
        core(*padded(rows_of([length]), 0))
    assert widths == [16, 16, 32, 48, 60, 60]


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU computes in float32")
def test_scores_have_more_bits_than_what_computes_them(engines: Path) -> None:
    scores = Predictor.load(engines, runtime="openvino").score(TEXTS)
    rounded = (scores.view(np.uint32) & 0xFFFF) == 0
    assert rounded.mean() < 0.1


@pytest.mark.parametrize(("pooling", "outputs"), [("cls", 1), ("mean", 7)])
def test_every_head_and_pooling_keeps_the_order(
    tmp_path: Path,
    write: Write,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    pooling: str,
    outputs: int,
) -> None:
    # Random weights on 32 channels average out less of the rounding than a trained encoder.
    engine = ENGINES["openvino"]
    loose = dataclasses.replace(engine.bound, difference=1.0, tau=0.95)
    monkeypatch.setitem(ENGINES, "openvino", dataclasses.replace(engine, bound=loose))
    folder = tmp_path / "predictor"
    write(folder, make_network(pooling, outputs), to=["openvino"])
    wanted, found = (Predictor.load(folder, each).score(TEXTS) for each in ("torch", "openvino"))
    assert tau_b(wanted, found) > 0.95
    products = [n for n in onnx.load(folder / FILE).graph.node if n.op_type in ("Gemm", "MatMul")]
    assert any("head" in name for n in products for name in n.input) == (outputs > 1)


def test_what_it_computes_in_is_what_it_was_compared_in(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = read_manifest(engines).engines["openvino"]
    assert described["computes"] == openvino_engine.precision_here()
    monkeypatch.setattr(openvino_engine, "precision_here", lambda: FLOAT32)
    assert openvino_engine.precision_of(engines, {"computes": BFLOAT16}) == FLOAT32
    monkeypatch.setattr(openvino_engine, "precision_here", lambda: BFLOAT16)
    assert openvino_engine.precision_of(engines, {"computes": BFLOAT16}) == BFLOAT16
    assert openvino_engine.precision_of(engines, {"computes": FLOAT32}) == FLOAT32
    # In float32 it is the network with weights of bfloat16.
    exact = OpenVinoCore(engines / FILE, 1, FLOAT32, LONGEST)
    stored = Predictor.load(engines, runtime="onnx-bf16")
    ids = stored._ready()._tokenizer.encode(TEXTS[:9])  # type: ignore[attr-defined]
    found = np.concatenate([exact(*padded([row], 0)) for row in ids])
    assert_allclose(found, stored.score(TEXTS[:9]), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("longest", "positions", "widest"), [(60, 64, 64), (60, 60, 60)])
def test_a_limit_that_is_no_multiple_leaves_scores_alone(
    engines: Path, tmp_path: Path, longest: int, positions: int, widest: int
) -> None:
    for name in (FILE, "config.json"):
        shutil.copyfile(engines / name, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder"]["max_position_embeddings"] = positions
    (tmp_path / "config.json").write_text(json.dumps(config))
    manifest = read_manifest(engines)
    manifest = dataclasses.replace(manifest, input=InputSpec(longest, "head_tail"))
    core = openvino_engine.core_of(tmp_path / FILE, manifest.engines["openvino"], manifest, 1)
    rows = rows_of([20, 40, 47, longest])
    alone = np.concatenate([core(*padded([row], 0)) for row in rows])
    assert core._widest == widest
    if widest % 16 == 0:  # at another width the last bits of bfloat16 may fall otherwise
        assert_allclose(core(*padded(rows, 0)), alone, **SAME)


@pytest.mark.parametrize("kind", sorted(FAMILIES.keys() - {"deberta-v2"}))
def test_every_family_of_encoders_scores_as_its_network_in_any_batch(
    tmp_path: Path, kind: str
) -> None:
    network = network_of(kind)
    export_summed(network, tmp_path / "model.onnx")
    core = OpenVinoCore(tmp_path / "model.onnx", 1, openvino_engine.precision_here(), 48)
    rows = rows_of([1, 5, 16, 20, 33, 40, 48])
    with torch.inference_mode():
        batches = [map(torch.from_numpy, padded([row], 0)) for row in rows]
        wanted = np.concatenate([network(*batch).numpy() for batch in batches])
    alone = np.concatenate([core(*padded([row], 0)) for row in rows])
    assert_allclose(alone, wanted, rtol=0, atol=0.05 * max(1.0, float(wanted.std())))
    assert_allclose(core(*padded(rows, 0)), alone, **SAME)


def test_an_encoder_that_openvino_cannot_run_is_refused(tmp_path: Path) -> None:
    export_summed(network_of("deberta-v2"), tmp_path / "model.onnx")
    with pytest.raises(PredictorError, match=r"cannot load it \(.*If operation.*another runtime"):
        OpenVinoCore(tmp_path / "model.onnx", 1, FLOAT32, 48)


@pytest.mark.parametrize(
    ("flags", "computes", "runtime"),
    [
        ({"avx512_bf16", "amx_bf16"}, BFLOAT16, "openvino"),
        ({"avx512_bf16"}, BFLOAT16, "onnx-int8"),
        ({"avx2", "avx512_vnni"}, BFLOAT16, "onnx-int8"),
        ({"amx_bf16"}, FLOAT32, "onnx-int8"),
    ],
)
def test_auto_takes_it_where_the_cpu_has_matrix_units_for_it(
    engines: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], computes: str, runtime: str
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(flags))
    manifest = read_manifest(engines)
    engine = {**manifest.engines["openvino"], "computes": computes}
    manifest = dataclasses.replace(manifest, engines={**manifest.engines, "openvino": engine})
    assert runtimes.choose("auto", engines, manifest) == runtime
    assert runtimes.choose("openvino", engines, manifest) == "openvino"


def test_the_manifest_tells_what_engines_were_compared_by(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = read_manifest(engines).engines
    for name in ("onnx", "onnx-int8", "onnx-bf16"):
        version = importlib.metadata.version("onnxruntime")
        assert described[name]["compared_in"] == {"package": "onnxruntime", "version": version}
    found = described["openvino"]["compared_in"]
    assert found == openvino_engine.compared_in(described["openvino"])
    assert isinstance(found, dict)
    assert found["version"] == importlib.metadata.version("openvino")
    for flags, computes, by in (
        ({"avx512_bf16", "amx_bf16"}, BFLOAT16, "amx_bf16"),
        ({"avx512_bf16"}, BFLOAT16, "avx512_bf16"),
        ({"avx512_bf16"}, FLOAT32, FLOAT32),
        ({"avx2"}, BFLOAT16, FLOAT32),
    ):
        monkeypatch.setattr(cpu, "cpu_flags", lambda flags=flags: frozenset(flags))
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        assert openvino_engine.compared_in({"computes": computes})["instructions"] == by
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx512_bf16", "amx_bf16"}))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    limited = openvino_engine.compared_in({"computes": BFLOAT16})
    assert limited["instructions"] == "avx512_core_bf16"


def test_auto_prefers_others_to_one_that_another_version_was_compared_by(
    forged: Forge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx512_bf16", "amx_bf16"}))
    folder = forged(computes=BFLOAT16, compared_in={"package": "openvino", "version": "2026.4.0"})
    version = importlib.metadata.version
    here = "2026.4.9"
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: here if name == "openvino" else version(name)
    )
    assert Predictor.load(folder).runtime == "openvino"
    assert not caplog.text
    here = "2026.5.0"
    assert Predictor.load(folder).runtime == "onnx-int8"
    assert (
        "its engine 'openvino' was compared by openvino 2026.4.0, and 2026.5.0 is installed, which "
        "may order prompts otherwise; 'onnx-int8' is taken."
    ) in caplog.text
    caplog.clear()
    assert Predictor.load(folder, runtime="openvino").runtime == "openvino"
    assert not caplog.text
    for said in (None, "2026.4", {}, {"version": 4}, {"version": "unknown"}):  # or by nobody known
        assert Predictor.load(forged(computes=BFLOAT16, compared_in=said)).runtime == "openvino"


def test_an_older_openvino_counts_as_none(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "2026.3.9" if name == "openvino" else version(name),
    )
    assert Predictor.load(engines).runtime == "onnx-int8"
    with pytest.raises(
        PredictorError, match=r"openvino 2026\.4 or newer must be installed, which is"
    ):
        Predictor.load(engines, runtime="openvino")
    with pytest.raises(
        PredictorError, match=r"--to openvino: the package openvino 2026\.4 or newer"
    ):
        parse_names("openvino")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2026.10.0")
    assert runtimes.is_installed("openvino")


@pytest.mark.parametrize(
    "fault", ["ImportError('libtbb.so.12: cannot open it')", "OSError('libtbb.so.12: broken')"]
)
def test_one_that_cannot_be_imported_is_told_of_and_left_out(
    forged: Forge, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "broken" / "openvino").mkdir(parents=True)
    (tmp_path / "broken" / "openvino" / "__init__.py").write_text(f"raise {fault}\n")
    code = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from pars_export import Predictor, PredictorError, cpu\n"
        "cpu.cpu_flags = lambda: {'avx512_bf16', 'amx_bf16'}\n"
        "predictor = Predictor.load(sys.argv[2])\n"
        "print(predictor.runtime, len(predictor.score(['a'])))\n"
        "try:\n"
        "    Predictor.load(sys.argv[2], runtime='openvino')\n"
        "except PredictorError as error:\n"
        "    print(error)"
    )
    folder = forged(computes=BFLOAT16)
    command = [sys.executable, "-c", code, str(tmp_path / "broken"), str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    took, told = found.stdout.splitlines()
    assert took == "onnx-int8 1"
    assert re.fullmatch(
        r"The package openvino cannot be imported \(libtbb\.so\.12: .*\); install it anew, or "
        r"choose another runtime\.",
        told,
    )
    assert found.stderr.strip() == f"{told} The runtime 'onnx-int8' is taken instead of 'openvino'."


def test_a_model_that_it_cannot_load_is_left_to_the_next(
    forged: Forge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx512_bf16", "amx_bf16"}))
    folder = forged(a_model("x", 1, "NoSuchOperator"), computes=BFLOAT16)
    assert Predictor.load(folder).runtime == "onnx-int8"
    assert "NoSuchOperator" in caplog.text
    assert "'onnx-int8' is taken instead of 'openvino'" in caplog.text


def test_a_folder_whose_manifest_leaves_out_the_configuration_is_refused(
    engines: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(engines)
    names = [name for name in manifest.files if name != "config.json"]
    write_predictor(tmp_path / "less", manifest, {name: engines / name for name in names})
    with pytest.raises(PredictorError, match=r"config\.json: an encoder needs this file"):
        Predictor.load(tmp_path / "less", runtime="openvino")


def test_its_makers_are_told_nothing(engines: Path) -> None:
    code = (
        "import json, sys\n"
        "from pars_export import Predictor\n"
        "p = Predictor.load(sys.argv[1], runtime='openvino')\n"
        "assert len(p.score(['a'])) == 1\n"
        "named = [m for m in sys.modules if m.partition('.')[0] == 'openvino_telemetry']\n"
        "print(json.dumps([named, [m for m in ('torch', 'onnx', 'onnxruntime') if m in "
        "sys.modules]]))\n"
        "import openvino_telemetry"  # who wants it may have it afterwards
    )
    command = [sys.executable, "-c", code, str(engines)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [[], []]


def test_many_threads_may_import_it_at_once() -> None:
    code = (
        "import sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pars_export.runtimes.openvino_engine import openvino\n"
        "with ThreadPoolExecutor(16) as pool:\n"
        "    found = [each.result() for each in [pool.submit(openvino) for _ in range(16)]]\n"
        "assert all(each is found[0] for each in found)\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'openvino_telemetry']"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.fixture
def forged(engines: Path, tmp_path: Path) -> Forge:
    """A copy whose engine file is another, or whose manifest says something else of it."""

    def forge(content: bytes | None = None, **described: object) -> Path:
        manifest = read_manifest(engines)
        engine = {**manifest.engines["openvino"], **described}
        files: dict[str, bytes | str | Path] = {name: engines / name for name in manifest.files}
        if content is not None:
            files[FILE] = content
        changed = {**manifest.engines, "openvino": engine}
        write_predictor(tmp_path / "forged", dataclasses.replace(manifest, engines=changed), files)
        return tmp_path / "forged"

    return forge


def a_model(input_name: str, rank: int, operator: str = "Identity") -> bytes:
    shape = ["n", *("t" for _ in range(rank - 1))]
    graph = helper.make_graph(
        [helper.make_node(operator, [input_name], ["scores"])],
        "g",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)]
    ).SerializeToString()
    return made


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not an ONNX model"),
        (b"no model", "not an ONNX model"),
        (a_model("texts", 2), r"the model's inputs are \{'texts'.*; expected \{'input_ids'"),
        (a_model("x", 1, "NoSuchOperator"), r"openvino \S+ cannot load it \(.*NoSuchOperator"),
    ],
)
def test_a_file_that_is_no_engine_of_ours_is_refused(
    forged: Forge, content: bytes, sentence: str
) -> None:
    with pytest.raises(PredictorError, match=rf"{FILE}: .*{sentence}"):
        Predictor.load(forged(content), runtime="openvino")


def test_weights_in_another_file_are_refused(forged: Forge, engines: Path) -> None:
    model = onnx.load(engines / FILE)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    with pytest.raises(PredictorError, match="its weights lie in another file"):
        Predictor.load(forged(model.SerializeToString()), runtime="openvino")


@pytest.mark.parametrize("computes", ["int4", None, 16, []])
def test_an_unknown_precision_is_refused(forged: Forge, computes: object) -> None:
    told = re.escape(
        f"{FILE}: by its manifest it computes in {computes!r}; expected bfloat16 or fl"
    )
    with pytest.raises(PredictorError, match=told):
        Predictor.load(forged(computes=computes), runtime="openvino")


def test_a_truncated_file_is_refused(engines: Path, tmp_path: Path) -> None:
    manifest = read_manifest(engines)
    files: dict[str, bytes | str | Path] = {name: engines / name for name in manifest.files}
    write_predictor(tmp_path / "cut", manifest, files)
    with (tmp_path / "cut" / FILE).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(PredictorError, match=rf"{FILE}: it has 1000 bytes instead of"):
        Predictor.load(tmp_path / "cut", runtime="openvino")


def test_an_engine_beyond_its_bound_is_not_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(exported, folder)
    before = sorted(folder.iterdir())
    monkeypatch.setattr(
        OpenVinoCore, "_widened", lambda _, rows: rows + (rows[:, :1] > 0) * (len(rows) > 1)
    )
    with pytest.raises(PredictorError, match=r"The openvino engine.*nothing was written"):
        add_engines(folder, ["openvino"], builtin_texts())
    assert sorted(folder.iterdir()) == before
