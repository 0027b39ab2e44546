"""A fitted step-time model finds what made its steps, and says how far off it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pars_bench.replay.fit import fit_step_time, read_step_times
from pars_export.errors import InputError


def steps(noise: float = 0.0) -> list[dict[str, float]]:
    draw = np.random.default_rng(3)
    found = []
    for _ in range(200):
        tokens, context = float(draw.integers(1, 500)), float(draw.integers(1, 100_000))
        seconds = 4e-3 + 2e-5 * tokens + 3e-8 * context
        found.append(
            {
                "tokens": tokens,
                "context": context,
                "seconds": seconds * float(np.exp(noise * draw.standard_normal())),
            }
        )
    return found


def test_exact_steps_give_their_coefficients_back(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text(json.dumps(steps()))
    found = read_step_times(tmp_path / "steps.json")
    assert found.base_s == pytest.approx(4e-3)
    assert found.per_token_s == pytest.approx(2e-5)
    assert found.per_context_s == pytest.approx(3e-8)
    assert found.relative_error == pytest.approx(0, abs=1e-9)
    assert found.r_squared == pytest.approx(1)
    assert found.device_s(100, 1000, 0) == pytest.approx(4e-3 + 2e-3 + 3e-5)
    assert found.facts()["source"] == "steps.json"


def test_csv_is_read_as_well_and_noise_is_stated(tmp_path: Path) -> None:
    rows = [f"{row['tokens']},{row['context']},{row['seconds']}" for row in steps(noise=0.1)]
    (tmp_path / "steps.csv").write_text("tokens,context,seconds\n" + "\n".join(rows))
    found = read_step_times(tmp_path / "steps.csv")
    assert 0.03 < found.relative_error < 0.15
    assert found.total_error == pytest.approx(0, abs=0.05)
    assert 0.5 < found.r_squared < 1


def test_no_coefficient_is_negative() -> None:
    tokens = np.arange(1, 21, dtype=np.float64)
    found = fit_step_time(tokens, np.zeros(20), 1 / tokens, source="x")  # more tokens, less time
    assert found.per_token_s == 0
    assert found.base_s > 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tokens,context,seconds\n1,1,1", "holds 1 steps: expected at least 10"),
        ("tokens,seconds\n1,1", "step 1: there is no 'context'"),
        ("tokens,context,seconds\n1,x,1", "step 1: context is 'x'; expected a number"),
        ("tokens,context,seconds\n" + "1,1,0\n" * 10, "seconds must be above 0"),
        ("tokens,context,seconds\n" + "0,1,1\n" * 10, "tokens must be numbers of at least 1"),
    ],
)
def test_steps_that_cannot_be_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "steps.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_step_times(tmp_path / "steps.csv")


def test_files_that_are_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_step_times(tmp_path / "none.csv")
    (tmp_path / "steps.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read_step_times(tmp_path / "steps.json")
    (tmp_path / "steps.json").write_text("3")
    with pytest.raises(InputError, match="expected a list of steps"):
        read_step_times(tmp_path / "steps.json")
