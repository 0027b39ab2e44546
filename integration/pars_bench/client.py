"""An open-loop client: streaming chat completions, each timed from when it was meant to arrive."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pars_bench.collector import no_collection
from pars_bench.server import ServingError

if TYPE_CHECKING:
    import aiohttp

Json = Mapping[str, object]

# Between two looks at the clock; a nap that lasts longer shows that the client was not running.
_NAP_S = 0.1


@dataclass(frozen=True)
class Prompt:
    """One prompt of the benchmark."""

    prompt_id: str
    kind: str
    """What it asks for, if the file says; only carried into the rows."""
    messages: tuple[Mapping[str, object], ...]
    """The chat as sent."""
    text: str
    """The text that a predictor reads (``pars_export.inputs.text_of``)."""


@dataclass(frozen=True)
class Load:
    """What is asked of the server, and how."""

    url: str
    model: str
    """The served model's name."""
    max_tokens: int
    stall_s: float = 300.0
    """Seconds without any sign of life, while requests are open, after which all is given up."""


@dataclass(frozen=True)
class Answer:
    """One answered request. Times in seconds; latencies from the *intended* arrival."""

    index: int
    """Place in the submission order."""
    prompt_id: str
    kind: str
    arrival_s: float
    """Intended arrival, from the start of the measurement."""
    send_lag_s: float
    """How much later than intended the client sent it (part of both latencies below)."""
    ttft: float
    """To the first content token."""
    ttlt: float
    """To the last token."""
    tokens: int
    """Response tokens, as the server counts them (the end token included)."""
    prompt_tokens: int
    finish_reason: str
    output_digest: str
    """First 16 hex digits of the sha256 of the response, to tell whether two runs agree."""


@dataclass(frozen=True)
class Driven:
    """What came of one load."""

    answers: list[Answer]
    """One per prompt, in submission order."""
    client_lag_s: float
    """Longest time that the client itself did not get to run; its clock is no better than this."""


async def drive(
    load: Load,
    prompts: Sequence[Prompt],
    arrivals: Sequence[float],
    on_done: Callable[[int], None] = lambda _: None,
) -> Driven:
    """Send every prompt at its arrival time, whatever became of the earlier ones.

    Args:
        load: Server and limits.
        prompts: In submission order.
        arrivals: Seconds from the start, ascending, one per prompt.
        on_done: Called with the number of answered requests whenever one more is.

    Raises:
        ServingError: any request failed, or the server showed no sign of life for ``stall_s``.
    """
    import aiohttp

    answers: list[Answer] = []
    failures: list[str] = []
    life = _SignOfLife()
    # No limit on connections and none on time: a request may rightly wait for minutes in a queue.
    # A new connection for each: the server closes an idle one at its own time, and a request sent
    # down it at that moment would fail.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        start = time.perf_counter()

        async def one(index: int) -> None:
            arrival = float(arrivals[index])
            await asyncio.sleep(max(0.0, start + arrival - time.perf_counter()))
            life.opened()
            try:
                answers.append(
                    await _ask(session, load, prompts[index], index, start, arrival, life)
                )
                on_done(len(answers))
            except (aiohttp.ClientError, ConnectionError, ServingError) as error:
                failures.append(f"{prompts[index].prompt_id}: {error or type(error).__name__}")
            finally:
                life.closed()

        requests = [asyncio.create_task(one(index)) for index in range(len(prompts))]
        watch = asyncio.create_task(life.watch(load.stall_s))
        try:
            work = asyncio.gather(*requests, return_exceptions=True)
            with no_collection():
                await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ServingError(
                    f"the server sent nothing for {load.stall_s:.0f} s with "
                    f"requests open ({len(answers)} of {len(prompts)} answered)"
                )
            for outcome in work.result():
                if outcome is not None:
                    raise outcome  # nothing that a server can do: a fault of our own
        finally:
            for task in (*requests, watch):
                task.cancel()
            await asyncio.gather(*requests, watch, return_exceptions=True)
    if failures:
        raise ServingError(
            f"{len(failures)} of {len(prompts)} requests failed, so nothing is reported; "
            f"the first: {failures[0]}"
        )
    return Driven(sorted(answers, key=lambda answer: answer.index), life.lag)


