"""The simulated queue against one written down plainly; the page against the defaults."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from pars_bench.policy import page, sweep
from pars_bench.policy.slots import Array, Traffic, draw_traffic, expectations, serve
from pars_vllm.policy import Policy
from pars_vllm.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "results" / "policy.md"
UNBOUNDED = Policy(patience=1e9, share=0.0)


def plainly(traffic: Traffic, slots: int, expected: Array | None) -> Array:
    """One request after another, whoever is least whenever a slot is free."""
    free = [0.0] * slots
    left = list(range(traffic.lengths.size))
    ends = np.zeros(traffic.lengths.size)
    while left:
        slot = int(np.argmin(free))
        now = max(free[slot], min(traffic.arrivals[i] for i in left))
        here = [i for i in left if traffic.arrivals[i] <= now]
        chosen = min(here, key=lambda i: (expected[i] if expected is not None else 0, i))
        left.remove(chosen)
        ends[chosen] = free[slot] = now + traffic.lengths[chosen]
    return ends - traffic.arrivals


@pytest.mark.parametrize("load", [0.8, 1.2, None])
def test_serves_like_a_plain_queue(load: float | None) -> None:
    traffic = draw_traffic(np.random.default_rng(0), 300, 4, load, median=10.0)
    expected = expectations(np.random.default_rng(1), traffic.lengths, 0.5, median=10.0)
    for each in (None, expected, traffic.lengths):
        found = serve(traffic, 4, UNBOUNDED, each)
        assert found == pytest.approx(plainly(traffic, 4, each))


def test_traffic_has_the_load_and_the_predictor_its_tau() -> None:
    traffic = draw_traffic(np.random.default_rng(0), 20_000, 64, 1.3)
    work = traffic.lengths.sum() / 64 / traffic.arrivals[-1]
    assert work == pytest.approx(1.3, rel=0.05)
    for tau in (0.62, 0.38):
        expected = expectations(np.random.default_rng(1), traffic.lengths, tau)
        assert kendalltau(expected, traffic.lengths).statistic == pytest.approx(tau, abs=0.02)
        assert expected.mean() == pytest.approx(traffic.lengths.mean(), rel=0.05)  # calibrated


def test_patience_without_bound_on_its_share_is_arrival_order() -> None:
    traffic = draw_traffic(np.random.default_rng(0), 400, 4, 1.3, median=10.0)
    arrival = serve(traffic, 4, UNBOUNDED, None)
    found = serve(traffic, 4, Policy(patience=0.0, share=1.0), traffic.lengths)
    assert found == pytest.approx(arrival)


def test_the_command_goes_on_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LOADS", {"1.30": 1.3, "burst": None})
    monkeypatch.setattr(sweep, "PATIENCES", (2.0, 8.0))
    monkeypatch.setattr(sweep, "SHARES", (0.1, 1.0))
    parser = ArgumentParser()
    sweep.add_arguments(parser)
    out, where = tmp_path / "out", tmp_path / "page.md"
    args = parser.parse_args(
        ["--out", str(out), "--page", str(where), "--requests", "600", "--seeds", "2"]
    )
    assert sweep.run(args) == 0
    first = where.read_text()
    monkeypatch.setattr(sweep, "serve", None)  # nothing is computed again
    assert sweep.run(args) == 0
    assert where.read_text() == first
    assert "--requests 600 --seeds 2" in first
    assert "## Load 1.30" in first
    assert "## Burst" in first
    oracle = next(line for line in first.splitlines() if line.startswith("| oracle"))
    assert oracle.count("100 ± 0 %") == 3


def test_chooses_the_least_starving_one_that_keeps_the_gain() -> None:
    facts = {
        "unbounded": [1.0, 9.0, 9.0],
        "5/0.1": [0.5, 1.0, 1.0],  # bounds well, costs too much
        "20/0.1": [0.95, 3.0, 3.0],
        "50/0.1": [0.99, 2.0, 4.0],
    }
    assert page.choose({("1.30", 0.5): [facts]}) == "20/0.1"
    assert page.choose({("1.30", 0.5): [{"unbounded": [1.0, 1, 1], "5/1": [0.1, 1, 1]}]}) == (
        "unbounded"
    )


def test_the_defaults_are_the_setting_that_the_page_speaks_for() -> None:
    chosen = re.search(r"patience/share \*\*([\d.]+)/([\d.]+)\*\*", PAGE.read_text())
    assert chosen is not None
    best = (float(chosen[1]), float(chosen[2]))
    assert (Policy().patience, Policy().share) == best
    settings = Settings(ranking="off")
    assert (settings.patience, settings.share) == best
