"""Engines beside `torch` and `onnx`: written, compared, added to a folder, and held to a bound."""

from __future__ import annotations

import dataclasses
import shutil
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pars_export import ConfigError, Predictor, PredictorError
from pars_export.artifact import folder_sha256, read_manifest, write_predictor
from pars_export.bf16 import to_bf16
from pars_export.build import add_engines
from pars_export.cpu import has_matrix_units
from pars_export.engines import BY_PRECISION, ENGINES, EXACT, Source, parse_names
from pars_export.gptq import PAIR, column_scales, paired_scales, round_weight
from pars_export.onnx import export_onnx
from pars_export.parity import STUDENT, Bound, builtin_texts, demonstration_texts, split
from pars_export.runtimes import onnxruntime_engines
from pars_export.table import write_length_predictor
from pars_model.__main__ import main

if TYPE_CHECKING:
    from tests.pars_export.conftest import MakeNetwork

CPU_ENGINES = ("onnx-bf16", "onnx-int8", "openvino")


def test_engines_are_added_with_their_parity_and_the_rest_stays(
    exported: Path, engines: Path
) -> None:
    before, after = read_manifest(exported), read_manifest(engines)
    assert set(after.engines) == {*before.engines, *CPU_ENGINES}
    for name, entry in before.files.items():
        assert after.files[name] == entry
    assert dataclasses.replace(after, engines={}, files={}) == dataclasses.replace(
        before, engines={}, files={}
    )
    for name in CPU_ENGINES:
        parity = after.engines[name]["parity"]
        assert isinstance(parity, dict)
        assert parity["max_abs_diff"] <= parity["bound"]
        assert parity["tau"] >= parity["tau_bound"]
        assert parity["batch_diff"] <= parity["batch_bound"]
        onnx.checker.check_model(str(engines / ENGINES[name].file))


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_prompt_alone_and_in_any_batch_has_one_score(
    engines: Path, texts: list[str], name: str
) -> None:
    predictor = Predictor.load(engines, runtime=name)
    together = predictor.score(texts)
    alone = np.concatenate([predictor.score([text]) for text in texts])
    close: dict[str, Any] = {"rtol": 0, "atol": ENGINES[name].bound.batch * float(together.std())}
    assert_allclose(alone, together, **close)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    again = predictor.score([texts[row] for row in shuffled])
    assert_allclose(again, together[shuffled], **close)


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_the_versions_of_a_file_s_operators_are_recorded(engines: Path, name: str) -> None:
    engine: Any = read_manifest(engines).engines[name]
    opsets = onnx.load(engines / engine["file"]).opset_import
    recorded = {"": engine["opset"], **engine.get("other_opsets", {})}
    assert {each.domain: each.version for each in opsets} == recorded
    assert set(recorded) == ({"", "com.microsoft"} if name == "onnx-int8" else {""})


def test_auto_takes_the_fastest_engine_of_the_cpu(engines: Path, exported: Path) -> None:
    fastest = "openvino" if has_matrix_units() else "onnx-int8"
    assert Predictor.load(engines).runtime == fastest
    assert Predictor.load(exported).runtime == "onnx"
    with pytest.raises(PredictorError, match=r"cannot run on 'onnx-int8'; it holds onnx, torch"):
        Predictor.load(exported, runtime="onnx-int8")


@pytest.mark.parametrize("name", ["onnx-cuda", "onnx-tensorrt"])
def test_a_provider_that_onnxruntime_lacks_is_named(exported: Path, name: str) -> None:
    import onnxruntime

    if len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("this onnxruntime has GPU providers")
    with pytest.raises(PredictorError, match=r"has no (CUDA|Tensorrt)ExecutionProvider; install"):
        Predictor.load(exported, runtime=name)


