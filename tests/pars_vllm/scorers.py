"""What tests of a scorer with a real process share; its fixtures stand in conftest.py."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pars_export.artifact import folder_sha256
from pars_export.table import write_table_predictor
from pars_vllm.metrics import Counters
from pars_vllm.scorer import Limits, Scorer
from pars_vllm.scorer_worker import WorkerOptions
from pars_vllm.tokenizer import TokenizerSource

WAIT = 60.0

Make = Callable[..., Scorer]


@contextmanager
def scorers(tmp_path: Path, tokenizer_folder: Path) -> Iterator[Make]:
    """Gives what makes scorers of a table of lengths, or of a predictor folder; closes them all."""
    made: list[Scorer] = []

    def build(
        lengths: dict[str, float] | None = None, folder: Path | None = None, **limits: Any
    ) -> Scorer:
        if folder is None:
            folder = tmp_path / "table"
            write_table_predictor(folder, lengths or {})
        options = WorkerOptions(
            str(folder), folder_sha256(folder), TokenizerSource(str(tokenizer_folder))
        )
        scorer = Scorer(options, Limits(**limits), Counters())
        made.append(scorer)
        return scorer

    try:
        yield build
    finally:
        for scorer in made:
            scorer.close()


def until(condition: Callable[[], object], scorer: Scorer) -> list[tuple[str, float | None]]:
    """Poll until the condition holds; what was answered meanwhile."""
    answers = []
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        answers += scorer.poll()
        time.sleep(0.01)
    return answers + scorer.poll()


def die(scorer: Scorer) -> None:
    """The process ends, and the loss is noticed."""
    losses = scorer.counters.losses
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.counters.losses > losses, scorer)


def forbid(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def write_nan_predictor(folder: Path, tokenizer_folder: Path) -> None:
    """An exported model whose scores are no numbers."""
    from onnx import TensorProto, helper

    from pars_export.artifact import Manifest, write_predictor
    from pars_export.calibration import Calibration

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch"])
    nodes = [
        helper.make_node("Add", ["input_ids", "attention_mask"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "nan", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_predictor(
        folder,
        Manifest(
            kind="encoder",
            engines={"onnx": {"file": "model.onnx", "opset": 17}},
            calibration=Calibration((0.0, 1.0), (1.0, 100.0)),
        ),
        {
            "model.onnx": model.SerializeToString(),
            "config.json": json.dumps({"encoder": {}, "pooling": "cls", "outputs": 1}),
            "tokenizer.json": tokenizer_folder / "tokenizer.json",
        },
    )
