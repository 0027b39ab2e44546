from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pars_export.batches import BatchPlan, micro_batches, padded

lengths = st.lists(st.integers(1, 512), max_size=200)
plans = st.builds(
    BatchPlan,
    tokens=st.integers(1, 4096),
    rows=st.integers(1, 64),
    padding=st.floats(0, 1),
)


@given(lengths, plans)
def test_every_text_once_and_within_the_limits(found: list[int], plan: BatchPlan) -> None:
    batches = list(micro_batches(found, plan))
    assert sorted(index for batch in batches for index in batch) == list(range(len(found)))
    for batch in batches:
        rows = [found[index] for index in batch]
        computed = max(rows) * len(rows)
        assert len(rows) <= plan.rows
        if len(rows) > 1:
            assert computed <= plan.tokens
            assert computed - sum(rows) <= plan.padding * computed + 1e-9


def test_padding_of_ordinary_traffic_is_small_and_batches_are_few() -> None:
    rng = np.random.default_rng(0)
    found = np.clip(rng.lognormal(3.5, 0.9, 2000), 3, 256).astype(int).tolist()
    batches = list(micro_batches(found, BatchPlan()))
    computed = sum(max(found[i] for i in batch) * len(batch) for batch in batches)
    assert computed < 1.05 * sum(found)
    assert len(batches) < 120


def test_padded_rows() -> None:
    ids, mask = padded([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_lengths_that_are_padded_alike_share_a_batch() -> None:
    plan = BatchPlan(tokens=64, step=16)
    assert list(micro_batches([3, 16, 17, 9, 1], plan)) == [[4, 0, 3, 1], [2]]
    assert list(micro_batches([3, 16, 17], BatchPlan(tokens=64))) == [[0], [1, 2]]