class _SignOfLife:
    """When the server was last heard of, and how many requests are open."""

    def __init__(self) -> None:
        self.open = 0
        self.lag = 0.0
        self._last = time.perf_counter()

    def heard(self) -> None:
        self._last = time.perf_counter()

    def opened(self) -> None:
        if not self.open:
            self.heard()  # it could not be heard of while nothing was asked
        self.open += 1

    def closed(self) -> None:
        self.open -= 1
        self.heard()

    async def watch(self, limit: float) -> None:
        """Return when nothing was heard for ``limit`` seconds while requests were open."""
        while not self.open or time.perf_counter() - self._last < limit:
            asleep = time.perf_counter()
            await asyncio.sleep(_NAP_S)
            self.lag = max(self.lag, time.perf_counter() - asleep - _NAP_S)


async def _ask(
    session: aiohttp.ClientSession,
    load: Load,
    prompt: Prompt,
    index: int,
    start: float,
    arrival: float,
    life: _SignOfLife,
) -> Answer:
    body = {
        "model": load.model,
        "messages": list(prompt.messages),
        "max_tokens": load.max_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = time.perf_counter() - start
    first = last = None
    finish: str | None = None
    usage: Mapping[str, object] = {}
    text = hashlib.sha256()
    async with session.post(f"{load.url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise ServingError(f"HTTP {response.status}: {(await response.text())[:300]}")
        async for chunk in _chunks(response):
            now = time.perf_counter() - start
            life.heard()
            content, reason = _choice(chunk)
            if content or reason:
                last = now
            if content:
                first = now if first is None else first
                text.update(content.encode("utf-8", "surrogatepass"))
            finish = reason or finish
            found = chunk.get("usage")
            usage = found if isinstance(found, Mapping) else usage
    tokens, prompt_tokens = usage.get("completion_tokens"), usage.get("prompt_tokens")
    if last is None or finish is None:
        raise ServingError("the stream ended without a finish reason")
    if not isinstance(tokens, int) or not isinstance(prompt_tokens, int) or tokens < 1:
        raise ServingError(f"the stream carried no token counts (usage was {dict(usage)})")
    return Answer(
        index=index,
        prompt_id=prompt.prompt_id,
        kind=prompt.kind,
        arrival_s=arrival,
        send_lag_s=sent - arrival,
        # An answer that is only an end token has no content: its first token is its last.
        ttft=(last if first is None else first) - arrival,
        ttlt=last - arrival,
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        finish_reason=finish,
        output_digest=text.hexdigest()[:16],
    )


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """The JSON objects of a server-sent event stream, up to ``[DONE]``."""
    buffer = b""
    async for data in response.content.iter_any():
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = line[len(b"data:") :].strip()
            if payload == b"[DONE]":
                return
            try:
                chunk = json.loads(payload)
            except ValueError as error:
                raise ServingError(f"the stream is not JSON: {payload[:100]!r}") from error
            if not isinstance(chunk, dict):
                raise ServingError(f"the stream sent {payload[:100]!r}, not an object")
            if "error" in chunk:
                raise ServingError(f"the server answered {json.dumps(chunk['error'])[:300]}")
            yield chunk


def _choice(chunk: Json) -> tuple[str, str | None]:
    """Content and finish reason of a chunk; a chunk of usage alone has neither."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices:
        return "", None
    choice = choices[0]
    delta = choice.get("delta") or {}
    # A reasoning model's first tokens come under another name: they are tokens all the same.
    content = delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content") or ""
    return content, choice.get("finish_reason")
