"""Predictor folders whose hashes are right and whose content is not to be trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from pars_export import Predictor, PredictorError, runtimes
from pars_export.artifact import folder_sha256, read_manifest, write_predictor
from pars_export.inputs import InputSpec
from pars_export.onnx_file import _DOWN, _FOREIGN, check_self_contained
from pars_export.words import WordTokenizer, train_tokenizer

if TYPE_CHECKING:
    from tests.pars_export.conftest import Forge, MakeNetwork, Write


def model(
    inputs: dict[str, int] | None = None,
    output: tuple[str, int, list[str]] = ("scores", TensorProto.FLOAT, ["n"]),
    value: float | None = None,
) -> onnx.ModelProto:
    """A valid model that takes ids and gives a score per row (or a constant)."""
    inputs = inputs or {"input_ids": TensorProto.INT64, "attention_mask": TensorProto.INT64}
    first = next(iter(inputs))
    nodes = [
        helper.make_node("Cast", [first], ["float"], to=output[1]),
        helper.make_node("ReduceSum", ["float", "axis"], ["sum"], keepdims=int(len(output[2]) > 1)),
        helper.make_node("Mul", ["sum", "factor"], [output[0]]),
    ]
    kind = helper.tensor_dtype_to_np_dtype(output[1])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, ["n", "t"]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(*output)],
        [
            numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
            numpy_helper.from_array(
                np.array(1.0 if value is None else value, dtype=kind), "factor"
            ),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_well_formed_foreign_model_runs_so_that_the_refusals_below_mean_something(
    forge: Forge,
) -> None:
    predictor = Predictor.load(forge(model__onnx=model().SerializeToString()))
    assert predictor.score(["what", "what is the moon"]).shape == (2,)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_returns_nan_is_named(forge: Forge, value: float) -> None:
    folder = forge(model__onnx=model(value=value).SerializeToString())
    with pytest.raises(PredictorError, match=r"forged: the model returned NaN .* 2 of 2 prompts"):
        Predictor.load(folder).score(["what", "is"])


@pytest.mark.parametrize(
    "made",
    [
        model({"ids": TensorProto.INT64, "attention_mask": TensorProto.INT64}),
        model({"input_ids": TensorProto.INT64}),
        model({"input_ids": TensorProto.INT32, "attention_mask": TensorProto.INT32}),
        model(dict.fromkeys(("input_ids", "attention_mask", "extra"), TensorProto.INT64)),
        model(output=("logits", TensorProto.FLOAT, ["n"])),
        model(output=("scores", TensorProto.DOUBLE, ["n"])),
    ],
    ids=["other input", "input missing", "other type", "extra input", "other output", "double"],
)
def test_a_model_of_another_signature_is_refused(forge: Forge, made: onnx.ModelProto) -> None:
    with pytest.raises(
        PredictorError, match=r"model\.onnx: the model's (in|out)puts are .* expect"
    ):
        Predictor.load(forge(model__onnx=made.SerializeToString()))


def test_a_model_with_scores_of_another_shape_is_refused(forge: Forge) -> None:
    made = model(output=("scores", TensorProto.FLOAT, ["n", "k"]))
    with pytest.raises(PredictorError, match=r"scores of shape \(2, 1\) for 2 prompts"):
        Predictor.load(forge(model__onnx=made.SerializeToString())).score(["a", "b"])


def test_a_model_that_fails_on_a_batch_is_named(forge: Forge) -> None:
    made = model()
    # Only the id 0 is in this table, as after a swap with a model of a smaller vocabulary.
    table = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "table")
    made.graph.initializer.append(table)
    made.graph.node[0].CopyFrom(helper.make_node("Gather", ["table", "input_ids"], ["float"]))
    with pytest.raises(PredictorError, match=r"onnxruntime failed on a batch of \(1, \d+\) ids"):
        Predictor.load(forge(model__onnx=made.SerializeToString())).score(["what is"])


def _external(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


@pytest.mark.parametrize("location", ["weights.bin", "../../secret.bin", "/etc/hostname"])
@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
def test_weights_in_another_file_are_refused_wherever_they_hide(
    forge: Forge, location: str, place: str
) -> None:
    made = model()
    tensor = numpy_helper.from_array(np.array([1.0], dtype=np.float32), "outside")
    _external(tensor, location)
    constant = helper.make_node("Constant", [], ["outside"], value=tensor)
    if place == "initializer":
        made.graph.initializer.append(tensor)
    elif place == "constant":
        made.graph.node.append(constant)
    else:
        inner = helper.make_graph([constant], "inner", [], [])
        made.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner))
    folder = forge(model__onnx=made.SerializeToString(), weights__bin=b"\0" * 4)
    with pytest.raises(PredictorError, match=r"model\.onnx: its weights lie in another file"):
        Predictor.load(folder)


def _looping(name: str, inside: bool = False) -> onnx.ModelProto:
    made = model()
    inner = helper.make_graph([], "inner", [], [])
    loop = helper.make_node(name, ["trips", "", "v"], ["o"], body=inner)
    if inside:
        branch = helper.make_graph([loop], "branch", [], [])
        loop = helper.make_node("If", ["c"], ["o"], then_branch=branch)
    made.graph.node.append(loop)
    return made


def _calling() -> onnx.ModelProto:
    made = model()
    call = helper.make_node("f", ["x"], ["y"], domain="d")
    made.functions.append(helper.make_function("d", "f", ["x"], ["y"], [call], made.opset_import))
    return made


def _sparse(inside: bool) -> onnx.ModelProto:
    made = model()
    value = numpy_helper.from_array(np.ones(1, dtype=np.float32), "v")
    sparse = onnx.SparseTensorProto(
        values=value, indices=numpy_helper.from_array(np.array([2**50])), dims=[4]
    )
    if inside:
        made.graph.node.append(helper.make_node("Constant", [], ["o"], sparse_value=sparse))
    else:
        made.graph.sparse_initializer.append(sparse)
    return made


def _training() -> onnx.ModelProto:
    made = model()
    made.training_info.add()
    return made


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (partial(_looping, "Loop"), r"a loop \(a node Loop\)"),
        (partial(_looping, "Loop", inside=True), r"a loop \(a node Loop\)"),
        (partial(_looping, "Scan"), r"a loop \(a node Scan\)"),
        (partial(_looping, "SequenceMap"), r"a loop \(a node SequenceMap\)"),
        (_calling, "functions of its own"),
        (partial(_sparse, inside=True), "sparse weights"),
        (partial(_sparse, inside=False), "sparse weights"),
        (_training, "a graph for training"),
    ],
)
def test_what_can_keep_a_runtime_busy_for_ever_is_refused(
    forge: Forge, made: Callable[[], onnx.ModelProto], what: str
) -> None:
    folder = forge(model__onnx=made().SerializeToString())
    with pytest.raises(PredictorError, match=rf"model\.onnx: it holds {what}, which no export"):
        Predictor.load(folder)


def test_the_walk_agrees_with_onnx_on_a_real_model(exported: Path) -> None:
    check_self_contained(exported / "model.onnx")


def test_the_walk_knows_every_way_down_to_a_tensor() -> None:
    """One that a later onnx brings would be a place for weights that nobody looks at."""
    ways: dict[str, dict[int, str]] = {}

    def look(message: Any) -> None:
        if message.name in ways:
            return
        below = [each for each in message.fields if each.message_type is not None]
        ways[message.name] = {each.number: each.message_type.name for each in below}
        for each in below:
            look(each.message_type)

    look(onnx.ModelProto.DESCRIPTOR)
    leading = {"TensorProto"}
    while more := {kind for kind in ways if leading & set(ways[kind].values())} - leading:
        leading |= more
    for kind, down in _DOWN.items():
        found = {n: to for n, to in ways[f"{kind}Proto"].items() if to in leading}
        refused = {number for of, number in _FOREIGN if of == kind}
        assert {n: to for n, to in found.items() if n not in refused} == {
            number: f"{below}Proto" for number, below in down.items()
        }
        assert refused <= set(found), "there is something to refuse"


def _size(size: int) -> bytes:
    """As a protocol buffer writes it."""
    found = b""
    while size > 127:
        found += bytes([size & 127 | 128])
        size >>= 7
    return found + bytes([size])


def _key(number: int, wire: int, bits: int = 0) -> bytes:
    """Of a field; ``bits`` are such as readers in C++ drop."""
    return _size(number << 3 | wire | bits)


def _field(number: int, content: bytes, bits: int = 0) -> bytes:
    """A field of bytes."""
    return _key(number, 2, bits) + _size(len(content)) + content


def _graph_beside(graph: bytes, made: onnx.ModelProto | None = None) -> bytes:
    """A model with more in its graph: readers of protocol buffers join the two."""
    return bytes((made or model()).SerializeToString()) + _field(7, graph)


HIDDEN = 1 << 33


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("bits", [0, HIDDEN], ids=["plain", "hidden"])
@pytest.mark.parametrize("value", [0.0, 1000.0])
def test_weights_in_another_file_are_refused_under_a_key_that_only_others_read(
    engines: Path, tmp_path: Path, runtime: str, bits: int, value: float
) -> None:
    """The pin would hold for any content of a file that the manifest does not list."""
    manifest = read_manifest(engines)
    file = str(manifest.engines[runtime]["file"])
    made = onnx.load(engines / file)
    bias = next(each for each in made.graph.initializer if each.name.startswith("head.bias"))
    tensor = onnx.TensorProto(name=bias.name, data_type=bias.data_type, dims=bias.dims)
    made.graph.initializer.remove(bias)
    pairs = (("location", "bias.bin"), ("length", str(4 * int(np.prod(bias.dims)))))
    outside = tensor.SerializeToString() + _key(14, 0, bits) + b"\x01"
    for key, entry in pairs:
        outside += _field(13, _field(1, key.encode()) + _field(2, entry.encode()), bits)
    contents: dict[str, bytes | str | Path] = {name: engines / name for name in manifest.files}
    contents[file] = _graph_beside(_field(5, outside), made)
    folder = tmp_path / "forged"
    write_predictor(folder, manifest, contents)
    (folder / "bias.bin").write_bytes(np.full(bias.dims, value, dtype=np.float32).tobytes())
    sentence = "a field's number is" if bits else "its weights lie in another file"
    with pytest.raises(PredictorError, match=rf"{file}: .*{sentence}"):
        Predictor.load(folder, runtime, sha256=folder_sha256(folder))


@pytest.mark.parametrize(
    "more",
    [
        _key(0, 2) + b"\0",
        _key(0, 0) + b"\0",
        _key(14, 0, 1 << 32) + b"\x01",
        _key(14, 0, 1 << 62) + b"\x01",
        b"\xf0\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x01",  # eleven bytes
        _key(13, 3) + _field(1, b"location") + _key(13, 4),
        _key(13, 4),
        _key(13, 6),
        _key(13, 7),
        _key(8, 2) + _size(1 << 20),
        _key(8, 2) + _size((1 << 64) + 0),
        _key(8, 2) + b"\xff" * 10 + b"\x01",
        _key(8, 1) + b"1234567",
    ],
)
def test_what_readers_of_a_tensor_take_differently_is_refused(tmp_path: Path, more: bytes) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, dtype=np.float32), "t").SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(_graph_beside(_field(5, tensor)))
    check_self_contained(path)
    path.write_bytes(_graph_beside(_field(5, tensor + more)))
    with pytest.raises(PredictorError, match=r"model\.onnx: not an ONNX model that can be read"):
        check_self_contained(path)


@pytest.mark.parametrize("twice", [b"", _key(14, 0) + b"\0"], ids=["once", "twice"])
@pytest.mark.parametrize(
    "more",
    [
        _key(14, 0) + b"\x01",
        _key(14, 0) + b"\x81\x80\x80\x80\x00",  # one, in five bytes
        b"\xf0\x80\x80\x80\x00\x01",  # the key in five bytes
        _key(14, 0) + _size(1 << 32 | 1),  # one, for who keeps 32 bits
        _field(13, b""),
        _key(13, 0) + b"\0",
        _field(14, b"\x01"),
    ],
)
def test_a_place_of_weights_is_seen_however_it_is_written(
    tmp_path: Path, more: bytes, twice: bytes
) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, dtype=np.float32), "t").SerializeToString()
    for content in (
        _field(5, tensor + more + twice),
        _field(5, tensor) + _field(5, more + twice),
        _field(1, _field(5, _field(5, tensor) + _field(5, more))),
        _field(1, _field(5, _field(10, tensor) + _field(10, more))),
        _field(1, _field(5, _field(6, _field(5, more)))),
        _field(1, _field(5, _field(11, _field(5, more)))),
    ):
        (tmp_path / "model.onnx").write_bytes(_graph_beside(content))
        with pytest.raises(PredictorError, match=r"its weights lie in another file"):
            check_self_contained(tmp_path / "model.onnx")


def test_a_compiled_engine_in_another_file_is_refused(forge: Forge) -> None:
    made = model()
    made.graph.node.append(
        helper.make_node(
            "EPContext",
            ["input_ids"],
            ["o"],
            domain="com.microsoft",
            embed_mode=0,
            ep_cache_context="unlisted.engine",
        )
    )
    with pytest.raises(PredictorError, match=r"model\.onnx: it holds a compiled engine"):
        Predictor.load(forge(model__onnx=made.SerializeToString()))


def test_a_file_that_is_also_of_openvinos_own_format_is_read_as_onnx(
    engines: Path, tmp_path: Path
) -> None:
    """In that format its weights would lie in a file beside it, which no manifest lists."""
    import openvino
    from openvino import opset15

    manifest = read_manifest(engines)
    file = str(manifest.engines["openvino"]["file"])
    content = (engines / file).read_bytes()
    other = tmp_path / "other.xml"
    port = opset15.parameter([-1], np.float32)
    openvino.serialize(openvino.Model([opset15.add(port, np.float32(3))], [port]), other)
    contents: dict[str, bytes | str | Path] = {name: engines / name for name in manifest.files}
    contents[file] = _field(999, other.read_bytes()) + content
    folder = tmp_path / "both"
    write_predictor(folder, manifest, contents)
    shutil.copy(other.with_suffix(".bin"), (folder / file).with_suffix(".bin"))
    assert len(openvino.Core().read_model(folder / file).get_ops()) < 10, "as if told by content"
    wanted = Predictor.load(engines, "openvino").score(["what is"])
    assert Predictor.load(folder, "openvino").score(["what is"]) == wanted


def test_onnxruntime_reads_a_file_of_any_name_as_onnx(exported: Path, tmp_path: Path) -> None:
    manifest = read_manifest(exported)
    contents: dict[str, bytes | str | Path] = {name: exported / name for name in manifest.files}
    contents["model.ort"] = contents.pop("model.onnx")
    engines = {**manifest.engines, "onnx": {**manifest.engines["onnx"], "file": "model.ort"}}
    write_predictor(tmp_path / "p", dataclasses.replace(manifest, engines=engines), contents)
    wanted = Predictor.load(exported, "onnx").score(["what is"])
    assert Predictor.load(tmp_path / "p", "onnx").score(["what is"]) == wanted


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"not a model", b"PK\x03\x04" + b"\0" * 100, pickle.dumps({"a": 1}), b"\x0a\xff"],
)
def test_what_is_no_onnx_model_is_refused(forge: Forge, content: bytes) -> None:
    with pytest.raises(PredictorError, match=r"model\.onnx: not an ONNX model"):
        Predictor.load(forge(model__onnx=content))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_walked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with contextlib.suppress(PredictorError):  # and no other error
        check_self_contained(path)


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(100):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # Attribute.g, Node.attribute, Graph.node
            graph = tag + _size(len(graph)) + graph
    (tmp_path / "deep.onnx").write_bytes(
        helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()
        + b"\x3a"
        + _size(len(graph))
        + graph
    )
    with pytest.raises(PredictorError, match="nested too deeply"):
        check_self_contained(tmp_path / "deep.onnx")


def test_a_truncated_model_is_refused_at_any_length(exported: Path, forge: Forge) -> None:
    content = (exported / "model.onnx").read_bytes()
    for part in (0.01, 0.5, 0.99):
        with pytest.raises(PredictorError, match=r"model\.onnx"):
            Predictor.load(forge(model__onnx=content[: int(part * len(content))]))


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_is_an_error_or_harmless_but_never_a_crash(
    exported: Path, forge: Forge, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray((exported / "model.onnx").read_bytes())
    # Structure, not weights, stands in the first kilobytes and in the last.
    for _ in range(8):
        content[int(rng.integers(0, 4000))] = int(rng.integers(0, 256))
    with contextlib.suppress(PredictorError):
        Predictor.load(forge(model__onnx=bytes(content))).score(["what is"])


def test_weights_are_never_unpickled(forge: Forge, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save(Bomb(), tmp_path / "bomb.bin")
    for content in (pickle.dumps(Bomb()), (tmp_path / "bomb.bin").read_bytes()):
        with pytest.raises(PredictorError, match=r"model\.safetensors"):
            Predictor.load(forge(model__safetensors=content), runtime="torch")
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_network_are_refused(
    exported: Path, forge: Forge, tmp_path: Path
) -> None:
    weights = load_file(exported / "model.safetensors")
    for change in (
        {"head.weight": torch.zeros(1, 16)},
        {"another": torch.zeros(3)},
    ):
        save_file(weights | change, tmp_path / "other.safetensors")
        with pytest.raises(PredictorError, match="not of the network"):
            Predictor.load(
                forge(model__safetensors=tmp_path / "other.safetensors"), runtime="torch"
            )
    del weights["head.bias"]
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(PredictorError, match="not of the network"):
        Predictor.load(forge(model__safetensors=tmp_path / "other.safetensors"), runtime="torch")


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_model_of_nan_weights_is_named_by_either_runtime(
    exported: Path,
    write: Write,
    make_network: MakeNetwork,
    tmp_path: Path,
    runtime: str,
) -> None:
    weights = load_file(exported / "model.safetensors")
    weights["head.bias"] = torch.full((1,), float("nan"))
    save_file(weights, tmp_path / "nan.safetensors")
    made = onnx.load(exported / "model.onnx")
    bias = next(each for each in made.graph.initializer if each.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "head.bias"))
    contents = {name: exported / name for name in read_manifest(exported).files}
    contents["model.safetensors"] = tmp_path / "nan.safetensors"
    (tmp_path / "nan.onnx").write_bytes(made.SerializeToString())
    contents["model.onnx"] = tmp_path / "nan.onnx"
    write_predictor(tmp_path / "nan", read_manifest(exported), contents)
    with pytest.raises(PredictorError, match="returned NaN"):
        Predictor.load(tmp_path / "nan", runtime=runtime).score(["a"])


@pytest.mark.parametrize("runtime", ["openvino", "onnx", "onnx-bf16", "onnx-int8"])
def test_an_engine_that_has_one_nan_among_its_weights_is_named(
    engines: Path, tmp_path: Path, runtime: str
) -> None:
    manifest = read_manifest(engines)
    file = str(manifest.engines[runtime]["file"])
    made = onnx.load(engines / file)
    bias = next(each for each in made.graph.initializer if each.name.startswith("head.bias"))
    bias.raw_data = b"\xff" * len(bias.raw_data)  # a NaN in float32 and in bfloat16
    contents: dict[str, bytes | str | Path] = {name: engines / name for name in manifest.files}
    contents[file] = made.SerializeToString()
    write_predictor(tmp_path / "nan", manifest, contents)
    with pytest.raises(PredictorError, match="returned NaN or infinity for 1 of 1 prompts"):
        Predictor.load(tmp_path / "nan", runtime=runtime).score(["a"])


def test_a_tokenizer_of_another_form(forge: Forge) -> None:
    with pytest.raises(PredictorError, match=r"tokenizer\.json: not a tokenizer"):
        Predictor.load(forge(tokenizer__json="{}"))


def _without(token: str) -> Callable[[dict[str, Any]], None]:
    return lambda rules: rules["model"]["vocab"].pop(token)


def _with(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda rules: rules.update(parts)


UNKNOWN_SPECIAL = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[NO]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {},
}


@pytest.mark.parametrize(
    "forgery",
    [
        _without("[UNK]"),
        _with(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}),
        _with(post_processor=UNKNOWN_SPECIAL),
        _with(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None}),
        _with(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
    ],
)
def test_a_tokenizer_whose_rules_are_at_odds_is_refused(
    exported: Path, forge: Forge, forgery: Callable[[dict[str, Any]], None]
) -> None:
    rules = json.loads((exported / "tokenizer.json").read_text())
    rules["added_tokens"] = []
    forgery(rules)
    with pytest.raises(PredictorError, match=r"tokenizer\.json: .*tokenizer"):
        Predictor.load(forge(tokenizer__json=json.dumps(rules)))


@pytest.mark.parametrize(
    ("forgery", "sentence"),
    [
        (
            lambda rules: rules["model"].update(unk_token="[NONE]"),
            "the tokenizer fails on a text",
        ),
        (_with(post_processor=UNKNOWN_SPECIAL), ""),
        (lambda rules: rules["model"]["vocab"].update({"the": 2**32 - 1}), "its ids have gaps"),
    ],
)
def test_a_student_s_tokenizer_whose_rules_are_at_odds_is_refused_or_does_no_harm(
    forgery: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    spec = InputSpec(max_length=32)
    content = train_tokenizer(["the moon and the sea", "the sea"], 100)
    rules = json.loads(content)
    rules["added_tokens"] = []
    forgery(rules)
    if sentence:
        with pytest.raises(PredictorError, match=sentence):
            WordTokenizer(json.dumps(rules), spec)
    else:
        forged, plain = WordTokenizer(json.dumps(rules), spec), WordTokenizer(content, spec)
        assert forged.read("the moon") == plain.read("the moon")


def test_padding_and_truncation_kept_in_a_student_s_tokenizer_do_nothing() -> None:
    spec = InputSpec(max_length=32)
    content = train_tokenizer(["the moon and the sea", "the sea"], 100)
    rules = json.loads(content)
    rules["truncation"] = {
        "direction": "Right",
        "max_length": 1,
        "strategy": "LongestFirst",
        "stride": 5,
    }
    rules["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    forged, plain = WordTokenizer(json.dumps(rules), spec), WordTokenizer(content, spec)
    assert forged.read("the moon") == plain.read("the moon")


@pytest.mark.parametrize("times", [1, 2])
def test_a_folder_that_is_replaced_while_it_is_loaded(
    exported: Path, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As an export does it, by a rename between the check of the hashes and the load."""
    place = tmp_path / "place"
    others = [forge(model__onnx=model().SerializeToString()) for _ in range(times)]
    shutil.copytree(exported, place)
    pin = folder_sha256(others[-1])
    load = runtimes.load

    def swap(*args: Any) -> Any:
        if others:
            shutil.rmtree(place)
            shutil.copytree(others.pop(0), place)
        return load(*args)

    monkeypatch.setattr(runtimes, "load", swap)
    if times > 1:
        with pytest.raises(PredictorError, match="it changed while it was loaded, twice"):
            Predictor.load(place, "onnx")
        return
    assert Predictor.load(place, "onnx").sha256 == pin


def test_a_pin_holds_where_the_folder_is_replaced_while_it_is_loaded(
    exported: Path, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, other = tmp_path / "place", forge(model__onnx=model().SerializeToString())
    shutil.copytree(exported, place)
    load = runtimes.load

    def swap(*args: Any) -> Any:
        shutil.rmtree(place)
        shutil.copytree(other, place)
        return load(*args)

    monkeypatch.setattr(runtimes, "load", swap)
    with pytest.raises(PredictorError, match="that is pinned"):
        Predictor.load(place, "onnx", sha256=folder_sha256(exported))


def test_a_child_does_not_take_what_is_put_into_the_folder_while_it_loads(
    exported: Path, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, other = tmp_path / "place", forge(model__onnx=model().SerializeToString())
    shutil.copytree(exported, place)
    predictor = Predictor.load(place, "onnx")
    predictor._after_fork()  # as in a child
    load = runtimes.load

    def swap(*args: Any) -> Any:
        shutil.rmtree(place)
        shutil.copytree(other, place)
        return load(*args)

    monkeypatch.setattr(runtimes, "load", swap)
    with pytest.raises(PredictorError, match="it changed while it was loaded after a fork"):
        predictor.score(["a"])
