"""Measure response lengths of an LLM and write them as a length table.

Prompts are read from a text file (one a line) or JSONL with `prompt` or `messages` and any of
`prompt_id`, `dataset`, `split`; other text fields are kept as columns. Each prompt gets --samples
responses at --temperature and, with --greedy, one greedy response. A JSONL row may set its own
number with `samples` (0 for none).

The run can be interrupted at any time: what is measured stands in OUT.partial.jsonl, and the
same command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_export.signals import exit_on_sigterm
from pars_model.kept_rows import KeptRows
from pars_model.writing import writer_of

if TYPE_CHECKING:
    from pars_model.generation import Generator, Job

_RESERVED = {"prompt", "messages", "prompt_id", "samples"}


@dataclass(frozen=True)
class Prompt:
    """One line of the prompt file."""

    prompt_id: str
    messages: list[dict[str, object]]
    samples: int | None
    """Number of sampled responses, where the file says so."""
    columns: dict[str, str] = field(default_factory=dict)
    """Text fields kept as columns of the table: dataset, split and the like."""


@dataclass(frozen=True)
class CollectConfig:
    """How lengths are measured; its digest guards a resumed run."""

    model: str
    samples: int
    greedy: bool
    temperature: float
    max_tokens: int
    seed: int

    def fingerprint(self, prompts: Sequence[Prompt]) -> str:
        """sha256 over the settings and every prompt."""
        content = [asdict(self), [(p.prompt_id, p.messages, p.samples, p.columns) for p in prompts]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars collect``."""
    parser.add_argument("--prompts", type=Path, required=True, help="text or JSONL file")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="model folder, run by vLLM in this process")
    source.add_argument("--base-url", help="OpenAI-compatible server, e.g. http://host:8000/v1")
    parser.add_argument("--model-name", help="name in the table, and of the model on the server")
    parser.add_argument("--out", type=Path, required=True, help=".parquet, .jsonl or .csv")
    parser.add_argument("--samples", type=int, default=1, help="sampled responses per prompt")
    parser.add_argument("--greedy", action="store_true", help="one greedy response per prompt too")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the samples")
    parser.add_argument("--max-tokens", type=int, default=2048, help="longest response measured")
    parser.add_argument("--max-model-len", type=int, help="context of the engine (with --model)")
    parser.add_argument("--concurrency", type=int, default=32, help="responses in flight")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds, with --base-url")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Entry of ``pars collect``."""
    from pars_model.generation import engine_generator, only_model, server_generator

    for name in ("max_tokens", "concurrency"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {getattr(args, name)}: expected 1 or more")
    if args.samples < 0 or (args.samples == 0 and not args.greedy):
        raise InputError(
            f"--samples is {args.samples}: expected 1 or more, or 0 together with --greedy"
        )
    if not 0 < args.temperature <= 2:
        raise InputError(
            f"--temperature is {args.temperature}: expected above 0 and at most 2; for greedy "
            "responses use --greedy --samples 0"
        )
    writer_of(args.out)  # before any work
    prompts = read_prompts(args.prompts)
    name = args.model_name or (
        args.model.resolve().name if args.model else only_model(args.base_url, args.timeout)
    )
    config = CollectConfig(
        model=name,
        samples=args.samples,
        greedy=args.greedy,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        seed=args.seed,
    )

    def start() -> Generator:
        if args.model is None:
            return server_generator(
                args.base_url,
                model_name=name,
                max_tokens=args.max_tokens,
                concurrency=args.concurrency,
                timeout_s=args.timeout,
            )
        return engine_generator(
            args.model,
            max_tokens=args.max_tokens,
            concurrency=args.concurrency,
            max_model_len=args.max_model_len,
        )

    with exit_on_sigterm():  # the engine's own processes are told to stop
        rows = collect(prompts, config, args.out, start)
    print(f"{args.out}: {rows} responses to {len(prompts)} prompts by {config.model}")
    return 0


def collect(
    prompts: Sequence[Prompt], config: CollectConfig, out: Path, start: Callable[[], Generator]
) -> int:
    """Measure what ``out`` and its partial file do not hold yet; return the number of rows.

    ``start`` makes the generator and is called only when something is left to measure.

    Raises:
        InputError: ``out`` or its partial file belongs to other settings or prompts, another
            process is at work on it, or its suffix is unknown.
    """
    from tqdm import tqdm

    write = writer_of(out)
    fingerprint = config.fingerprint(prompts)
    partial = out.with_name(out.name + ".partial.jsonl")
    if out.exists() and not partial.exists():
        raise InputError(_exists(out))
    jobs = list(_jobs(prompts, config))
    with KeptRows(partial, fingerprint) as measured:
        if out.exists() and not measured.rows:  # another process has just finished it
            measured.remove()
            raise InputError(_exists(out))
        left = [job for job in jobs if _key(job) not in measured.rows]
        done = len(jobs) - len(left)
        with tqdm(total=len(jobs), initial=done, unit="response", mininterval=1.0) as bar:
            for result in start()(iter(left)) if left else ():
                measured.add(
                    {
                        "key": _key(result.job),
                        "response_tokens": result.response_tokens,
                        "finish_reason": result.finish_reason,
                        "prompt_tokens": result.prompt_tokens,
                        "reasoning_tokens": result.reasoning_tokens,
                    }
                )
                bar.update()
        rows = _table(prompts, jobs, measured.rows, config)
        with atomic_file(out) as temporary:
            write(temporary, rows)
        measured.remove()
    return len(rows)


def _exists(out: Path) -> str:
    return f"{out} exists already: delete it or choose another --out"


def read_prompts(path: Path) -> list[Prompt]:
    """Read a prompt file: JSONL by its suffix, otherwise one prompt a line.

    Raises:
        InputError: no such file, no prompts, or a line that is not a prompt.
    """
    if not path.is_file():
        raise InputError(f"--prompts {path} does not exist: expected a text or JSONL file")
    try:
        # Not splitlines(): JSON strings may hold other line separators, such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    jsonl = path.suffix in (".jsonl", ".ndjson")
    prompts = [
        _parse_json(line, f"{path}:{number}")
        if jsonl
        else Prompt(_prompt_id(line), [{"role": "user", "content": line}], None)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not prompts:
        raise InputError(f"{path} holds no prompts: expected one a line")
    if len({"split" in prompt.columns for prompt in prompts}) > 1:
        raise InputError(f"{path}: some prompts have a `split` and others have none: give all one")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.prompt_id in seen:
            raise InputError(
                f"{path} holds prompt {prompt.prompt_id} twice: remove one, or give each its own "
                "`prompt_id`"
            )
        seen.add(prompt.prompt_id)
    return prompts


def _parse_json(line: str, place: str) -> Prompt:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise InputError(f"{place} holds {type(row).__name__}: expected an object with `prompt`")
    if "messages" in row:
        messages = row["messages"]
        if not (
            isinstance(messages, list)
            and messages
            and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages)
        ):
            raise InputError(f"{place}: `messages` must be a list of objects with `role`")
    else:
        text = row.get("prompt")
        if not isinstance(text, str):
            raise InputError(
                f"{place}: `prompt` is {type(text).__name__}, expected text (or give `messages`)"
            )
        messages = [{"role": "user", "content": text}]
    split = row.get("split")
    if split not in (None, "train", "val", "test"):
        raise InputError(f"{place}: `split` is {split!r}, expected train, val or test")
    samples = row.get("samples")
    if samples is not None and not (type(samples) is int and samples >= 0):
        raise InputError(f"{place}: `samples` is {samples!r}, expected a whole number from 0 up")
    return Prompt(
        str(row.get("prompt_id") or _prompt_id(json.dumps(messages))),
        messages,
        samples,
        {k: v for k, v in row.items() if k not in _RESERVED and isinstance(v, str)},
    )


def _prompt_id(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _jobs(prompts: Sequence[Prompt], config: CollectConfig) -> Iterator[Job]:
    from pars_model.generation import Job

    for prompt in prompts:
        if config.greedy:
            yield Job(prompt.prompt_id, prompt.messages, 0, 0.0, config.seed)
        for sample in range(config.samples if prompt.samples is None else prompt.samples):
            # A seed of its own for each response: its length does not hang on its neighbours'.
            name = f"{config.seed}/{prompt.prompt_id}/{sample}"
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
            yield Job(prompt.prompt_id, prompt.messages, sample, config.temperature, seed)


def _key(job: Job) -> str:
    return f"{job.prompt_id}/{job.temperature:g}/{job.sample}"


def _table(
    prompts: Sequence[Prompt],
    jobs: Sequence[Job],
    measured: dict[str, dict[str, object]],
    config: CollectConfig,
) -> list[dict[str, object]]:
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    columns = sorted({name for prompt in prompts for name in prompt.columns})
    plain = all(_is_plain(prompt) for prompt in prompts)
    reasoning = any(result.get("reasoning_tokens") is not None for result in measured.values())
    rows = []
    for job in jobs:
        prompt, result = by_id[job.prompt_id], measured[_key(job)]
        text: dict[str, object] = (
            {"prompt": prompt.messages[0]["content"]}
            if plain
            else {"messages": json.dumps(prompt.messages, ensure_ascii=False)}
        )
        rows.append(
            {
                "prompt_id": prompt.prompt_id,
                **text,
                **{name: prompt.columns.get(name) for name in columns},
                "model": config.model,
                "config": f"temperature={job.temperature:g}",
                "sample": job.sample,
                "max_tokens": config.max_tokens,
                "response_tokens": result["response_tokens"],
                "finish_reason": result["finish_reason"],
                "prompt_tokens": result["prompt_tokens"],
                **({"reasoning_tokens": result.get("reasoning_tokens")} if reasoning else {}),
            }
        )
    return rows


def _is_plain(prompt: Prompt) -> bool:
    only = prompt.messages[0]
    return (
        len(prompt.messages) == 1
        and only["role"] == "user"
        and isinstance(only.get("content"), str)
    )
