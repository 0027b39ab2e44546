"""`pars bench engine`: two real engines take turns; what they say goes into the results."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pars_bench.engine import EngineReport, add_arguments, measure, render
from pars_bench.progress import TerminalProgress
from pars_export.errors import ConfigError
from pars_export.table import write_length_predictor


@pytest.mark.engine
def test_stock_and_ours_answer_the_same_prompts(tmp_path: Path) -> None:
    model = tiny.make_tiny_model(tmp_path / "model")
    write_length_predictor(tmp_path / "predictor")
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    command = [sys.executable, "-m", "pars_model", "bench", "engine", str(model)]
    command += ["--predictor", str(tmp_path / "predictor"), "--json", str(out)]
    command += ["--markdown", str(page), "--requests", "6", "--tokens", "4", "--rounds", "2"]
    environment = {**os.environ, **tiny.engine_environment()}  # both engines in one process
    subprocess.run(command, env=environment, check=True, capture_output=True)
    report: EngineReport = json.loads(out.read_text())
    assert len(report["rounds"]) == 2
    assert all(each["stock"] > 0 and each["ours"] > 0 for each in report["rounds"])
    assert report["settings"]["tokens"] == 4
    assert "--requests 6 --tokens 4 --rounds 2" in page.read_text()


def test_the_page_has_the_ratio_and_its_spread() -> None:
    report: EngineReport = {
        "environment": {"cores": 2},
        "settings": {"slots": 16},
        "rounds": [{"stock": 100.0, "ours": 99.0}],
        "ratio": 0.99,
        "ratio_quartiles": (0.98, 1.0),
    }
    page = render(report, "pars bench engine demo/llm")
    assert "**0.990** times" in page
    assert "quartiles 0.980 to 1.000" in page
    assert "| 1 | 100.0 | 99.0 | 0.990 |" in page


def test_too_few_prompts(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one"}\n')
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    command = ["model", "--predictor", "p", "--json", "out.json", "--prompts", str(prompts)]
    with pytest.raises(ConfigError, match="holds 1 prompts; 6 rounds and one to warm up need 448"):
        measure(parser.parse_args(command), TerminalProgress())
