from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from pars_export import InputError, Predictor
from pars_export.prompts import read_prompts, read_texts
from pars_export.score import score_stream
from pars_export.table import write_length_predictor, write_table_predictor
from pars_model.__main__ import main


def texts(lines: str, form: str = "auto") -> list[str]:
    return [prompt.text for prompt in read_prompts(io.StringIO(lines), "stdin", form)]


def test_lines_and_jsonl_are_told_apart_by_the_first_line() -> None:
    assert texts("a\n\n{b}\r\n") == ["a", "{b}"]
    assert texts('\n{"prompt": "a"}\n\n{"messages": [{"role": "user", "content": "b"}]}\n') == [
        "a",
        "b",
    ]
    assert texts('{"question": "a"}\n') == ['{"question": "a"}']
    assert texts("\n \n") == []
    assert texts("") == []
    assert texts('{"prompt": "a"}\n', "lines") == ['{"prompt": "a"}']


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('{"prompt": "a"}\nb\n', "stdin, line 2: not valid JSON"),
        ('{"prompt": "a"}\n[]\n', "stdin, line 2: expected an object"),
        ('{"prompt": "a"}\n{}\n', "stdin, line 2: A request needs"),
        ('{"prompt": 7}\n', "stdin, line 1: A prompt must be text"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(lines: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        texts(lines)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a\\nb", "prompt_id": 3}\n', encoding="utf-8")
    assert read_texts(tmp_path / "p.jsonl") == ["a\nb"]
    (tmp_path / "p.txt").write_bytes(b"caf\xe9\n\xff\n")
    Predictor.load(_length(tmp_path)).score(read_texts(tmp_path / "p.txt"))
    with pytest.raises(InputError, match="no such prompt file"):
        read_texts(tmp_path / "none")


def _length(tmp_path: Path) -> Path:
    write_length_predictor(tmp_path / "length")
    return tmp_path / "length"


def test_one_line_per_prompt_in_order_over_many_blocks(tmp_path: Path) -> None:
    predictor = Predictor.load(_length(tmp_path))
    out = io.StringIO()
    prompts = read_prompts((f"{'x' * (1 + n % 7)}\n" for n in range(3000)), "stdin")
    score_stream(predictor, prompts, out)
    scores = [json.loads(line)["score"] for line in out.getvalue().splitlines()]
    assert scores == [1 + n % 7 for n in range(3000)]


def test_blank_lines_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n  \nthree\n", encoding="utf-8")
    assert main(["score", str(_length(tmp_path)), str(path)]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["score"] for line in out.splitlines()] == [3, 5]
    assert f"{path}: 2 blank lines were skipped" in err


def test_pars_score_of_a_file(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "what is", "prompt_id": "q1"}\n{"prompt": "the moon"}\n', encoding="utf-8"
    )
    assert main(["score", str(exported), str(path)]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    predictor = Predictor.load(exported)
    assert first["prompt_id"] == "q1"
    assert "prompt_id" not in second
    assert_allclose([first["score"], second["score"]], predictor.score(["what is", "the moon"]))
    assert first["expected_tokens"] >= 1


def test_pars_score_of_stdin_and_of_unknown_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table_predictor(tmp_path / "t", {"a": 3.0})
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\n"))
    assert main(["score", str(tmp_path / "t")]) == 0
    assert list(map(json.loads, capsys.readouterr().out.splitlines())) == [
        {"score": 3.0, "expected_tokens": 3.0},
        {"score": None, "expected_tokens": None},
    ]


def test_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error == f"pars: error: {tmp_path / 'none'}: there is no such predictor folder.\n"
    assert main(["score", str(_length(tmp_path)), str(tmp_path / "x.txt")]) == 2
    assert "no such prompt file" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    folder = _length(tmp_path)
    (tmp_path / "many.txt").write_text("prompt\n" * 200_000, encoding="utf-8")
    command = f"{sys.executable} -m pars_model score {folder} {tmp_path / 'many.txt'} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["score"] == 6
