"""The client against a stand-in server that streams as vLLM does."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence

import pytest
from aiohttp import web
from standin_vllm import SECONDS_PER_TOKEN, application

from pars_bench.client import Answer, Load, Prompt, drive
from pars_bench.server import ServingError


def prompt(text: str, name: str = "p") -> Prompt:
    return Prompt(name, "kind", ({"role": "user", "content": text},), text)


def answers_of(
    texts: Sequence[str],
    arrivals: Sequence[float] | None = None,
    slots: int = 4,
    stall_s: float = 30.0,
    seen: list[dict[str, object]] | None = None,
    connections: list[str | None] | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    async def note_connection(request: web.Request, _: web.StreamResponse) -> None:
        if connections is not None:
            connections.append(request.headers.get("Connection"))

    async def run() -> list[Answer]:
        app = application(slots, None if seen is None else seen.append)
        app.on_response_prepare.append(note_connection)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's
        load = Load(f"http://127.0.0.1:{port}", "m", max_tokens=50, stall_s=stall_s)
        prompts = [prompt(text, f"p{i}") for i, text in enumerate(texts)]
        try:
            driven = await drive(load, prompts, arrivals or [0.0] * len(texts), on_done)
            assert driven.client_lag_s >= 0
            return driven.answers
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def test_no_garbage_is_collected_while_answers_are_timed() -> None:
    collecting: list[bool] = []
    answers_of(["tokens=2", "tokens=3"], on_done=lambda _: collecting.append(gc.isenabled()))
    assert collecting == [False, False]
    assert gc.isenabled()


def test_tokens_times_and_reasons() -> None:
    short, long, cut = answers_of(["tokens=2", "tokens=30", "tokens=99"])
    assert [a.prompt_id for a in (short, long, cut)] == ["p0", "p1", "p2"]
    assert [a.tokens for a in (short, long, cut)] == [2, 30, 50]
    assert [a.finish_reason for a in (short, long, cut)] == ["stop", "stop", "length"]
    assert all(a.prompt_tokens == 9 and a.kind == "kind" for a in (short, long, cut))
    assert 0 < long.ttft < long.ttlt
    assert long.ttlt - long.ttft >= 29 * SECONDS_PER_TOKEN * 0.5
    assert short.output_digest != long.output_digest


def test_the_request_is_greedy_streamed_and_asks_for_usage() -> None:
    seen: list[dict[str, object]] = []
    answers_of(["tokens=1"], seen=seen)
    assert seen[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "tokens=1"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_no_request_goes_down_a_connection_that_the_server_may_be_closing() -> None:
    connections: list[str | None] = []
    answers_of(["tokens=1", "tokens=2"], [0.0, 0.3], connections=connections)
    assert connections == ["close", "close"]


def test_an_answer_without_content_has_its_first_token_with_its_last() -> None:
    (answer,) = answers_of(["nothing"])
    assert answer.tokens == 1
    assert answer.ttft == answer.ttlt > 0


def test_latency_counts_from_the_intended_arrival_and_arrivals_do_not_wait() -> None:
    # One slot: the second request arrives while the first is served, and its wait must count.
    start = time.perf_counter()
    first, second, third = answers_of(["tokens=40"] * 3, [0.0, 0.05, 0.4], slots=1)
    assert time.perf_counter() - start >= 0.4
    assert [a.arrival_s for a in (first, second, third)] == [0.0, 0.05, 0.4]
    assert second.arrival_s + second.ttft >= first.ttlt  # it waited for the slot
    assert second.ttlt > first.ttlt - 0.05
    assert all(0 <= a.send_lag_s < a.ttlt for a in (first, second, third))


def test_the_same_order_is_kept_whoever_ends_first() -> None:
    found = answers_of([f"tokens={n}" for n in (30, 1, 20, 2)])
    assert [a.index for a in found] == [0, 1, 2, 3]
    assert [a.tokens for a in found] == [30, 1, 20, 2]


def test_failures_are_counted_and_fatal() -> None:
    with pytest.raises(ServingError, match=r"2 of 4 requests failed.*p1: HTTP 400.*made to fail"):
        answers_of(["tokens=1", "fail", "tokens=2", "fail"], [0, 0, 0.2, 0.2])


def test_an_error_inside_the_stream_is_a_failure() -> None:
    with pytest.raises(ServingError, match=r"1 of 2 requests failed.*the engine died"):
        answers_of(["tokens=1", "error-chunk"])


def test_a_stream_without_token_counts_is_a_failure() -> None:
    with pytest.raises(ServingError, match="no token counts"):
        answers_of(["no-usage"])


def test_a_server_that_falls_silent_is_given_up() -> None:
    with pytest.raises(ServingError, match=r"sent nothing for 1 s with requests open \(1 of 2"):
        answers_of(["tokens=1", "silent"], stall_s=1.0)


def test_a_long_pause_between_arrivals_is_not_silence() -> None:
    assert len(answers_of(["tokens=1", "tokens=1"], [0.0, 1.2], stall_s=0.5)) == 2


def test_a_server_that_is_not_there_is_a_failure() -> None:
    load = Load("http://127.0.0.1:9", "m", 5)
    with pytest.raises(ServingError, match="1 of 1 requests failed"):
        asyncio.run(drive(load, [prompt("x")], [0.0]))
