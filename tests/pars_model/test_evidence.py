"""Evidence of an order, against plain Python and against simulated reruns."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pars_export.errors import ConfigError
from pars_model.evidence import equal_delta, label_noise, median_variance, survival
from pars_model.lengths import LengthTable, read_lengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.pars_model.conftest import MakeTable

Lengths = dict[str, list[list[float]]]


@pytest.fixture
def table_of(make_table: MakeTable) -> Callable[[Lengths], LengthTable]:
    def make(lengths: Lengths) -> LengthTable:
        rows = [
            {"prompt": f"p{n}", "model": llm, "response_tokens": int(tokens)}
            for llm, items in lengths.items()
            for n, samples in enumerate(items)
            for tokens in samples
        ]
        return read_lengths(make_table(rows))

    return make


def sampled(items: int, spread: float, samples: int, seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    centre = rng.uniform(5, 8, items)[:, None]
    found = np.exp(centre + spread * rng.standard_normal((items, samples)))
    return [[float(tokens) for tokens in each] for each in found]


def test_survival_is_the_share_of_reruns_that_keep_an_order() -> None:
    rng = np.random.default_rng(0)
    long, short, noise, other = 140.0, 100.0, 0.3, 0.2
    runs = math.log1p(long) + math.sqrt(2) * noise * rng.standard_normal(200_000)
    others = math.log1p(short) + math.sqrt(2) * other * rng.standard_normal(200_000)
    found = survival(*(np.array([x]) for x in (long, short, noise, other)))
    assert found[0] == pytest.approx((runs > others).mean(), abs=0.004)
    assert survival(*(np.array([x]) for x in (100.0, 100.0, noise, other)))[0] == 0.5


def test_a_delta_is_an_order_that_survives_as_often() -> None:
    delta, length = equal_delta(0.4, 0.75), 1e9
    one = np.array([0.4])
    kept = survival(np.array([length]), np.array([length * (1 - delta)]), one, one)
    assert kept[0] == pytest.approx(0.75)


def test_each_llm_has_the_noise_of_its_own_samples(
    table_of: Callable[[Lengths], LengthTable],
) -> None:
    lengths = {"calm": sampled(60, 0.1, 3, 1), "wild": sampled(60, 0.6, 2, 2)}
    table = table_of(lengths)
    found = label_noise(table, np.ones(len(table), dtype=bool), "group", 0.4)
    for number, (llm, samples) in enumerate(lengths.items()):
        assert table.groups[number].model == llm
        pooled = statistics.mean(
            statistics.variance(math.log1p(int(tokens)) for tokens in each) for each in samples
        )
        share = {2: 0.5, 3: 0.449}[len(samples[0])]
        assert found[table.group == number] == pytest.approx(math.sqrt(pooled * share))


def test_noise_that_falls_with_the_length_is_seen(
    table_of: Callable[[Lengths], LengthTable],
) -> None:
    rng = np.random.default_rng(0)
    centre = np.linspace(10, 2000, 400)[:, None]
    deviation = np.sqrt(0.01 + 2 / (1 + centre))
    samples = centre * np.exp(deviation * rng.standard_normal((400, 4)))
    table = table_of({"": np.maximum(samples, 1).tolist()})
    found = label_noise(table, np.ones(len(table), dtype=bool), "length", 0.4)
    wanted = np.sqrt((0.01 + 2 / (1 + table.length)) * 0.298)
    assert np.abs(found / wanted - 1)[50:].max() < 0.25


def test_an_llm_without_repeats_takes_others_or_the_given_spread(
    table_of: Callable[[Lengths], LengthTable],
) -> None:
    once = [[float(n)] for n in range(10, 40)]
    alone = table_of({"once": once})
    assert label_noise(alone, np.ones(30, dtype=bool), "group", 0.3) == pytest.approx(0.3)
    both = table_of({"once": once, "calm": sampled(60, 0.1, 2, 1)})
    found = label_noise(both, np.ones(len(both), dtype=bool), "group", 0.3)
    assert found[both.group == 0] == pytest.approx(0.1, rel=0.3)
    held_out = both.group == 0  # nothing is learned from items that are not chosen
    assert label_noise(both, held_out, "group", 0.3)[held_out] == pytest.approx(0.3)


def test_cut_off_answers_tell_nothing_of_the_noise(
    table_of: Callable[[Lengths], LengthTable],
) -> None:
    table = table_of({"": sampled(60, 0.1, 2, 1)})
    cut = replace(table, censored=np.ones(len(table), dtype=bool))
    found = label_noise(cut, np.ones(len(cut), dtype=bool), "group", 0.3)
    assert found == pytest.approx(math.sqrt(0.5) * 0.3)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 9])
def test_medians_vary_less(samples: int) -> None:
    rng = np.random.default_rng(samples)
    found = np.median(rng.standard_normal((100_000, samples)), axis=1).var()
    assert median_variance(np.array([samples]))[0] == pytest.approx(found, rel=0.1)


def test_unknown_noise_is_refused(table_of: Callable[[Lengths], LengthTable]) -> None:
    table = table_of({"": [[1.0], [2.0]]})
    with pytest.raises(ConfigError, match=r"data\.noise is 'loud'"):
        label_noise(table, np.ones(2, dtype=bool), "loud", 0.4)
    with pytest.raises(ConfigError, match=r"data\.spread is 0"):
        label_noise(table, np.ones(2, dtype=bool), "group", 0)
