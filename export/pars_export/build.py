"""A ranker's network becomes a predictor folder: weights, ONNX model, parity, manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_model

from pars_export.artifact import Manifest, predictor_folder, seal
from pars_export.errors import InputError, PredictorError
from pars_export.inputs import TextTokenizer
from pars_export.network import RankerNetwork
from pars_export.onnx import OPSET, export_onnx
from pars_export.parity import RELATIVE_BOUND, builtin_texts, measure
from pars_export.runtimes.encoded import CONFIG, TOKENIZER, EncodedScorer, check_encoder
from pars_export.runtimes.onnx_cpu import OnnxCore
from pars_export.runtimes.torch_eager import TorchCore, load_network

WEIGHTS = "model.safetensors"
ONNX = "model.onnx"


def write_encoder_predictor(
    out: str | Path,
    network: RankerNetwork,
    encoder_config: Mapping[str, object],
    tokenizer_json: str,
    manifest: Manifest,
    parity_texts: Sequence[str] | None = None,
    relative_bound: float = RELATIVE_BOUND,
    threads: int = 1,
) -> Manifest:
    """Write the predictor folder of a trained network, whole or not at all.

    Args:
        out: where; an older predictor there is replaced.
        network: the trained network.
        encoder_config: the `config.json` that its encoder was built from.
        tokenizer_json: content of its encoder's `tokenizer.json`.
        manifest: input, calibration, training and metrics; engines and files are filled in here.
        parity_texts: real prompts for the comparison with ONNX; built-in ones by default.
        relative_bound: largest difference allowed, in standard deviations of the scores.
        threads: cores to use for the comparison.

    Returns:
        The manifest as written.

    Raises:
        PredictorError: the ONNX model or the reloaded network does not score as the network does,
            tokenizer and encoder do not belong together, or ``out`` holds something else than a
            predictor.
        InputError: fewer than two parity texts.
    """
    texts = builtin_texts() if parity_texts is None else list(parity_texts)
    if len(texts) < 2:
        raise InputError(f"Parity needs two texts or more, found {len(texts)}.")
    with _naming(out), predictor_folder(out) as folder:
        config = {
            "encoder": dict(encoder_config),
            "pooling": network.pooling,
            "outputs": network.head.out_features,
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
        tokenizer = TextTokenizer(folder / TOKENIZER, manifest.input)
        check_encoder(folder, tokenizer)
        save_model(network.float(), str(folder / WEIGHTS))
        # The reference is what a user will load, not the network in memory.
        reference = load_network(folder, WEIGHTS).eval()
        _check_same(network.eval(), reference)
        export_onnx(reference, folder / ONNX)
        core = OnnxCore(folder / ONNX, threads)
        parity = measure(
            EncodedScorer(tokenizer, TorchCore(reference, threads)),
            EncodedScorer(tokenizer, core),
            core,
            tokenizer,
            texts,
            relative_bound,
        )
        parity.check("onnx")
        engines: dict[str, dict[str, object]] = {
            "torch": {"file": WEIGHTS},
            "onnx": {
                "file": ONNX,
                "opset": OPSET,
                "exporter": f"torch {torch.__version__}",
                "parity": parity.to_json(),
            },
        }
        return seal(
            folder,
            replace(
                manifest,
                engines=engines,
                training=_finite(manifest.training),
                metrics=_finite(manifest.metrics),
            ),
        )


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
    with torch.inference_mode():
        wanted, found = network(ids, mask), reloaded(ids, mask)
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