def test_files_shrink(tmp_path: Path, engines: Path) -> None:
    sizes = [(engines / name).stat().st_size for name in ("model.onnx", "model-bf16.onnx")]
    assert sizes[1] < 0.8 * sizes[0]
    kinds = {
        tensor.data_type for tensor in onnx.load(engines / "model-int8.onnx").graph.initializer
    }
    assert onnx.TensorProto.INT8 in kinds


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        (Bound(0.0, 0.0, 1.0), "scores differ from the reference"),
        (Bound(9.0, 1.1, 1.0), "orders .* prompts otherwise than the reference"),
        (Bound(9.0, 0.0, -1.0), "depend on what else is in the batch"),
    ],
)
def test_an_engine_beyond_its_bound_changes_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: Bound, sentence: str
) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(exported, folder)
    before = folder_sha256(folder)
    worse = dataclasses.replace(ENGINES["onnx-bf16"], bound=bound)
    monkeypatch.setitem(ENGINES, "onnx-bf16", worse)
    monkeypatch.setattr("pars_export.parity._RESOLUTION", -1.0)
    with pytest.raises(PredictorError, match=f"The onnx-bf16 engine.*{sentence}"):
        add_engines(folder, ["onnx-bf16"], builtin_texts())
    assert [path.name for path in tmp_path.iterdir()] == ["predictor"]
    assert folder_sha256(folder) == before
    assert not (folder / "model-bf16.onnx").exists()


def test_dynamic_quantisation_of_the_tools_is_what_the_bound_refuses(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import quantize_dynamic

    def write(source: Source, path: Path) -> dict[str, object]:
        quantize_dynamic(source.onnx, path, per_channel=True)
        return {}

    folder = tmp_path / "predictor"
    shutil.copytree(exported, folder)
    real = ENGINES["onnx-int8"]
    bound = Bound(9.0, 0.0, real.bound.batch)
    dynamic = dataclasses.replace(real, write=write, bound=bound)
    monkeypatch.setitem(ENGINES, "onnx-int8", dynamic)
    with pytest.raises(PredictorError, match="depend on what else is in the batch"):
        add_engines(folder, ["onnx-int8"], builtin_texts())


def test_the_page_tells_the_bound_of_every_engine() -> None:
    page = Path(__file__).parents[2] / "docs" / "predictor-folder.md"
    lines = page.read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("| engine | difference")))
    rows = takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    told = {
        name: tuple(map(float, bounds))
        for name, *bounds in (line.strip("| ").split(" | ") for line in rows)
    }
    assert told == {
        name: (bound.difference, bound.tau, bound.batch) for name, bound in _NAMED.items()
    }


_NAMED = {
    "`onnx`": EXACT,
    "`student`": STUDENT,
    **{f"`{name}`": ENGINES[name].bound for name in CPU_ENGINES},
    **{f"`tensorrt`, `tensorrt-rtx`, {name}": bound for name, bound in BY_PRECISION.items()},
}
"""Bounds by the engine's name on the page."""


def test_names_of_engines() -> None:
    assert parse_names("onnx") == []
    for nothing in ("", " , "):
        with pytest.raises(ConfigError, match="--to names no engine; choose of onnx"):
            parse_names(nothing)
    assert parse_names("onnx, onnx-int8,onnx-bf16,onnx-int8") == ["onnx-int8", "onnx-bf16"]
    with pytest.raises(ConfigError, match=r"--to: there is no engine 'onnx-int4'; choose of onnx,"):
        parse_names("onnx-int4")


