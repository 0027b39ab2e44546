"""The live engine and the replay take the same steps."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path

import pytest
import tiny

from pars_bench.replay.validate import Comparison, compare, live_engine, main, render


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # vLLM's own imports and shutdown warn
def test_a_burst_takes_the_same_steps_live_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunked prompts, shared prefixes, full slots: requests, tokens and context of every step."""
    for name, value in tiny.engine_environment().items():
        monkeypatch.setenv(name, value)
    engine = live_engine(tiny.make_tiny_model(tmp_path / "model"), slots=4, budget=64)
    try:
        # Processor time: what others take of the machine is no error of the replay.
        comparison, fitted_to = compare(engine, count=24, clock=time.process_time)
    finally:
        engine.llm_engine.engine_core.shutdown()
    assert comparison.same_steps
    assert comparison.steps > 50
    assert len(fitted_to.steps) > 50
    # Loose, for so small a burst is noisy, and still no replay that is off by ten times passes.
    assert abs(comparison.time_error) < 0.75
    assert abs(comparison.mean_latency_error) < 0.75


def test_the_page_says_how_far_off_the_replay_was() -> None:
    args = Namespace(
        model=Path("/models/an-llm"),
        requests=24,
        slots=4,
        budget=64,
        dtype="float32",
        processor_time=False,
    )
    text = render(Comparison(True, 70, 10.0, 9.0, 0.05, 0.03, 0.02), args)
    assert (
        "--requests 24 --slots 4 --budget 64 --dtype float32 --page FILE`, the model being an-llm:"
        in text
    )
    assert "| steps | 70, the same in requests, tokens and context |" in text
    assert "| error of the burst's time | -10.0 % |" in text
    assert "| error of the mean time to last token | +5.0 % |" in text
    assert "| median error of a request's time to last token | 3.0 % |" in text
    assert "| median error of a step of the fit | 2.0 % |" in text
    assert "off by more than 20 %: here they are within that bound." in text
    assert "/models" not in text


@pytest.mark.parametrize(
    ("replayed_s", "mean_latency_error", "fine"),
    [(11.9, 0.19, True), (8.1, -0.19, True), (12.1, 0.0, False), (10.0, -0.21, False)],
)
def test_a_replay_that_is_off_in_time_fails(
    replayed_s: float, mean_latency_error: float, fine: bool
) -> None:
    comparison = Comparison(True, 70, 10.0, replayed_s, mean_latency_error, 0.03, 0.02)
    assert comparison.in_time == fine


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "has no config.json: give the folder of an LLM"),
        (["--requests", "0"], "--requests is 0: expected at least 1"),
    ],
)
def test_what_cannot_be_is_said_before_an_engine_starts(
    tmp_path: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if options:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["--model", str(tmp_path), "--out", str(tmp_path / "steps.json"), *options])
    assert sentence in capsys.readouterr().err
