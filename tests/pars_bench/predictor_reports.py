"""A report of `pars bench predictor` whose every figure follows from two times."""

from __future__ import annotations

import json

from pars_bench.predictor.rates import OPERATIONS, UNITS
from pars_bench.predictor.report import PARTS, PredictorReport


def report_of(name: str, entry: dict[str, object], ms: float, bert_ms: float) -> PredictorReport:
    """A report with one predictor, whose every figure follows from two times of a prompt."""
    seconds = {name: ms / 1e3, "BERT": bert_ms / 1e3}
    seconds |= {rate: amount / (OPERATIONS / 20e-3) for rate, (_, amount) in UNITS.items()}
    work = {"precision": "float32", "weights": 1e6, "attention": 0.0, "text": 0.0}
    work |= {"weight_bytes": 0.0, "row_bytes": 0.0, "most_tokens": None}
    value = {
        "environment": {"cores": 2},
        "settings": {"command": "pars bench predictor x --json OUT", "rounds": 3},
        "predictors": {"x": "ab" * 32},
        "contestants": {
            name: {
                "folder": "x",
                "auto": True,
                "large": False,
                "work": work,
                "parity": {
                    "max_abs_diff": 0.08,
                    "bound": 0.29,
                    "batch_diff": 1e-6,
                    "batch_bound": 1e-3,
                    "tau": 0.9912,
                    "prompts": 500,
                },
                **entry,
            },
            "BERT": {
                "what": "bert-base",
                "folder": None,
                "auto": False,
                "large": True,
                "work": None,
                "parity": None,
            },
        },
        "speed": [
            {
                "threads": 1,
                "length": 32,
                "batch": 1,
                "speeds": {
                    n: {"seconds": [s] * 3, "cores": [0.5, 1.0]} for n, s in seconds.items()
                },
            }
        ],
        "starts": {
            n: {
                "seconds": [ms / 5],
                "cpu_seconds": [ms / 10],
                "resident_mib": [ms * 50],
                "peak_mib": [500.0],
                "imported": [],
            }
            for n in (name, "BERT")
        },
        "bursts": [{"threads": 1, "prompts": 2000, "seconds": {name: [ms] * 3}}],
        "burst_lengths": {"x": [40] * 2000},
        "orders": {
            name: {"tau": 0.5, "interval": [0.4, 0.6], "prompts": 400, "of": {}, "seen": False}
        },
    }
    found: PredictorReport = json.loads(json.dumps(value))
    return found


def with_int8(report: PredictorReport, ms: float, attention: float) -> None:
    """Add `x onnx-int8` to a report of `x onnx`, and where its calls spend their time."""
    work = report["contestants"]["x onnx"]["work"]
    assert work is not None
    report["contestants"]["x onnx-int8"] = {
        **report["contestants"]["x onnx"],
        "what": "onnx-int8",
        "work": {**work, "precision": "int8", "weights": 1e7, "attention": attention},
    }
    for part in (report["starts"], report["orders"]):
        part["x onnx-int8"] = part["x onnx"]  # type: ignore[assignment]
    report["bursts"][0]["seconds"]["x onnx-int8"] = [1.0]
    (cell,) = report["speed"]
    cell["speeds"]["x onnx-int8"] = {"seconds": [ms / 1e3] * 3, "cores": (1.0, 1.0)}
    shares = dict.fromkeys(PARTS, 0.1) | {"products": 0.4, "rounding": 0.2}
    cell["parts"] = {
        "x onnx-int8": {"shares": shares, "nodes": 9, "surplus": 3.5e-6, "slower": 1.07}
    }
