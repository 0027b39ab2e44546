"""The whole way on a small LLM: collect, fit, export, serve, and see the gain.

A real vLLM serves SmolLM2-135M-Instruct on the CPU. Response lengths measured on it (shipped, or
measured again with --collect) train a ranker, which is exported and then orders the queue of a
real `vllm serve`, beside arrival order, prompt length and an oracle. Interrupted, the same command
goes on where it stopped; what is unchanged is neither measured nor trained again. The result is
OUT/report.html.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pars_bench.demo.stages import Ledger
from pars_export.errors import ConfigError, ParsError
from pars_export.files import atomic_file
from pars_export.signals import exit_on_sigterm

HERE = Path(__file__).parent
PROMPTS = HERE / "prompts.jsonl"
LENGTHS = HERE / "lengths.parquet"

MAX_TOKENS = 512
SAMPLES = 4
CONTEXT = 2048

_INTERRUPTED = 130  # what `pars` exits with on Ctrl-C


class StageError(ParsError):
    """A stage of the demo failed; it has said why itself."""


@dataclass(frozen=True)
class Paths:
    """Where each stage leaves its work below the demo's folder."""

    out: Path

    @property
    def llm(self) -> Path:
        """The converted LLM; the server and the report name it by its folder."""
        return self.out / "SmolLM2-135M-Instruct"

    @property
    def lengths(self) -> Path:
        """Lengths measured by this machine (with --collect)."""
        return self.out / "lengths.parquet"

    @property
    def fit(self) -> Path:
        """Root folder of the training run."""
        return self.out / "fit"

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint of the fit."""
        return self.fit / "best.ckpt"

    @property
    def predictor(self) -> Path:
        """The predictor folder."""
        return self.out / "predictor"

    @property
    def evaluation(self) -> Path:
        """What `pars evaluate` said of the predictor."""
        return self.out / "evaluation.json"

    @property
    def prompts(self) -> Path:
        """The held-out prompts that are served."""
        return self.out / "serve-prompts.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars demo``."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument(
        "--collect", action="store_true", help="measure the response lengths again first"
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/demo.yaml"),
        help="settings of `pars fit` (default: configs/demo.yaml)",
    )
    parser.add_argument("--requests", type=int, default=240, help="held-out prompts to serve")
    parser.add_argument("--slots", type=int, default=8, help="requests the engine runs at once")
    parser.add_argument("--load", type=float, default=1.5, help="Poisson load; above 1 it queues")


def run(args: argparse.Namespace) -> int:
    """Entry of ``pars demo``."""
    if not args.config.is_file():
        raise ConfigError(
            f"--config {args.config} does not exist: run in a clone of the repository, or name "
            "the settings file"
        )
    with exit_on_sigterm():  # the stage that runs is ended too
        return _run_stages(args)


def _run_stages(args: argparse.Namespace) -> int:
    from pars_bench.demo.smollm2 import SERVED_NAME, convert, gguf_file
    from pars_bench.orders import Order
    from pars_bench.provenance import sources_digest
    from pars_bench.report import terminal_table
    from pars_bench.serving import ServingConfig, run_serving

    paths = Paths(args.out)
    ledger = Ledger(args.out / "stages.json")

    ledger.run(
        "convert the LLM",
        [gguf_file()],
        [paths.llm / "model.safetensors", paths.llm / "tokenizer.json"],
        lambda: convert(paths.llm),
    )

    lengths = LENGTHS
    if args.collect:
        lengths = paths.lengths
        ledger.run(
            "collect response lengths",
            [PROMPTS, gguf_file(), MAX_TOKENS, SAMPLES],
            [lengths],
            lambda: _collect(paths, SERVED_NAME),
        )

    ledger.run(
        "fit the ranker",
        [lengths, args.config, version("pars-vllm")],
        [paths.checkpoint],
        lambda: _pars(
            *("fit", "--config", args.config, "--data.path", lengths),
            *("--trainer.default_root_dir", paths.fit),
        ),
    )
    ledger.run(
        "export the predictor",
        [paths.checkpoint, version("pars-vllm")],
        [paths.predictor / "predictor.json"],
        lambda: _pars("export", paths.checkpoint, "--out", paths.predictor),
    )
    ledger.run(
        "evaluate on held-out prompts",
        [paths.predictor / "predictor.json", lengths, sources_digest("pars_model")],
        [paths.evaluation],
        lambda: _pars(
            *("evaluate", paths.predictor, "--data", lengths, "--split", "test"),
            *("--json", paths.evaluation),
        ),
    )
    ledger.run(
        "choose the prompts to serve",
        [PROMPTS],
        [paths.prompts],
        lambda: _write_test_prompts(paths.prompts),
    )
    serving = ServingConfig(
        model=str(paths.llm),
        prompts=paths.prompts,
        out=args.out,
        orders=(
            Order("fcfs"),
            Order("pars", paths.predictor),
            Order("oracle"),
            Order("prompt_length"),
        ),
        slots=args.slots,
        requests=args.requests,
        max_tokens=MAX_TOKENS,
        max_model_len=CONTEXT,
        load=args.load,
        predictor_facts=_judgement(paths.evaluation),
    )
    result = run_serving(serving)
    print(f"\n{terminal_table(result.report)}\n\nseconds per stage:\n{ledger.summary()}")
    for policy, seconds in result.seconds.items():
        print(f"  serve, {policy}: {seconds:.0f} s")
    print(f"\nreport: {result.folder / 'report.html'}")
    return 0


def _pars(*arguments: object) -> None:
    """Run a `pars` command in a process of its own, so that its memory and threads end with it."""
    command = [sys.executable, "-m", "pars_model", *map(str, arguments)]
    print("$ pars", *map(str, arguments), flush=True)
    process = subprocess.Popen(command)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the same Ctrl-C, and tidies up after itself
        raise
    finally:
        process.terminate()  # nothing to do where it has ended
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise StageError(
            f"`pars {arguments[0]}` ended with status {status}; its own words are above"
        )


def _collect(paths: Paths, model_name: str) -> None:
    paths.lengths.unlink(missing_ok=True)
    _pars(
        *("collect", "--prompts", PROMPTS, "--model", paths.llm, "--model-name", model_name),
        *("--greedy", "--samples", SAMPLES, "--temperature", 0.7),
        *("--max-tokens", MAX_TOKENS, "--max-model-len", CONTEXT, "--out", paths.lengths),
    )


def _judgement(evaluation: Path) -> dict[str, object]:
    """What the report repeats of an evaluation: tau on all held-out prompts, beside its ceiling."""
    found = json.loads(evaluation.read_text())
    ceiling = ("ceiling", "ceiling_interval", "ceiling_config")
    return {
        **{key: found[key] for key in ("tau", "interval", "prompts", *ceiling)},
        "tau_config": found["of"]["config"],
    }


def _write_test_prompts(path: Path) -> None:
    rows = PROMPTS.read_text(encoding="utf-8").splitlines(keepends=True)
    with atomic_file(path) as temporary:
        kept = [row for row in rows if json.loads(row)["split"] == "test"]
        temporary.write_text("".join(kept), encoding="utf-8")
