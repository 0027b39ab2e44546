"""A stand-in for `vllm serve` in tests: its HTTP answers, its slots, no model.

Run as a program it takes vLLM's arguments (it reads --port, --max-num-seqs, and the order out of
--additional-config) and has a child process, as vLLM has. How a request is answered is said by
directives in the prompt: `tokens=N`, `fail`, `silent`, `nothing`, `error-chunk`, `no-usage`.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from aiohttp import web

SECONDS_PER_TOKEN = 0.002
SCORER_START_S = float(os.environ.get("STANDIN_SCORER_START_S", "0"))


def application(
    slots: int = 4, on_request: Callable[[dict[str, object]], None] | None = None
) -> web.Application:
    free = asyncio.Semaphore(slots)

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text='vllm:num_preemptions_total{engine="0",model_name="m"} 3.0\n')

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if on_request is not None:
            on_request(body)
        prompt = body["messages"][-1]["content"]
        if "fail" in prompt:
            return web.json_response({"error": {"message": "made to fail"}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        async with free:
            await response.prepare(request)
            await _answer(response, prompt, int(body["max_tokens"]))
        return response

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def _answer(response: web.StreamResponse, prompt: str, limit: int) -> None:
    async def send(payload: object) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        data = f"data: {text}\n\n".encode()
        await response.write(data[:7])  # a chunk may be cut anywhere on its way
        await response.write(data[7:])

    def choice(content: str, finish: str | None = None) -> dict[str, object]:
        return {"choices": [{"delta": {"content": content}, "finish_reason": finish}]}

    await send({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    if "silent" in prompt:
        await asyncio.sleep(3)
    if "error-chunk" in prompt:
        await send({"error": {"message": "the engine died"}})
        return
    found = re.search(r"tokens=(\d+)", prompt)
    wanted = 1 if "nothing" in prompt else int(found[1]) if found else 5
    tokens = min(wanted, limit)
    for number in range(tokens):
        await asyncio.sleep(SECONDS_PER_TOKEN)
        last = number == tokens - 1
        content = "" if "nothing" in prompt else "\N{GREEK SMALL LETTER ALPHA} "
        await send(choice(content, ("length" if wanted > limit else "stop") if last else None))
    if "no-usage" not in prompt:
        await send({"choices": [], "usage": {"completion_tokens": tokens, "prompt_tokens": 9}})
    await send("[DONE]")


def main(arguments: list[str]) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(f"stand-in: child {child.pid}, started with {arguments}", flush=True)
    if os.environ.get("STANDIN_ERROR"):
        print("(EngineCore pid=7) ERROR 11-24 00:35:03 [core.py:12] " + os.environ["STANDIN_ERROR"])
        child.kill()
        sys.exit(1)
    scored = '"predictor"' in " ".join(arguments)
    if scored:
        atexit.register(print, "PARS: requests 9, scored 8, unknown 1.", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    port = int(arguments[arguments.index("--port") + 1])
    slots = int(arguments[arguments.index("--max-num-seqs") + 1])

    ready_at = time.monotonic() + SCORER_START_S
    said = False

    def schedule(_: dict[str, object]) -> None:
        # As the scheduler does: it hears of its scorer while it works, never while it is idle.
        nonlocal said
        if scored and not said and time.monotonic() > ready_at:
            said = True
            print("PARS: the scorer process is ready (pid 7).", flush=True)

    async def serve() -> None:
        runner = web.AppRunner(application(slots, schedule))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1:])
