"""A ranker's network becomes a predictor folder: weights, engines, parity, manifest.

Engines are made of and compared with the network alone. An n-gram half beside it is the same
float32 sum after every engine.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_model

from pars_export.artifact import MANIFEST, Manifest, predictor_folder, read_manifest, seal
from pars_export.batches import BatchPlan
from pars_export.engines import ENGINES, EXACT, ONNX, Engine, Source, remember_built
from pars_export.errors import PredictorError
from pars_export.export_prompts import ExportPrompts, export_prompts
from pars_export.inputs import TextTokenizer
from pars_export.network import RankerNetwork
from pars_export.onnx import OPSET, export_onnx
from pars_export.ort import onnxruntime
from pars_export.parity import Bound, Parity, builtin_texts, measure, some_facts
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.encoded import CONFIG, TOKENIZER, Core, EncodedScorer, check_encoder
from pars_export.runtimes.ngram_half import HALF, read_half
from pars_export.runtimes.onnxruntime_engines import CPU_PLAN, OnnxCore
from pars_export.runtimes.torch_eager import TorchCore, load_network
from pars_export.tensorrt import BuildOptions, check_known, check_used
from pars_export.threads import check_threads

WEIGHTS = "model.safetensors"

log = logging.getLogger("pars")


def write_encoder_predictor(
    out: str | Path,
    network: RankerNetwork,
    encoder_config: Mapping[str, object],
    tokenizer_json: str,
    manifest: Manifest,
    texts: Sequence[str] | ExportPrompts = (),
    to: Sequence[str] = (),
    threads: int = 1,
    options: BuildOptions | None = None,
    ngrams: Mapping[str, NDArray[np.generic]] | None = None,
) -> Manifest:
    """Write the predictor folder of a trained network, whole or not at all.

    Args:
        out: where; an older predictor there is replaced.
        network: the trained network.
        encoder_config: the `config.json` that its encoder was built from.
        tokenizer_json: content of its encoder's `tokenizer.json`.
        manifest: input, calibration, training and metrics, the latter of network and half
            together; engines, files and the half are filled in here.
        texts: prompts for the comparison of engines, and for what engines are made by,
            filled up by those of `pars_export.parity.demonstration_texts`; or which are for what.
        to: names of `ENGINES` to write beside `torch` and `onnx`.
        threads: cores to use for the comparison.
        options: of TensorRT engines.
        ngrams: arrays of its n-gram half (`pars_export.runtimes.ngram_half`); None for none.

    Returns:
        The manifest as written.

    Raises:
        ConfigError: threads below 1, or options that an engine cannot have.
        PredictorError: an engine or the reloaded network does not score as the network does,
            tokenizer and encoder or half do not belong together, or ``out`` holds something else
            than a predictor.
    """
    check_threads(threads)
    _check_options(to, options)
    with _naming(out), predictor_folder(out) as folder:
        config = {
            "encoder": dict(encoder_config),
            "pooling": network.pooling,
            "outputs": network.head.out_features,
        }
        if manifest.facts:
            config["facts"] = manifest.facts.width
        (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
        tokenizer = TextTokenizer(folder / TOKENIZER, manifest.input)
        check_encoder(folder, tokenizer)
        if ngrams is not None:
            (folder / HALF).write_bytes(arrays_bytes(ngrams))
            read_half(folder / HALF, tokenizer)  # what cannot be read back must not be written
            manifest = replace(manifest, ngrams=HALF)
        save_model(network.float(), str(folder / WEIGHTS))
        # The reference is what a user will load, not the network in memory.
        reference = load_network(folder, WEIGHTS).eval()
        _check_same(network.eval(), reference)
        export_onnx(reference, folder / ONNX)
        writer = _Writer(folder, manifest, reference, tokenizer, texts, threads, options)
        engines: dict[str, Mapping[str, object]] = {
            "torch": {"file": WEIGHTS},
            "onnx": {
                "file": ONNX,
                "opset": OPSET,
                "exporter": f"torch {torch.__version__}",
                **writer.base(),
            },
        }
        engines |= {name: writer.write(name) for name in to}
        sealed = seal(
            folder,
            replace(
                manifest,
                engines=engines,
                training=_finite(manifest.training),
                metrics=_finite(manifest.metrics),
            ),
        )
        # A note of a folder that is not there after all harms nobody.
        remember_built(sealed, to)
    return sealed


def add_engines(
    path: str | Path,
    to: Sequence[str],
    texts: Sequence[str] | ExportPrompts = (),
    threads: int = 1,
    options: BuildOptions | None = None,
) -> Manifest:
    """Write engines into a predictor folder that is there; all of them or none.

    Its `onnx` is compared anew first, on the prompts of this export, for engines are made from it.

    Args:
        path: the predictor folder; it is replaced by one with the engines when all stand.
        to: names of `ENGINES`; one that the folder has is written anew.
        texts: as in `write_encoder_predictor`.
        threads: cores to use for the comparison.
        options: of TensorRT engines.

    Raises:
        ConfigError: threads below 1, or options that an engine cannot have.
        PredictorError: no encoder's predictor folder, or an engine beyond its bound, the `onnx`
            that is there among them.
    """
    check_threads(threads)
    _check_options(to, options)
    path = Path(path)
    manifest = read_manifest(path)
    if manifest.kind != "encoder":
        raise PredictorError(
            f"{path}: a predictor of kind {manifest.kind!r} has no engines; give an encoder's."
        )
    _check_base(path, manifest)
    with _naming(path), predictor_folder(path) as folder:
        for name in manifest.files:
            shutil.copyfile(path / name, folder / name)
        tokenizer = TextTokenizer(folder / TOKENIZER, manifest.input)
        reference = load_network(folder, WEIGHTS).eval()
        writer = _Writer(folder, manifest, reference, tokenizer, texts, threads, options)
        onnx = {**manifest.engines["onnx"], **writer.base()}
        engines = {**manifest.engines, "onnx": onnx}
        engines |= {name: writer.write(name) for name in to}
        sealed = seal(folder, replace(manifest, engines=engines))
        remember_built(sealed, to)
    return sealed


def _check_base(path: Path, manifest: Manifest) -> None:
    """Refuse a folder without the two files that engines are compared with and made from."""
    for name, file in (("torch", WEIGHTS), ("onnx", ONNX)):
        found = manifest.engines.get(name, {}).get("file")
        if found != file:
            told = "names no such engine" if found is None else f"names {found!r}"
            raise PredictorError(
                f"{path / MANIFEST}: for {name!r} it {told} where the file {file!r} was expected, "
                "which other engines need; export the checkpoint again."
            )


def _check_options(to: Sequence[str], options: BuildOptions | None) -> None:
    """Refuse what one of the engines cannot have, or none heeds, before minutes go into others."""
    options = options or BuildOptions()
    for name in to:
        check_known(ENGINES[name].package, options)
    check_used(to, options)


class _Writer:
    """Writes engines into a folder and compares each with the reference."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        reference: RankerNetwork,
        tokenizer: TextTokenizer,
        texts: Sequence[str] | ExportPrompts,
        threads: int,
        options: BuildOptions | None,
    ) -> None:
        prompts = export_prompts(texts)
        self._texts = prompts.compared_on.texts
        self._beside = {"compared_on": prompts.compared_on.counts}
        self._folder = folder
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._threads = threads
        self._reference = EncodedScorer(tokenizer, TorchCore(reference, threads))
        ids = tokenizer.encode(prompts.made_by.texts)
        self._source = Source(
            reference,
            folder / ONNX,
            ids,
            tokenizer.spec.max_length,
            options or BuildOptions(),
            some_facts(manifest.facts.width, len(ids)),
            prompts.made_by.counts,
        )

    def base(self) -> dict[str, object]:
        """What the manifest says of the comparison of `onnx`, from which engines are made."""
        parity = self.compare("onnx", self._folder / ONNX, EXACT)
        return {"parity": parity, "compared_in": _by_onnxruntime(), **self._beside}

    def write(self, name: str) -> dict[str, object]:
        """Write one engine; return what the manifest says of it."""
        engine = ENGINES[name]
        path = self._folder / engine.file
        found = {"file": engine.file, **engine.write(self._source, path), **self._beside}
        bound = engine.bound_for(self._source.options)
        if engine.graph is None:
            return self._nearer(name, path, bound, found)
        graph = self._folder / engine.graph
        found["graph_parity"] = self.compare(name, graph, bound)
        graph.unlink()
        parity = self._measured(path, bound, engine, found)
        if parity is not None:
            parity.check(name)
            found["parity"] = parity.to_json()
        return found

    def _nearer(
        self, name: str, path: Path, bound: Bound, found: Mapping[str, object]
    ) -> dict[str, object]:
        """What the manifest says of a file that was written, or written again until it is good."""
        engine = ENGINES[name]
        tries = iter(()) if engine.again is None else engine.again(self._source, path)
        while True:
            parity = self._measured(path, bound, engine, found)
            assert parity is not None  # as it may be of an engine for a GPU
            told = None if parity.fault is None else next(tries, None)
            if told is None:
                break
            said = ", ".join(f"{key} {value}" for key, value in told.items())
            log.warning(f"The {name} engine{parity.fault}: it is written again with {said}.")
            found = {**found, **told}
        parity.check(name)
        told_by = _by_onnxruntime() if engine.compared_in is None else engine.compared_in(found)
        return {**found, "parity": parity.to_json(), "compared_in": dict(told_by)}

    def compare(self, name: str, path: Path, bound: Bound) -> dict[str, float | int]:
        """Parity of an ONNX file that stands in the folder, in the batches of a CPU."""
        parity = self._by_onnxruntime(path, bound)
        parity.check(name)
        return parity.to_json()

    def _measured(
        self, path: Path, bound: Bound, engine: Engine, described: Mapping[str, object]
    ) -> Parity | None:
        """Parity of an engine as its runtime loads it; None where no GPU here can run it."""
        if engine.load is None:
            return self._by_onnxruntime(path, bound)
        core = engine.load(path, described, self._manifest, self._threads)
        return None if core is None else self._parity(core, bound, engine.plan)

    def _by_onnxruntime(self, path: Path, bound: Bound) -> Parity:
        core = OnnxCore(path, self._threads, facts=self._manifest.facts.width)
        return self._parity(core, bound, CPU_PLAN)

    def _parity(self, core: Core, bound: Bound, plan: BatchPlan | None = None) -> Parity:
        candidate = EncodedScorer(self._tokenizer, core, plan)
        odd = builtin_texts()
        facts = some_facts(self._manifest.facts.width, len(self._texts) + len(odd))
        return measure(
            self._reference, candidate, core, self._tokenizer, self._texts, bound, facts, odd
        )


