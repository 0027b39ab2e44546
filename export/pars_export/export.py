"""Turn a checkpoint into a predictor folder, or add engines to one.

The folder holds the ranker as safetensors and as one ONNX file, its tokenizer, and predictor.json
with the sha256 of each; `--to` names further engines. Every engine is compared with the
checkpoint's own scores before anything is kept: one beyond its bound fails the export. So is the
ONNX file of a folder that gets engines. An older predictor is replaced only when all of the new one
stands.

  onnx-int8   int8 matrix products on the CPU, a scale for each token
  onnx-bf16   weights in bfloat16: half the file, as fast as onnx
  openvino    bfloat16 matrix products on the CPU: the fastest where it has units for them (AMX)
  tensorrt, tensorrt-rtx   for NVIDIA GPUs; the latter is built without one
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pars_export.errors import InputError
from pars_export.signals import exit_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pars_export.artifact import Manifest
    from pars_export.tensorrt import BuildOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pars export`."""
    parser.add_argument(
        "source", type=Path, metavar="CKPT|DIR", help="what `pars fit` wrote, or a predictor folder"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="predictor folder, for a CKPT")
    parser.add_argument(
        "--to", default="onnx", metavar="ENGINES", help="engines, with commas between (onnx)"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="prompts to make engines by and to compare them on, one a line or JSONL (default, for "
        "a CKPT: those of the length table of its fit); where there are too few, those that ship "
        "with this package fill up",
    )
    parser.add_argument("--threads", type=int, default=1, help="cores for the comparison")
    tensorrt = parser.add_argument_group("TensorRT engines")
    tensorrt.add_argument("--precision", default="fp16", help="fp16, fp32 or int8 (fp16)")
    tensorrt.add_argument(
        "--compute-capability",
        default="",
        metavar="LIST",
        help="tensorrt-rtx: GPUs to build for, such as 8.9,12.0",
    )
    tensorrt.add_argument(
        "--hardware",
        default="none",
        help="tensorrt: GPUs that may run it: none but this kind, same_compute_capability, "
        "ampere_plus",
    )
    tensorrt.add_argument(
        "--version-compatible",
        action="store_true",
        help="tensorrt: later versions may run it, slower",
    )
    tensorrt.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="tensorrt: kernel timings to keep"
    )


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    with exit_on_sigterm():  # no half-written folder stays behind
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    texts: Sequence[str] = ()
    if args.texts is not None:
        from pars_export.prompts import read_texts

        texts = read_texts(args.texts)
        if not texts:
            raise InputError(
                f"{args.texts}: found no prompt; expected at least one, a line or JSONL each."
            )
    from pars_export.artifact import folder_sha256
    from pars_export.engines import parse_names
    from pars_export.export_prompts import in_words
    from pars_export.tensorrt import BuildOptions

    capabilities = args.compute_capability.split(",") if args.compute_capability else ()
    options = BuildOptions(
        args.precision,
        args.version_compatible,
        args.hardware,
        tuple(capabilities),
        args.timing_cache,
    )
    to = parse_names(args.to)
    out = args.source if args.source.is_dir() else args.out
    if out is None:
        raise InputError(f"{args.source}: give --out DIR, the predictor folder to write.")
    if args.source.is_dir():
        if args.out is not None and args.out.resolve() != args.source.resolve():
            raise InputError(
                f"{args.source}: a predictor folder gets its engines; leave out --out."
            )
        from pars_export.build import add_engines

        manifest = add_engines(out, to, texts, args.threads, options)
    else:
        manifest = export_checkpoint(args.source, out, texts, to, args.threads, options)
    counts = cast("dict[str, int]", manifest.engines["onnx"]["compared_on"])
    print(f"compared on {in_words(counts)}")
    for name in ("onnx", *to):
        engine = manifest.engines[name]
        kind = "parity" if "parity" in engine else "graph_parity"
        print(f"{name} against torch ({kind}): {json.dumps(engine[kind])}")
    print(f"sha256 to pin: {folder_sha256(out)}")
    print(out)
    return 0


def export_checkpoint(
    ckpt: Path,
    out: Path,
    texts: Sequence[str] = (),
    to: Sequence[str] = (),
    threads: int = 1,
    options: BuildOptions | None = None,
) -> Manifest:
    """Write the predictor folder of a checkpoint, whole or not at all.

    Args:
        ckpt: the checkpoint; nothing in it is unpickled.
        out: where; an older predictor there is replaced.
        texts: prompts to compare the engines on, by default those of the table that the ranker was
            fitted on; filled up by some that ship with this package.
        to: engines to write beside the ONNX model (`pars_export.engines.ENGINES`).
        threads: cores for the comparison.
        options: of TensorRT engines.

    Raises:
        InputError: no such checkpoint, or not one of a ranker.
        PredictorError: the exported model does not score as the checkpoint does, or ``out`` holds
            something else than a predictor.
    """
    # Training code, and only here: a predictor folder is read without it.
    from pars_export.artifact import Manifest
    from pars_export.build import write_encoder_predictor
    from pars_export.calibration import Calibration
    from pars_export.facts import FactSpec
    from pars_model.checkpoint import load_ranker
    from pars_model.fitted_table import prompts_of_fit

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
        facts=ranker.fact_spec or FactSpec(),
    )
    return write_encoder_predictor(
        out,
        ranker.network,
        ranker.hparams["encoder_config"],
        ranker.tokenizer_json,
        manifest,
        texts or prompts_of_fit(ckpt, ranker) or (),
        to,
        threads,
        options,
        ranker.ngrams,
    )
