"""Collecting lengths: prompt files, resumption, the endpoint, refusals.

The endpoint is a stand-in that answers like an OpenAI-compatible server; the engine itself is
exercised in test_collect_engine.py.
"""

from __future__ import annotations

import errno
import json
import resource
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pars_export.errors import InputError
from pars_model.__main__ import main
from pars_model.collect import CollectConfig, collect, read_prompts
from pars_model.generation import Generator, Job, Measured
from pars_model.lengths import read_lengths

CONFIG = CollectConfig("llm", samples=2, greedy=True, temperature=0.7, max_tokens=64, seed=0)


def length_of(job: Job) -> int:
    return len(str(job.messages[-1]["content"])) + job.sample


class StandInGenerator:
    """Measures by arithmetic; can be stopped after a number of responses."""

    def __init__(self, stop_after: int | None = None, error: BaseException | None = None) -> None:
        self.stop_after, self.error = stop_after, error
        self.jobs: list[Job] = []

    def __call__(self) -> Generator:
        return self.generate

    def generate(self, jobs: Iterable[Job]) -> Iterator[Measured]:
        for job in jobs:
            if len(self.jobs) == self.stop_after:
                assert self.error is not None
                raise self.error
            self.jobs.append(job)
            yield Measured(job, length_of(job), "stop", 7)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows: list[dict[str, object]] = [
        {"prompt": f"question {'!' * n}", "dataset": "d", "split": "test" if n % 2 else "train"}
        for n in range(6)
    ]
    rows[0]["samples"] = 0
    rows[1]["samples"] = 3
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_every_job_becomes_one_row(prompts: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"lengths{suffix}"
    # One greedy response each; 0, 3 and then 2 samples.
    assert collect(read_prompts(prompts), CONFIG, out, StandInGenerator()) == 6 + 0 + 3 + 4 * 2
    assert not list(tmp_path.glob("*.partial.jsonl"))
    if suffix == ".parquet":
        rows = pq.read_table(out).to_pylist()
        assert {row["config"] for row in rows} == {"temperature=0", "temperature=0.7"}
        assert {row["split"] for row in rows} == {"train", "test"}
        for row in rows:
            assert row["response_tokens"] == len(row["prompt"]) + row["sample"]
            assert (row["model"], row["max_tokens"]) == ("llm", 64)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_interrupted_run_goes_on_where_it_stopped(
    prompts: Path, tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "lengths.jsonl"
    first = StandInGenerator(stop_after=5, error=error)
    with pytest.raises(type(error)):
        collect(read_prompts(prompts), CONFIG, out, first)
    assert not out.exists()
    partial = tmp_path / "lengths.jsonl.partial.jsonl"
    with partial.open("a") as file:
        file.write('{"key": "torn')  # what a crash in the middle of a write leaves
    second = StandInGenerator()
    collect(read_prompts(prompts), CONFIG, out, second)
    done = [(job.prompt_id, job.temperature, job.sample) for job in first.jobs + second.jobs]
    assert len(done) == len(set(done)) == 17
    whole = tmp_path / "whole.jsonl"
    collect(read_prompts(prompts), CONFIG, whole, StandInGenerator())
    assert out.read_text() == whole.read_text()


def test_a_full_disk_names_the_file(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], endpoint: str
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))  # a write fails as on a full disk
    try:
        options = ["--base-url", endpoint, "--max-tokens", "64", "--out", str(tmp_path / "t.csv")]
        assert main(["collect", "--prompts", str(prompts), *options]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"pars: error: {tmp_path}/t.csv.partial.jsonl: File too large"


def test_two_collections_into_one_table_are_refused(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "lengths.jsonl"

    class Meanwhile(StandInGenerator):
        def __call__(self) -> Generator:
            with pytest.raises(InputError, match="in use by another `pars collect`"):
                collect(read_prompts(prompts), CONFIG, out, StandInGenerator())
            return super().__call__()

    assert collect(read_prompts(prompts), CONFIG, out, Meanwhile()) == 17


def test_resuming_with_other_settings_is_refused(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "lengths.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collect(read_prompts(prompts), CONFIG, out, StandInGenerator(3, KeyboardInterrupt()))
    other = CollectConfig("llm", 2, greedy=True, temperature=0.9, max_tokens=64, seed=0)
    with pytest.raises(InputError, match="begun with other prompts or settings"):
        collect(read_prompts(prompts), other, out, StandInGenerator())


def test_finished_table_is_not_overwritten(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "lengths.jsonl"
    out.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        collect(read_prompts(prompts), CONFIG, out, StandInGenerator())
    assert out.read_text() == "precious"


def test_text_file_is_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("first\n\nsecond \u2028 line\n")
    texts = [prompt.messages[0]["content"] for prompt in read_prompts(path)]
    assert texts == ["first", "second \u2028 line"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no prompts"),
        ("not json", "is not JSON"),
        ("[1]", "holds list"),
        ('{"prompt": 3}', "`prompt` is int, expected text"),
        ('{"text": "x"}', "`prompt` is NoneType"),
        ('{"messages": []}', "`messages` must be a list"),
        ('{"messages": [{"content": "x"}]}', "`messages` must be a list"),
        ('{"prompt": "x", "samples": -1}', "`samples` is -1"),
        ('{"prompt": "x", "split": "dev"}', "`split` is 'dev'"),
        ('{"prompt": "x", "split": "val"}\n{"prompt": "y"}', "others have none"),
        ('{"prompt": "x"}\n{"prompt": "x"}', "twice"),
    ],
)
def test_bad_prompt_files_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_prompts(path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--samples", "0"], "--samples is 0"),
        (["--temperature", "0"], "--temperature is 0.0"),
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--out", "table.xlsx"], "ends in .xlsx"),
        (["--base-url", "ftp://host/v1"], "not an http or https address"),
    ],
)
def test_bad_options_are_refused(
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ["--prompts", str(prompts), "--base-url", "http://127.0.0.1:1/v1", "--out", "t.csv"]
    assert main(["collect", *base, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("pars: error: ")
    assert sentence in error


class StandInServer(BaseHTTPRequestHandler):
    """Answers chat completions; every third request is first told to come back later."""

    seen = 0
    beyond = 0
    """Reasoning tokens beyond those that it counts in the answer, and one more."""
    reasons = False
    """Whether it tells the reasoning tokens of answers of an odd length."""

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen += 1
        if self.seen % 3 == 0:
            self._send(503, {"error": "busy"})
            return
        assert body["model"] == "served"
        assert body["max_tokens"] == 64
        tokens = len(body["messages"][-1]["content"])
        usage: dict[str, object] = {"completion_tokens": tokens, "prompt_tokens": 5}
        if self.reasons and tokens % 2:
            usage["completion_tokens_details"] = {"reasoning_tokens": tokens - 1 + self.beyond}
        self._send(200, {"choices": [{"finish_reason": "stop"}], "usage": usage})

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_endpoint(prompts: Path, tmp_path: Path, endpoint: str) -> None:
    out = tmp_path / "lengths.parquet"
    options = ["--samples", "1", "--max-tokens", "64", "--concurrency", "2", "--out", str(out)]
    assert main(["collect", "--prompts", str(prompts), "--base-url", endpoint, *options]) == 0
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 0 + 3 + 4
    assert {row["model"] for row in rows} == {"served"}  # the server's own name, not its address
    assert all(row["response_tokens"] == len(row["prompt"]) for row in rows)


def test_reasoning_tokens_are_kept_where_the_server_tells_them(
    prompts: Path,
    tmp_path: Path,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--samples", "1", "--max-tokens", "64", "--prompts", str(prompts)]
    options = ["collect", *options, "--base-url", endpoint, "--out"]
    assert main([*options, str(tmp_path / "plain.parquet")]) == 0
    assert "reasoning_tokens" not in pq.read_schema(tmp_path / "plain.parquet").names
    monkeypatch.setattr(StandInServer, "reasons", True)
    assert main([*options, str(tmp_path / "told.parquet")]) == 0
    rows = pq.read_table(tmp_path / "told.parquet").to_pylist()
    assert {row["reasoning_tokens"] is None for row in rows} == {True, False}
    for row in rows:
        total = row["response_tokens"]
        assert row["reasoning_tokens"] == (total - 1 if total % 2 else None)
    assert len(read_lengths(tmp_path / "told.parquet")) > 0
    monkeypatch.setattr(StandInServer, "beyond", 2)
    assert main([*options, str(tmp_path / "apart.parquet")]) != 0
    assert "reasoning tokens in an answer of" in capsys.readouterr().err
    assert not (tmp_path / "apart.parquet").exists()


def test_endpoint_that_refuses_is_quoted(
    prompts: Path,
    tmp_path: Path,
    endpoint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--base-url", f"{endpoint}/nowhere", "--model-name", "x", "--out", "t.csv"]
    StandInServer.seen = 0

    def refuse(self: StandInServer) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(404, {"error": "no such route"})

    monkeypatch.setattr(StandInServer, "do_POST", refuse)
    options[-1] = str(tmp_path / "t.csv")
    assert main(["collect", "--prompts", str(prompts), *options]) == 2
    assert "no such route" in capsys.readouterr().err