def _by_onnxruntime() -> dict[str, object]:
    return {"package": "onnxruntime", "version": onnxruntime.__version__}


@contextmanager
def _naming(out: str | Path) -> Iterator[None]:
    # A full disk is told without the place by some of the writers, and by safetensors in an error
    # of its own.
    try:
        yield
    except SafetensorError as error:
        raise PredictorError(f"{out}: the weights could not be written ({error}).") from error
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(out)) from error


def _check_same(network: RankerNetwork, reloaded: RankerNetwork) -> None:
    # Weights that fit do not prove the configuration: an activation or a norm's epsilon has none.
    ids = torch.arange(3 * 9).reshape(3, 9) % 4
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    facts = None
    if network.fact_head is not None:
        facts = torch.arange(3.0).unsqueeze(1).expand(3, network.fact_head.facts.in_features)
    with torch.inference_mode():
        wanted, found = network(ids, mask, facts), reloaded(ids, mask, facts)
    if not torch.allclose(wanted, found, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise PredictorError(
            f"The network rebuilt from its configuration scores {found.tolist()} where the trained "
            f"one scores {wanted.tolist()}; the configuration is not of this network."
        )


def _finite(values: Mapping[str, object]) -> dict[str, object]:
    """``values`` with null for every number that JSON cannot hold."""
    return {key: _finite_value(value) for key, value in values.items()}


def _finite_value(value: object) -> object:
    if isinstance(value, Mapping):
        return _finite(value)
    if isinstance(value, (list, tuple)):
        return [_finite_value(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
