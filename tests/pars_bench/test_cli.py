from __future__ import annotations

import io
import subprocess
import sys

import pytest

from pars_bench.progress import TerminalProgress
from pars_model.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "--help"], ["serving", "scheduler", "report"]),
        (["bench", "serving", "--help"], ["--order", "--slots", "prompt_length"]),
        (["bench", "scheduler", "--help"], ["--json", "--waiting"]),
        (["bench", "report", "--help"], ["folder"]),
    ],
)
def test_help(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import argparse, sys\n"
        "from pars_bench import cli\n"
        "cli.add_arguments(argparse.ArgumentParser())\n"
        "heavy = {'torch', 'aiohttp', 'pyarrow', 'matplotlib', 'vllm', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "serving", "--model", "m", "--prompts", "none.jsonl", "--out", "o"]
    assert main([*arguments, "--order", "oracle"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("pars: error: --order fcfs is missing")
    assert printed.count("\n") == 1


def test_progress_without_a_terminal_prints_few_whole_lines() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(stream, interval=60.0)
    progress.say("begin")
    for done in range(101):
        progress.count("fcfs burst", done, 100)
    assert stream.getvalue().splitlines() == [
        "begin",
        "fcfs burst: 0/100 requests, 0 s",
        "fcfs burst: 100/100 requests, 0 s",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_rewrites_its_line() -> None:
    stream = Terminal()
    progress = TerminalProgress(stream)
    progress.count("x", 0, 2)
    progress.count("x", 2, 2)
    assert stream.getvalue() == "x: 0/2 requests, 0 s\x1b[K\rx: 2/2 requests, 0 s\x1b[K\n"
