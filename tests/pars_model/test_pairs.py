"""Pairs against plain loops over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pars_model.lengths import Bools, Floats, Ints
from pars_model.pairs import all_pairs, pair_mask, random_pairs

Item = tuple[int, bool, int, int]
"""Length, whether it is cut off, group, prompt."""

ITEMS = st.lists(
    st.tuples(st.integers(0, 20), st.booleans(), st.integers(0, 2), st.integers(0, 9)),
    min_size=1,
    max_size=14,
)
DELTA = st.sampled_from([0.0, 0.2, 0.5])


def columns(items: Sequence[Item]) -> tuple[Floats, Bools, Ints, Ints]:
    length, censored, group, prompt = zip(*items, strict=True)
    return (
        np.array(length, dtype=float),
        np.array(censored, dtype=bool),
        np.array(group, dtype=np.int64),
        np.array(prompt, dtype=np.int64),
    )


def reference(items: Sequence[Item], delta: float) -> set[tuple[int, int]]:
    """Ordered pairs whose first is longer in whatever way the cut-off ones would have ended."""
    found = set()
    for i, (a, _, group, prompt) in enumerate(items):
        for j, (b, b_cut, other_group, other_prompt) in enumerate(items):
            if group != other_group or prompt == other_prompt or b_cut or a <= b:
                continue
            if abs(a - b) / max(a, b) >= delta:
                found.add((i, j))
    return found


@given(ITEMS, DELTA)
def test_in_batch_pairs_are_all_that_the_filter_allows(items: list[Item], delta: float) -> None:
    wanted = reference(items, delta)
    pairs = all_pairs(*columns(items), delta)
    found = list(zip(pairs.longer.tolist(), pairs.shorter.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == wanted
    mask = pair_mask(*columns(items), delta)
    assert set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True)) == wanted


@given(ITEMS, DELTA, st.integers(0, 5))
def test_random_pairs_are_some_of_them_and_each_once(
    items: list[Item], delta: float, seed: int
) -> None:
    pairs = random_pairs(*columns(items), 3, np.random.default_rng(seed), delta)
    found = list(zip(pairs.longer.tolist(), pairs.shorter.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) <= reference(items, delta)


def test_many_draws_find_every_pair() -> None:
    rng = np.random.default_rng(0)
    items = [
        (int(n), bool(n % 7 == 0), int(n % 2), k) for k, n in enumerate(rng.integers(0, 99, 30))
    ]
    pairs = random_pairs(*columns(items), 400, rng, 0.2)
    assert set(zip(pairs.longer.tolist(), pairs.shorter.tolist(), strict=True)) == reference(
        items, 0.2
    )


def test_partners_are_spread_over_the_group() -> None:
    length = np.arange(100, dtype=float)
    same = np.zeros(100, dtype=np.int64)
    pairs = random_pairs(
        length, same.astype(bool), same, np.arange(100), 10, np.random.default_rng(0)
    )
    assert 850 < len(pairs.longer) <= 1000
    assert len(np.unique(np.concatenate(pairs))) == 100


@pytest.mark.parametrize(("delta", "pairs"), [(0.2, 1), (0.2001, 0)])
def test_the_papers_filter_at_its_edge(delta: float, pairs: int) -> None:
    arrays = columns([(10, False, 0, 0), (8, False, 0, 1)])
    assert len(all_pairs(*arrays, delta).longer) == pairs


def test_a_cut_off_response_can_only_be_the_longer_one() -> None:
    arrays = columns([(64, True, 0, 0), (80, False, 0, 1), (10, False, 0, 2), (70, True, 0, 3)])
    pairs = all_pairs(*arrays)
    assert set(zip(pairs.longer, pairs.shorter, strict=True)) == {(0, 2), (1, 2), (3, 2)}
