"""The comparison on the real `vllm serve`, with a tiny random model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import tiny

from pars_bench.orders import Order, scheduler_arguments
from pars_bench.server import (
    ServerConfig,
    ServingError,
    free_port,
    last_error,
    running_server,
    vllm_program,
)
from pars_bench.serving import ServingConfig, run_serving
from pars_export.table import write_table_predictor


def engine_processes() -> list[str]:
    """Command lines of this process's engines, and of those whose parents are gone."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")")[-1].split()[1]
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "VLLM::" in command or "vllm serve" in command:
            commands[int(folder.name)] = command

    def ancestors(process: int) -> Iterator[int]:
        while process := parents.get(process, 0):
            yield process

    # Test files run side by side: the engines of another one are its processes', not ours.
    return [
        command
        for process, command in commands.items()
        if os.getpid() in (above := list(ancestors(process))) or os.getppid() not in above
    ]


@pytest.mark.engine
def test_two_orders_on_the_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    before = len(engine_processes())
    model = tiny.make_tiny_model(tmp_path / "tiny")
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "word " * (1 + 5 * i), "prompt_id": f"p{i}"} for i in range(12)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_serving(
        ServingConfig(
            model=str(model),
            prompts=prompts,
            out=tmp_path / "out",
            orders=(Order("fcfs"), Order("prompt_length")),
            slots=2,
            max_tokens=160,
            max_model_len=512,
            server_args=("--scheduler-cls", "recorded_scheduler.ParsScheduler"),
        )
    )
    runs = {(run["policy"], run["arrivals"]): run for run in result.report["runs"]}
    assert len(runs) == 4
    assert all(run["requests"] == 12 and run["preemptions"] == 0 for run in runs.values())
    fcfs, ranked = runs["fcfs", "burst"], runs["prompt_length", "burst"]
    assert fcfs["response_tokens"] == pytest.approx(ranked["response_tokens"], rel=0.2)
    # The scheduler was ours, its scorer had a length for every request, warm-up included, and it
    # scored the second pattern's prompts anew.
    assert fcfs["scorer"] is None
    assert ranked["scorer"] is not None
    # While the scorer process starts, more requests of warm-up keep the scheduler at work.
    assert ranked["scorer"]["scored"] == ranked["scorer"]["requests"] >= 2 * 12 + 2 * 2
    assert ranked["scorer"]["cached"] == 0
    measured = json.loads((tmp_path / "out" / "runs" / "prompt_length.json").read_text())
    sent = {answer["prompt_tokens"] for answer in measured["patterns"]["burst"]["answers"]}
    log = (tmp_path / "out" / "logs" / "prompt_length.log").read_text(errors="replace")
    started = [int(tokens) for tokens in re.findall(r"started a request of (\d+) tokens", log)]
    sizes = [tokens for tokens in started if tokens in sent]
    assert len(sizes) == 24, "none of warm-up is of a size that the two patterns have"
    sizes = sizes[:12]
    assert set(sizes) == sent
    # The first few are admitted before any score is there; the rest start shortest prompt first.
    rest = sizes[4:]
    assert sum(a <= b for a, b in pairwise(rest)) >= len(rest) - 2
    assert len(engine_processes()) <= before


@pytest.mark.engine
def test_what_refuses_to_start_is_the_last_error_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    model = tiny.make_tiny_model(tmp_path / "tiny")
    folder = tmp_path / "predictor"
    write_table_predictor(folder, {"text": 7.0})
    table = folder / "table.json"
    table.write_bytes(table.read_bytes().replace(b"7", b"8"))
    port = free_port()
    command = (
        *(vllm_program(), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", "512", "--enforce-eager"),
        *scheduler_arguments("pars", folder),
    )
    server = ServerConfig(command=command, port=port, log=tmp_path / "server.log")
    sentence = r"table\.json: its content has changed"
    with pytest.raises(ServingError, match=sentence), running_server(server):
        pass
    assert "its content has changed" in last_error(server.log)
