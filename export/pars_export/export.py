"""Turn a checkpoint into a predictor folder.

The folder holds the ranker as safetensors and as one ONNX file, its tokenizer, and predictor.json
with the sha256 of each. The ONNX model is compared with the checkpoint's own scores before
anything is kept; an older predictor in DIR is replaced only when all of it stands.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pars_export.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pars_export.artifact import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pars export`."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="what `pars fit` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="predictor folder")
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="prompts to compare the ONNX model on, one a line or JSONL (default: built-in ones)",
    )
    parser.add_argument("--threads", type=int, default=1, help="cores for the comparison")


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    texts = None
    if args.texts is not None:
        from pars_export.prompts import read_texts

        texts = read_texts(args.texts)
    manifest = export_checkpoint(args.checkpoint, args.out, texts, threads=args.threads)
    from pars_export.artifact import folder_sha256

    parity = manifest.engines["onnx"]["parity"]
    print(f"onnx against torch: {json.dumps(parity)}")
    print(f"sha256 to pin: {folder_sha256(args.out)}")
    print(args.out)
    return 0


def export_checkpoint(
    ckpt: Path, out: Path, parity_texts: Sequence[str] | None = None, threads: int = 1
) -> Manifest:
    """Write the predictor folder of a checkpoint, whole or not at all.

    Args:
        ckpt: the checkpoint; nothing in it is unpickled.
        out: where; an older predictor there is replaced.
        parity_texts: prompts to compare the ONNX model on; by default built-in ones.
        threads: cores for the comparison.

    Raises:
        InputError: no such checkpoint, or not one of a ranker.
        PredictorError: the exported model does not score as the checkpoint does, or ``out`` holds
            something else than a predictor.
    """
    # Training code, and only here: a predictor folder is read without it.
    from pars_export.artifact import Manifest
    from pars_export.build import write_encoder_predictor
    from pars_export.calibration import Calibration
    from pars_model.module import load_ranker

    ranker = load_ranker(ckpt)
    if ranker.calibration is None:
        raise InputError(
            f"{ckpt}: it has no calibration, for no epoch of its training was validated; train to "
            "the end of an epoch."
        )
    manifest = Manifest(
        kind="encoder",
        input=ranker.input_spec,
        calibration=Calibration.from_json(ranker.calibration),
        training=ranker.training_summary,
        metrics=ranker.metrics,
    )
    return write_encoder_predictor(
        out,
        ranker.network,
        ranker.hparams["encoder_config"],
        ranker.tokenizer_json,
        manifest,
        parity_texts,
        threads=threads,
    )