def test_the_command_adds_engines_in_place(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(exported, folder)
    lines = tmp_path / "texts.txt"
    lines.write_text("what is\nthe moon\nwrite a story of ten words\n", encoding="utf-8")
    command = ["export", str(folder), "--to", "onnx-bf16", "--texts", str(lines)]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("compared on ")
    assert printed[2].startswith("onnx-bf16 against torch (parity): {")
    assert printed[-1] == str(folder)
    assert folder_sha256(folder) in printed[-2]
    assert main([*command, "--out", str(tmp_path / "other")]) == 2
    assert "leave out --out" in capsys.readouterr().err
    assert main(["export", str(lines)]) == 2
    assert "give --out DIR" in capsys.readouterr().err


def test_only_an_encoder_has_engines(tmp_path: Path) -> None:
    write_length_predictor(tmp_path / "length")
    with pytest.raises(PredictorError, match="of kind 'length' has no engines"):
        add_engines(tmp_path / "length", ["onnx-bf16"])
    shutil.rmtree(tmp_path / "length")
    with pytest.raises(PredictorError, match="no such predictor folder"):
        add_engines(tmp_path / "length", ["onnx-bf16"])


def test_engines_are_made_by_other_texts_than_they_are_compared_on() -> None:
    calibration, compared = demonstration_texts()
    assert len(compared) >= 500
    assert len(set(calibration)) == 128
    few = ["a", "b"]
    assert split(few) == (few, few)


def test_bf16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    values[:4] = [0.0, -0.0, 1.00390625, 1.01171875]  # zero, and ties to even
    wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert_array_equal(to_bf16(values), wanted)


def test_rounding_for_real_inputs_changes_products_less_than_rounding_to_nearest() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 8)) @ rng.normal(size=(8, 32)) + 0.1 * rng.normal(size=(400, 32))
    weight = rng.normal(size=(32, 24))
    weight[:, 3] = 0
    scales = column_scales(weight)
    whole = round_weight(weight, inputs.T @ inputs, scales)
    assert np.abs(whole).max() <= 127
    assert not whole[:, 3].any()
    nearest = np.rint(weight / scales)
    errors = [
        float(np.square(inputs @ (each * scales - weight)).sum()) for each in (whole, nearest)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_no_products_of_an_int8_engine_add_up_to_more_than_sixteen_bits(engines: Path) -> None:
    """In which CPUs without dot-product instructions add two of them, cutting off what is more."""
    model = onnx.load(engines / ENGINES["onnx-int8"].file)
    constants = {each.name: each for each in model.graph.initializer}
    found = [n for n in model.graph.node if n.op_type == "MatMulIntegerToFloat"]
    assert len(found) == 12  # six in each of two layers
    for node in found:
        weight = onnx.numpy_helper.to_array(constants[node.input[1]]).astype(int)
        assert np.abs(weight).max() > 64  # where one alone would be enough for half of it
        assert _largest_sum(weight) <= np.iinfo(np.int16).max


def _largest_sum(weight: NDArray[np.int_]) -> int:
    """Largest sum of two neighbours of one sign in a column, times the largest input."""
    pairs = weight.reshape(-1, 2, weight.shape[1])
    ends = pairs.clip(0).sum(axis=1), -pairs.clip(max=0).sum(axis=1)
    return 255 * max(int(each.max()) for each in ends)


def test_pairs_keep_their_bound_and_cost_less_than_halving_every_weight() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(800, 384))
    weight = rng.normal(size=(384, 48))
    weight[:, 7] = 1.0  # every pair is too large for a fine scale
    gram = inputs.T @ inputs

    def rounded(scales: NDArray[np.float64], paired: bool) -> tuple[int, float]:
        whole = round_weight(weight, gram, scales, paired).astype(int)
        error = np.square(inputs @ (whole * scales - weight)).sum()
        return _largest_sum(whole), float(error)

    free, least = rounded(column_scales(weight), paired=False)
    bound, error = rounded(paired_scales(weight, gram), paired=True)
    half, most = rounded(column_scales(weight, 64), paired=True)
    assert max(bound, half) <= 255 * PAIR < free
    assert least < error < 0.9 * most


