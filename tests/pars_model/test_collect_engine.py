"""`pars collect --model` on the real vLLM engine with a tiny random model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

pytestmark = pytest.mark.engine

PROMPTS = 40
TOKENS = 48


def command(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pars_model", "collect", "--model", str(folder / "model")),
        *("--prompts", str(folder / "prompts.txt"), "--out", str(folder / "lengths.jsonl")),
        *("--greedy", "--samples", "2", "--max-tokens", str(TOKENS), "--concurrency", "4"),
        *("--max-model-len", "512"),
    ]


def test_interrupted_by_ctrl_c_and_resumed(tmp_path: Path) -> None:
    tiny.make_tiny_model(tmp_path / "model")
    text = "".join(f"please write about number {index}\n" for index in range(PROMPTS))
    (tmp_path / "prompts.txt").write_text(text)
    partial = tmp_path / "lengths.jsonl.partial.jsonl"
    environment = {**os.environ, **tiny.engine_environment()}

    # As a shell starts what it runs in the foreground: whoever runs these tests may ignore SIGINT,
    # and what is ignored stays so in a child.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        first = subprocess.Popen(
            command(tmp_path), env=environment, start_new_session=True, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, ignored)
    try:
        end = time.monotonic() + 300
        while not (partial.exists() and len(partial.read_text().splitlines()) > 5):
            assert first.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, errors.decode()
    assert b"run the same command again" in errors
    assert not (tmp_path / "lengths.jsonl").exists()
    with pytest.raises(ProcessLookupError):  # nobody of its session is left
        os.killpg(first.pid, 0)

    measured = len(partial.read_text().splitlines()) - 1
    assert 0 < measured < 3 * PROMPTS
    subprocess.run(command(tmp_path), env=environment, check=True, timeout=300)
    rows = [json.loads(line) for line in (tmp_path / "lengths.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * PROMPTS
    assert len({(row["prompt_id"], row["config"], row["sample"]) for row in rows}) == len(rows)
    assert all(1 <= row["response_tokens"] <= TOKENS for row in rows)
    cut = [row["response_tokens"] for row in rows if row["finish_reason"] == "length"]
    assert cut
    assert set(cut) == {TOKENS}
    assert not partial.exists()
