from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import tiny

from pars_export.table import write_length_predictor
from pars_vllm import doctor


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run(parser.parse_args(list(arguments)))


def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_length_predictor(tmp_path / "length")
    model = tiny.write_tokenizer(tmp_path / "model")
    assert run("--predictor", str(tmp_path / "length"), "--model", str(model)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok ", "warn ")) for line in lines)
    text = "\n".join(lines)
    for part in (
        "is supported",
        "vLLM can import pars_vllm.ParsScheduler",
        "the base class will be",
        "predictor_sha256",
        "ms a prompt",
        "the chat template comes off exactly (system, user)",
    ):
        assert part in text


def test_damage_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "check_vllm", lambda: iter(()))
    write_length_predictor(tmp_path / "length")
    (tmp_path / "length" / "predictor.json").write_text("{")
    assert run("--predictor", str(tmp_path / "length"), "--model", str(tmp_path)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL")
    assert "not valid JSON" in lines[0]


def test_vllm_that_is_missing_or_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "vllm_version", lambda: None)
    assert [finding.level for finding in doctor.check_vllm()] == ["FAIL"]
    monkeypatch.setattr(doctor, "vllm_version", lambda: "0.8.5")
    monkeypatch.setattr(doctor, "_PROBE", "raise ImportError('no such class')")
    found = list(doctor.check_vllm())
    assert [finding.level for finding in found] == ["FAIL", "FAIL"]
    assert "0.8.5 is not supported" in found[0].text
    assert "no such class" in found[1].text


def test_model_without_a_template(tmp_path: Path) -> None:
    model = tiny.write_tokenizer(tmp_path / "model", None)
    assert [finding.level for finding in doctor.check_model(str(model))] == ["warn"]
