"""Where response lengths come from: a vLLM engine in this process, or an OpenAI-compatible server.

Both take a stream of jobs and give back a stream of measured lengths, in the order in which the
responses finish, with at most a bounded number in flight.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from pars_export.errors import ConfigError, InputError
from pars_export.signals import signals_at_checks
from pars_model.device import engine_dtype

Message = dict[str, object]

# Answers that say "later", not "never".
_RETRY_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_ATTEMPTS = 6


@dataclass(frozen=True)
class Job:
    """One response to measure."""

    prompt_id: str
    messages: Sequence[Message]
    sample: int
    """Index of the sample; the greedy response is sample 0 of its own configuration."""
    temperature: float
    seed: int


@dataclass(frozen=True)
class Measured:
    """What came back for a job."""

    job: Job
    response_tokens: int
    finish_reason: str
    prompt_tokens: int
    reasoning_tokens: int | None = None
    """How many of the response's tokens were reasoning, where a server says so."""


Generator = Callable[[Iterable[Job]], Iterator[Measured]]


def engine_generator(
    model: Path, *, max_tokens: int, concurrency: int, max_model_len: int | None
) -> Generator:
    """A vLLM engine inside this process, so that it ends with it and leaves no orphan.

    Raises:
        ConfigError: vLLM is not installed.
        InputError: ``model`` is not a model folder, or a prompt does not fit its context.
    """
    if not (model / "config.json").is_file():
        raise InputError(
            f"--model {model} has no config.json: expected a Hugging Face model folder; "
            "for a model served elsewhere use --base-url"
        )
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # the progress bar is the news
    try:
        from vllm import LLM, SamplingParams, TokensPrompt
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError(
            f"--model needs vLLM, which does not import here ({error}): "
            "install it, or give --base-url of a running server"
        ) from error

    cpu = current_platform.is_cpu()
    if cpu:
        # Two OpenMP threads on a shared machine wait for each other at every layer.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    llm = LLM(
        model=str(model),
        max_model_len=max_model_len,
        max_num_seqs=concurrency,
        dtype=engine_dtype(cpu),
        enforce_eager=cpu,
        disable_log_stats=True,
    )
    tokenizer = llm.get_tokenizer()
    context = int(llm.llm_engine.model_config.max_model_len)

    def prompt_ids(job: Job) -> list[int]:
        if tokenizer.chat_template is None:
            text = "\n".join(str(message["content"]) for message in job.messages)
            ids = tokenizer.encode(text)
        else:
            ids = tokenizer.apply_chat_template(
                list(job.messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        if len(ids) + max_tokens > context:
            raise InputError(
                f"prompt {job.prompt_id} has {len(ids)} tokens and with --max-tokens {max_tokens} "
                f"exceeds the model's context of {context}: shorten it or lower --max-tokens"
            )
        return cast(list[int], ids)

    def generate(jobs: Iterable[Job]) -> Iterator[Measured]:
        engine = llm.llm_engine
        waiting = iter(jobs)
        in_flight: dict[str, Job] = {}
        number = 0
        with ExitStack() as stack:
            stack.callback(engine.engine_core.shutdown)
            check = stack.enter_context(signals_at_checks())
            while True:
                check()
                # Twice the slots: a finished response is replaced in the same step.
                for job in islice(waiting, 2 * concurrency - len(in_flight)):
                    params = SamplingParams(
                        temperature=job.temperature, seed=job.seed, max_tokens=max_tokens
                    )
                    prompt = TokensPrompt(prompt_token_ids=prompt_ids(job))
                    in_flight[str(number)] = job
                    engine.add_request(str(number), prompt, params)
                    number += 1
                if not in_flight:
                    return
                for output in engine.step():
                    if output.finished:
                        answer = output.outputs[0]
                        yield Measured(
                            in_flight.pop(output.request_id),
                            len(answer.token_ids),
                            str(answer.finish_reason),
                            len(output.prompt_token_ids),
                        )

    return generate


def server_generator(
    base_url: str, *, model_name: str, max_tokens: int, concurrency: int, timeout_s: float
) -> Generator:
    """An OpenAI-compatible endpoint; ``base_url`` ends in ``/v1``.

    The key in ``OPENAI_API_KEY`` is sent where it is set. Answers that say "later" are tried again
    with growing pauses.

    Raises:
        InputError: the address is not a URL, or the server refuses a request.
    """
    base = _checked(base_url)

    def measure(job: Job) -> Measured:
        body = {
            "model": model_name,
            "messages": list(job.messages),
            "max_tokens": max_tokens,
            "temperature": job.temperature,
            "seed": job.seed,
        }
        answer = _call(f"{base}/chat/completions", timeout_s, body)
        try:
            usage, choice = answer["usage"], answer["choices"][0]
            return Measured(
                job,
                int(usage["completion_tokens"]),
                str(choice["finish_reason"] or ""),  # null: some servers do not say
                int(usage["prompt_tokens"]),
                _reasoning_tokens(usage),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"{base} answered without {error} for prompt {job.prompt_id}: expected an "
                "OpenAI-compatible chat completion with `usage` and `choices`"
            ) from error

    def generate(jobs: Iterable[Job]) -> Iterator[Measured]:
        waiting = iter(jobs)
        todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[Measured | InputError] = queue.SimpleQueue()

        def work() -> None:
            while (job := todo.get()) is not None:
                try:
                    done.put(measure(job))
                except InputError as error:
                    done.put(error)

        # Daemons: on Ctrl-C nobody waits for answers that may take minutes.
        for _ in range(concurrency):
            threading.Thread(target=work, daemon=True).start()
        in_flight = 0
        failed: InputError | None = None
        try:
            while True:
                for job in islice(waiting, 0 if failed else concurrency - in_flight):
                    todo.put(job)
                    in_flight += 1
                # After a failure, what its neighbours have measured already is still kept.
                if not in_flight or (failed and done.empty()):
                    break
                result = done.get()
                in_flight -= 1
                if isinstance(result, InputError):
                    failed = result
                else:
                    yield result
        finally:
            for _ in range(concurrency):
                todo.put(None)
        if failed:
            raise failed

    return generate


def _reasoning_tokens(usage: Mapping[str, object]) -> int | None:
    details = usage.get("completion_tokens_details")
    found = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    if found is None:
        return None
    reasoning, total = int(found), int(cast(int, usage["completion_tokens"]))
    if not 0 <= reasoning <= total:
        raise InputError(
            f"The server counts {reasoning} reasoning tokens in an answer of {total}; lengths are "
            "of whole answers, reasoning included: measure with a server that adds them up."
        )
    return reasoning


def _checked(base_url: str) -> str:
    address = urllib.parse.urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise InputError(
            f"--base-url {base_url} is not an http or https address: expected for example "
            "http://127.0.0.1:8000/v1"
        )
    return base_url.rstrip("/")


def only_model(base_url: str, timeout_s: float) -> str:
    """Name of the one model that a server has.

    Raises:
        InputError: it does not answer, or has none or several.
    """
    base = _checked(base_url)
    names = [str(entry["id"]) for entry in _call(f"{base}/models", timeout_s).get("data", [])]
    if len(names) != 1:
        raise InputError(
            f"{base} serves {len(names)} models ({', '.join(names) or 'none'}): "
            "name one with --model-name"
        )
    return names[0]


def _call(url: str, timeout_s: float, body: object = None) -> dict:  # type: ignore[type-arg]  # JSON
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310  # scheme checked by caller
    for attempt in range(_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
                answer = json.load(response)
                if not isinstance(answer, dict):
                    raise InputError(f"{url} answered {type(answer).__name__}, expected an object")
                return answer
        except urllib.error.HTTPError as error:
            text = error.read(500).decode(errors="replace")
            reason = f"HTTP {error.code}: {text}"
            if error.code not in _RETRY_STATUS:
                raise InputError(f"{url} refused a request with {reason}") from error
        except json.JSONDecodeError as error:
            raise InputError(f"{url} did not answer with JSON: is it an API server?") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error)
        if attempt + 1 < _ATTEMPTS:
            time.sleep(min(2.0**attempt, 15.0))
    raise InputError(f"{url} gave no answer in {_ATTEMPTS} attempts; the last said {reason}")
