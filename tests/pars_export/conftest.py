"""A tiny real encoder with a real tokenizer, exported once per run."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_predictor import tiny_config, tiny_half, tiny_tokenizer_json

from pars_export import export_prompts
from pars_export.artifact import Manifest, read_manifest, write_predictor
from pars_export.build import add_engines, write_encoder_predictor
from pars_export.calibration import Calibration
from pars_export.engines import ENGINES
from pars_export.inputs import InputSpec
from pars_export.network import RankerNetwork
from pars_export.parity import builtin_texts, demonstration_texts
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.ngram_half import HALF

MakeNetwork = Callable[..., RankerNetwork]
"""Pooling, outputs and seed to a network."""
Write = Callable[..., Manifest]
"""Folder (and network, more arguments of the export) to the manifest written there."""
Forge = Callable[..., Path]
"""Contents by file name, `__` for the dot, to a predictor folder that holds them."""


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    return tiny_tokenizer_json()


@pytest.fixture(scope="session")
def encoder_config(tokenizer_json: str) -> dict[str, object]:
    return tiny_config(tokenizer_json)


@pytest.fixture(scope="session")
def make_network(encoder_config: dict[str, object]) -> MakeNetwork:
    def make(pooling: str = "mean", outputs: int = 1, seed: int = 0) -> RankerNetwork:
        torch.manual_seed(seed)
        network = RankerNetwork(encoder_config, pooling, outputs)
        network.eval()
        return network

    return make


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return Manifest(
        kind="encoder",
        input=InputSpec(max_length=64, truncation="head_tail"),
        calibration=Calibration((-1.0, 0.0, 1.0), (10.0, 100.0, 1000.0)),
        training={"data": {"rows": 3}, "lr": 1e-4},
        metrics={"tau": 0.5, "nothing": float("nan")},
    )


@pytest.fixture(scope="session")
def write(
    tokenizer_json: str,
    encoder_config: dict[str, object],
    manifest: Manifest,
    make_network: MakeNetwork,
) -> Write:
    def write(out: Path, network: RankerNetwork | None = None, **changes: Any) -> Manifest:
        settings = {"texts": builtin_texts(), **changes}
        return write_encoder_predictor(
            out, network or make_network(), encoder_config, tokenizer_json, manifest, **settings
        )

    return write


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, write: Write) -> Path:
    """An exported predictor; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("exported") / "predictor"
    write(folder)
    return folder


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Some real prompts."""
    calibration, compared = demonstration_texts()
    return [*calibration[::4], *compared[::8]]


@pytest.fixture(scope="session")
def engines(exported: Path, tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """The exported predictor with every engine that runs on a CPU."""
    folder = tmp_path_factory.mktemp("engines") / "predictor"
    shutil.copytree(exported, folder)
    with pytest.MonkeyPatch.context() as patch:
        # On these prompts alone, not filled up: it is quicker, and bounds are for trained encoders.
        patch.setattr(export_prompts, "enough", list)
        # Random weights on 32 channels average out less of the rounding than a trained encoder.
        for name in ("onnx-int8", "openvino"):
            loose = dataclasses.replace(ENGINES[name].bound, tau=0.95)
            patch.setitem(ENGINES, name, dataclasses.replace(ENGINES[name], bound=loose))
        add_engines(folder, ["onnx-bf16", "onnx-int8", "openvino"], texts)
    return folder


@pytest.fixture(scope="session")
def halved(engines: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    """The same predictor with an n-gram half beside every engine."""
    folder = tmp_path_factory.mktemp("halved") / "predictor"
    manifest = read_manifest(engines)
    files: dict[str, Path | str | bytes] = {name: engines / name for name in manifest.files}
    files[HALF] = arrays_bytes(tiny_half(tokenizer_json))
    write_predictor(folder, dataclasses.replace(manifest, ngrams=HALF), files)
    return folder


@pytest.fixture
def forge(exported: Path, tmp_path: Path) -> Forge:
    """Write the exported predictor again with other files, and hashes that fit."""

    def forge(**files: bytes | str | Path) -> Path:
        contents: dict[str, bytes | str | Path] = {
            name: exported / name for name in read_manifest(exported).files
        }
        contents |= {name.replace("__", "."): content for name, content in files.items()}
        write_predictor(tmp_path / "forged", read_manifest(exported), contents)
        return tmp_path / "forged"

    return forge
