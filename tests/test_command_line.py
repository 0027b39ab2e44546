"""The console script: every command's help is there, and none of them loads anything heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pars_model.__main__ import COMMANDS, TRAINING, main

HEAVY = {"torch", "lightning", "transformers", "vllm", "onnxruntime", "pyarrow", "matplotlib"}

ALL_HELP = """
import contextlib, io, sys
from pars_model.__main__ import COMMANDS, TRAINING, main
for arguments in [["--help"], *([name, "--help"] for name in (*COMMANDS, *TRAINING)),
                  ["bench", "serving", "--help"]]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    assert not status and "usage: pars" in text.getvalue(), arguments
    print(" ".join(arguments), *sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


def test_every_help_answers_without_loading_anything_heavy() -> None:
    command = [sys.executable, "-c", ALL_HELP, *HEAVY]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    expected = ["--help", *(f"{name} --help" for name in (*COMMANDS, *TRAINING))]
    assert output.splitlines() == [*expected, "bench serving --help"]


def test_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2
    assert "trian" in capsys.readouterr().err


def test_unwritable_place_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device", "lengths.parquet")

    monkeypatch.setattr("pars_model.collect.run", full)
    options = ["--prompts", "p.txt", "--model", "m", "--out", "lengths.parquet"]
    assert main(["collect", *options]) == 2
    assert capsys.readouterr().err == "pars: error: lengths.parquet: No space left on device\n"


def test_interruption_exits_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pars_model.collect.run", interrupt)
    options = ["--prompts", "p.txt", "--model", "m", "--out", "lengths.parquet"]
    assert main(["collect", *options]) == 130
    assert "interrupted" in capsys.readouterr().err