@pytest.mark.parametrize("pair", [(100, 28), (-100, -28), (64, 64), (-64, -64), (100, -100)])
def test_the_largest_products_are_exact_on_this_cpu(pair: tuple[int, int]) -> None:
    weight = np.tile(np.array(pair, dtype=np.int8)[:, None], (32, 32))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", 32])],
        [onnx.numpy_helper.from_array(weight, "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = np.full((9, 64), 255, dtype=np.uint8)
    inputs[4:, 1::2] = 0
    (product,) = session.run(None, {"a": inputs})
    assert_array_equal(product, inputs.astype(int) @ weight.astype(int))


def test_an_int8_model_that_is_truncated_swapped_or_gone_is_refused(
    engines: Path, exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(engines, folder)
    model = folder / "model-int8.onnx"
    whole = model.read_bytes()
    for content, sentence in (
        (whole[:-1], "bytes instead of"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "content has changed"),
        ((exported / "model.onnx").read_bytes(), "bytes instead of"),
    ):
        model.write_bytes(content)
        with pytest.raises(PredictorError, match=rf"model-int8\.onnx: .*{sentence}"):
            Predictor.load(folder)
    model.unlink()
    with pytest.raises(PredictorError, match=r"model-int8\.onnx: .* is missing"):
        Predictor.load(folder)


def _external() -> bytes:
    """A model one of whose weights lies in a file outside the folder."""
    tensor = onnx.numpy_helper.from_array(np.ones(1, dtype=np.float32), "outside")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret.bin"
    graph = helper.make_graph([], "g", [], [], [tensor])
    opset = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(graph, opset_imports=opset).SerializeToString()
    return content


@pytest.mark.parametrize(
    ("missing", "model", "sentence"),
    [
        ("torch", None, r"predictor\.json: for 'torch' it names no such engine where the file"),
        ("onnx", None, r"predictor\.json: for 'onnx' it names no such engine where the file"),
        (None, b"not a model", r"model\.onnx: not an ONNX model"),
        (None, _external(), r"model\.onnx: its weights lie in another file"),
    ],
    ids=["no torch", "no onnx", "junk", "external data"],
)
@pytest.mark.parametrize("to", [[], ["onnx-int8"]], ids=["onnx", "onnx-int8"])
def test_a_folder_that_engines_cannot_be_made_from_is_refused_and_stays(
    exported: Path,
    tmp_path: Path,
    missing: str | None,
    model: bytes | None,
    sentence: str,
    to: list[str],
) -> None:
    manifest = read_manifest(exported)
    engines = {name: engine for name, engine in manifest.engines.items() if name != missing}
    files: dict[str, Path | str | bytes] = {name: exported / name for name in manifest.files}
    if model is not None:
        files["model.onnx"] = model
    folder = tmp_path / "predictor"
    write_predictor(folder, dataclasses.replace(manifest, engines=engines), files)
    before = folder_sha256(folder)
    with pytest.raises(PredictorError, match=sentence):
        add_engines(folder, to, builtin_texts())
    assert [path.name for path in tmp_path.iterdir()] == ["predictor"]
    assert folder_sha256(folder) == before


def test_an_engine_of_another_file_is_named(exported: Path, tmp_path: Path) -> None:
    manifest = read_manifest(exported)
    engines = {**manifest.engines, "onnx": {"file": "config.json"}}
    files: dict[str, Path | str | bytes] = {name: exported / name for name in manifest.files}
    write_predictor(tmp_path / "p", dataclasses.replace(manifest, engines=engines), files)
    with pytest.raises(PredictorError, match=r"for 'onnx' it names 'config\.json' where the file"):
        add_engines(tmp_path / "p", [])


def test_the_onnx_of_a_folder_is_compared_anew(
    exported: Path, tmp_path: Path, make_network: MakeNetwork
) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(exported, folder)
    before = dict(read_manifest(folder).engines["onnx"])
    after = dict(add_engines(folder, [], [f"say {n}" for n in range(700)]).engines["onnx"])
    parity: Any = after.pop("parity")
    assert parity["prompts"] == 572
    assert after.pop("compared_on") == {"given": 572}
    assert before.pop("parity") != parity
    assert before.pop("compared_on") == {"given": 47, "shipped": 453}
    assert after == before
    export_onnx(make_network(seed=99), folder / "model.onnx")
    manifest = read_manifest(exported)
    files: dict[str, Path | str | bytes] = {name: exported / name for name in manifest.files}
    files["model.onnx"] = (folder / "model.onnx").read_bytes()
    write_predictor(folder, manifest, files)
    with pytest.raises(PredictorError, match=r"The onnx engine's scores differ from the reference"):
        add_engines(folder, ["onnx-bf16"], builtin_texts())


def test_waiting_threads_of_onnxruntime_sleep() -> None:
    options = onnxruntime_engines.session_options(2)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
