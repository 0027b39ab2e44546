"""The page of `pars bench predictor`: what was measured, and nothing that was not."""

from __future__ import annotations

import pytest
from predictor_reports import report_of, with_int8

from pars_bench.predictor.page import render
from pars_bench.predictor.rates import OPERATIONS
from pars_bench.predictor.report import over_floor, rates_of


def test_the_floor_is_that_of_the_fastest_library_there_was() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=0.4, bert_ms=5.0)
    (cell,) = report["speed"]
    assert "fastest of numpy, onnxruntime and torch on matrices" in render(report, [])
    cell["speeds"]["float32, torch"]["seconds"] = [5e-3] * 3
    assert rates_of(report, cell)["float32"] == pytest.approx(OPERATIONS / 5e-3)
    for name in [each for each in cell["speeds"] if each.endswith("torch")]:
        del cell["speeds"][name]  # as results of before, or where it is not installed
    assert rates_of(report, cell)["float32"] == pytest.approx(OPERATIONS / 20e-3)
    assert over_floor(report, cell, "x onnx") is not None
    work = report["contestants"]["x onnx"]["work"]
    assert work is not None
    work["precision"] = work["others"] = "bfloat16"  # which nobody else multiplied here
    assert over_floor(report, cell, "x onnx") is None
    assert "within 1.5 times the floor" not in render(report, [])
    work["precision"] = work["others"] = "float32"
    assert "fastest of numpy and onnxruntime on matrices" in render(report, [])


def test_the_page_says_what_batching_is_worth_where_that_was_measured() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=4.0, bert_ms=5.0)
    before = render(report, [])
    assert "| | threads | prompts | seconds | floor, seconds |\n" in before
    assert "one by one" not in before
    report["bursts"][0]["few"] = {
        "prompts": 256,
        "together": {"x onnx": [0.512, 0.512]},
        "alone": {"x onnx": [0.256, 0.768]},
    }
    page = render(report, [])
    columns = "floor, seconds | ms a prompt, 256 in one call | ms a prompt, one by one |\n"
    assert columns + "|---|---:|---:|---:|---:|---:|---:|\n" in page
    assert "| 2 | 2 (1.5 to 2.5) |" in page
    assert "above.\nBesides, 256 of them, evenly taken, were ranked in one call" in page


def test_the_page_says_where_a_calls_time_goes() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=10.0, bert_ms=80.0)
    before = render(report, [])
    report["speed"][0]["parts"] = {}  # of folders none of whose runtimes is profiled
    assert render(report, []) == before
    assert "Where a call's time goes" not in before
    assert "at the rate of large matrices.\n" in before
    with_int8(report, ms=9.0, attention=0.0)
    page = render(report, [])
    assert "at the rate of large matrices;\nand its own time with all products" in page
    assert "| *x onnx-int8: with the floor's products* | 1.91 |" in page
    assert "| *x onnx-int8: the same and its rounding* | 2.51 |" in page
    assert "| x onnx-int8: products with weights | 3.6 (40%) |" in page
    assert "| x onnx-int8: rounding | 1.8 (20%) |" in page
    assert "nothing (3.5 microseconds)" in page
    assert "sum up to 1.1 times what a call without a profile" in page


def test_the_page_says_how_much_memory_calls_take_where_that_was_measured() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=10.0, bert_ms=80.0)
    assert "Memory by the size of a call" not in render(report, [])
    report["memory"] = [
        {"threads": 1, "length": 16, "batch": 4, "peak_mib": {"x onnx": 100.0, "BERT": None}},
        {"threads": 1, "length": 64, "batch": 1, "peak_mib": {"x onnx": 1200.0, "BERT": None}},
        {"threads": 1, "length": 512, "batch": 64, "peak_mib": {"x onnx": 1300.0}},
        {"threads": 2, "length": 16, "batch": 4, "peak_mib": {"x onnx": 101.0}},
    ]
    page = render(report, [])
    assert "| one thread, tokens a call | 64 | 32,768 |\n|---|---:|---:|\n" in page
    assert "| **x onnx** | 1,200 | 1,300 |" in page  # the larger of two shapes of 64 tokens
    assert "| BERT | not known here |  |" in page  # in calls of so many tokens it takes no part
    assert "| 2 threads, tokens a call | 64 |" in page
    assert "at\n512 tokens here" in page
