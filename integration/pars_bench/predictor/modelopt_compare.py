"""Reduced-precision graphs of one ranker, this project's and modelopt's, on the same prompts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pars_bench.environment import describe_machine
from pars_bench.predictor import modelopt_graphs
from pars_bench.predictor.modelopt_graphs import (
    Ids,
    Write,
    float_products,
    infinite_constants,
    int8_products,
)
from pars_bench.predictor.modelopt_page import MODELOPT, OURS, Comparison, Kept
from pars_bench.progress import Progress
from pars_export.artifact import folder_sha256, read_manifest
from pars_export.build import WEIGHTS
from pars_export.engines import ONNX
from pars_export.errors import PredictorError
from pars_export.files import sha256_file
from pars_export.inputs import TextTokenizer
from pars_export.network import RankerNetwork
from pars_export.onnx import export_half
from pars_export.parity import demonstration_texts, tau_b
from pars_export.qdq import store_qdq
from pars_export.runtimes.encoded import EncodedScorer, load_tokenizer
from pars_export.runtimes.onnxruntime_engines import CPU_PLAN, OnnxCore
from pars_export.runtimes.torch_eager import load_network
from pars_export.tensorrt import BuildOptions, Profile, build_engine, import_library, profiles_for

RTX = "tensorrt_rtx"
CAPABILITY = "8.9"
"""Compute capability that engines are built for."""
PADDING = 8
"""Tokens of the row that has nothing else."""


@dataclass(frozen=True)
class Graph:
    """A graph to make and to judge."""

    maker: str
    """Whose it is; empty for the one that the others are made from."""
    precision: str
    """`fp32`, `int8` or `fp16`."""
    name: str
    write: Write


def compare(folder: Path, progress: Progress) -> Comparison:
    """Every graph of a ranker, on the prompts that an export is judged by where none are given.

    Raises:
        PredictorError: no predictor folder of an encoder, one that reads facts beside the text, or
            nvidia-modelopt is not installed or fails.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "encoder":
        raise PredictorError(
            f"{folder}: a predictor of kind {manifest.kind!r} has no graph; give an encoder's."
        )
    if manifest.facts:
        raise PredictorError(
            f"{folder}: it reads facts beside the text, which nothing here has; give a ranker of "
            "texts alone."
        )
    modelopt = modelopt_graphs.installed_version()
    rtx = _rtx_version()
    tokenizer = load_tokenizer(folder, manifest)
    made_by, judged_by = demonstration_texts()
    ids = tokenizer.encode(made_by)
    longest = tokenizer.spec.max_length
    profiles = profiles_for([len(each) for each in ids], longest) if rtx else None
    judge = Judge(folder / ONNX, tokenizer, judged_by, profiles, progress)
    with tempfile.TemporaryDirectory() as name:
        progress.say("our int8 graph: made")
        int8 = Path(name) / "int8.onnx"
        store_qdq(folder / ONNX, int8, ids)
        network = load_network(folder, WEIGHTS).eval()
        kept = [
            judge.kept(graph)
            for graph in graphs(folder / ONNX, int8, network, ids, tokenizer.pad_id)
        ]
    environment = describe_machine()
    versions = cast("dict[str, str]", environment["versions"])
    versions |= {"onnx": version("onnx"), "nvidia-modelopt": modelopt}
    if rtx:
        versions[RTX] = rtx
    return Comparison(
        folder=str(folder),
        sha256=folder_sha256(folder),
        environment=environment,
        made_by=len(made_by),
        judged_by=len(judged_by),
        kept=kept,
    )


def graphs(
    model: Path, int8: Path, network: RankerNetwork, ids: Ids, pad_id: int
) -> Iterator[Graph]:
    """All that are compared, beginning with the model itself.

    Args:
        model: the ranker in float32.
        int8: its Q/DQ form by this project.
        network: the same ranker in torch.
        ids: token ids of the prompts that graphs are made by.
        pad_id: token id of padding.
    """

    def copied(source: Path, target: Path) -> None:
        shutil.copyfile(source, target)

    def stored(_: Path, target: Path) -> None:
        shutil.copyfile(int8, target)

    def traced(_: Path, target: Path) -> None:
        export_half(network, target)

    floating = float_products(model, int8_products(int8))
    yield Graph("", "fp32", "`model.onnx`", copied)
    yield Graph(OURS, "int8", "`--to tensorrt-rtx --precision int8`", stored)
    for name, write in modelopt_graphs.int8_graphs(ids, pad_id, floating):
        yield Graph(MODELOPT, "int8", name, write)
    yield Graph(OURS, "fp16", "`--to tensorrt-rtx --precision fp16`", traced)
    for name, write in modelopt_graphs.fp16_graphs(ids, pad_id):
        yield Graph(MODELOPT, "fp16", name, write)


class Judge:
    """Makes graphs from a float32 model, and scores the same prompts by each of them."""

    def __init__(
        self,
        model: Path,
        tokenizer: TextTokenizer,
        texts: Sequence[str],
        profiles: Sequence[Profile] | None,
        progress: Progress,
    ) -> None:
        """``profiles``: what TensorRT-RTX builds each for; None where it is not installed."""
        self._model, self._tokenizer, self._texts = model, tokenizer, texts
        self._profiles, self._progress = profiles, progress
        self._wanted, _ = self._scores(model)

    def kept(self, graph: Graph) -> Kept:
        """Make a graph from a copy of the model, and compare its scores with the model's."""
        self._progress.say(" ".join(filter(None, (graph.maker, graph.precision, graph.name))))
        with tempfile.TemporaryDirectory() as name:
            source, target = Path(name) / "source.onnx", Path(name) / "target.onnx"
            shutil.copyfile(self._model, source)
            graph.write(source, target)
            found, padding = self._scores(target)
            sound = bool(np.isfinite(found).all())
            worst = float(np.abs(found - self._wanted).max()) if sound else None
            return Kept(
                maker=graph.maker,
                precision=graph.precision,
                name=graph.name,
                products=len(int8_products(target)),
                tau=tau_b(self._wanted, found) if sound else None,
                difference=None if worst is None else worst / float(self._wanted.std()),
                distinct=len(np.unique(found)),
                padding=padding,
                infinite=infinite_constants(target),
                builds=self._builds(target, graph.precision),
                rewrote=sha256_file(source) != sha256_file(self._model),
            )

    def _scores(self, path: Path) -> tuple[NDArray[np.float32], float]:
        """Scores (n,) of the texts, and the score of a row of padding."""
        core = OnnxCore(path, threads=1)
        scores = EncodedScorer(self._tokenizer, core, CPU_PLAN).score(self._texts)
        row = np.full((1, PADDING), self._tokenizer.pad_id, dtype=np.int64)
        return scores, float(core(row, np.zeros_like(row))[0])

    def _builds(self, path: Path, precision: str) -> bool | None:
        if self._profiles is None:
            return None
        options = BuildOptions(precision, capabilities=(CAPABILITY,))
        try:
            build_engine(RTX, path, path.with_suffix(".engine"), self._profiles, options)
        except PredictorError as error:
            self._progress.say(str(error))
            return False
        return True


def _rtx_version() -> str | None:
    try:
        return str(import_library(RTX).__version__)
    except PredictorError:
        return None
