"""Batches: every prompt once, little padding, the same pairs however they are encoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pars_export.errors import ConfigError, InputError
from pars_model.batches import Collator, EpochBatches, Items, bucketed_batches, home_clusters
from pars_model.datamodule import PromptLengthDataModule
from pars_model.lengths import read_lengths
from pars_model.losses import Labels
from pars_model.module import ResponseLengthRanker
from pars_model.targets import group_targets

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows, MakeTable


@given(
    st.integers(1, 200), st.integers(2, 32), st.integers(1, 8), st.integers(1, 3), st.integers(0, 9)
)
def test_each_prompt_is_in_one_batch_of_its_cluster(
    n: int, batch_size: int, pool: int, clusters: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prompts, home = np.arange(n) * 3, rng.integers(0, clusters, n)
    tokens = rng.integers(1, 100, n)
    batches = cast(
        "list[list[int]]", bucketed_batches(prompts, home, tokens, batch_size, pool, rng)
    )
    assert sorted(prompt for batch in batches for prompt in batch) == prompts.tolist()
    for batch in batches:
        assert len(set(home[np.array(batch) // 3])) == 1
        assert len(batch) <= batch_size
    sizes = [len(batch) for batch in batches if home[batch[0] // 3] == home[0]]
    assert max(sizes) - min(sizes) <= 1


def test_sorting_by_length_saves_padding() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 128, 2000)
    one = np.zeros(2000, dtype=np.int64)

    def padded(pool: int) -> float:
        made = bucketed_batches(np.arange(2000), one, tokens, 64, pool, rng)
        batches = cast("list[list[int]]", made)
        return float(sum(len(batch) * tokens[batch].max() for batch in batches) / tokens.sum())

    assert padded(1) > 1.7
    assert padded(16) < 1.15


def test_epochs_differ_and_repeat() -> None:
    epoch = 0
    sampler = EpochBatches(
        lambda rng: [[int(n)] for n in rng.permutation(20)], lambda: epoch, seed=1
    )
    first, again = list(sampler), list(sampler)
    epoch = 1
    assert first == again != list(sampler)
    assert len(sampler) == len(first) == 20


def test_processes_share_the_batches_out() -> None:
    def make(rng: np.random.Generator) -> list[list[object]]:
        return [[int(n)] for n in rng.permutation(7)]

    parts = [list(EpochBatches(make, lambda: 0, 0, rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert {key for part in parts for (key,) in part} == set(range(7))


@pytest.mark.parametrize(("least", "passes"), [(1, 1), (7, 1), (8, 2), (15, 3)])
def test_an_epoch_of_few_prompts_takes_them_several_times(least: int, passes: int) -> None:
    def make(rng: np.random.Generator) -> list[list[object]]:
        return [[int(n)] for n in rng.permutation(7)]

    sampler = EpochBatches(make, lambda: 0, 0, least=least)
    batches = [key for (key,) in sampler]
    assert len(sampler) == len(batches) == 7 * passes
    assert all(batches.count(key) == passes for key in range(7))
    assert passes == 1 or batches[:7] != batches[7:14]


@pytest.mark.parametrize("world", [1, 2, 8])
def test_each_process_takes_the_fewest_batches_of_an_epoch(world: int) -> None:
    def make(rng: np.random.Generator) -> list[list[object]]:
        return [[int(n)] for n in rng.permutation(13)]

    parts = [list(EpochBatches(make, lambda: 0, 0, rank, world, 30)) for rank in range(world)]
    (steps,) = {len(part) for part in parts}
    assert 30 <= steps <= 39, "no more than the passes ask for"
    taken = [key for part in parts for (key,) in part]
    counts = [taken.count(key) for key in range(13)]
    assert max(counts) - min(counts) <= 1


def test_prompts_of_one_home_share_a_group() -> None:
    # Prompt 0 is in groups 0 and 1, of which 1 is larger.
    prompt = np.array([0, 0, 1, 2, 3])
    group = np.array([0, 1, 1, 1, 0])
    assert home_clusters(prompt, group) == {0: 1, 1: 1, 2: 1, 3: 0}


def items_of(
    lengths: Sequence[float],
    groups: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
) -> Items:
    n = len(lengths)
    return Items(
        np.arange(n) if prompts is None else np.array(prompts),
        np.array(lengths, dtype=float),
        np.zeros(n, dtype=bool),
        np.zeros(n, dtype=np.int64) if groups is None else np.array(groups),
        np.zeros(n),
        np.zeros(n),
    )


def test_a_prompt_of_several_llms_is_encoded_once() -> None:
    items = items_of([5, 50, 9, 2], groups=[0, 0, 1, 1], prompts=[0, 1, 0, 1])
    batch = Collator([[2, 3], [4, 5, 6]], 0, items, 0.2)([1, 0])
    assert batch.input_ids.tolist() == [[4, 5, 6], [2, 3, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.row.tolist() == [0, 0, 1, 1]
    pairs = {(batch.length[a].item(), batch.length[b].item())
             for a, b in zip(batch.longer, batch.shorter, strict=True)}  # fmt: skip
    assert pairs == {(50, 5), (9, 2)}


@pytest.mark.parametrize("objective", ["margin", "logistic", "listmle"])
def test_pairs_encoded_once_or_twice_have_the_same_loss(
    encoder: Path, make_rows: MakeRows, objective: str
) -> None:
    ranker = ResponseLengthRanker(str(encoder), objective=objective, dropout=0.0).eval()
    rows = make_rows(10)
    tokens = ranker.text_tokenizer().encode([row["prompt"] for row in rows])
    items = items_of([row["response_tokens"] for row in rows])
    collate = Collator(tokens, 0, items, 0.2)
    once = collate(list(range(10)))
    assert len(once.longer) > 15
    twice = collate(list(zip(once.longer.tolist(), once.shorter.tolist(), strict=True)))
    assert len(twice.input_ids) == 2 * len(once.longer)
    losses = []
    for batch in (once, twice):
        outputs = ranker.outputs(batch.input_ids, batch.attention_mask)[batch.row]
        labels = Labels(*(getattr(batch, field) for field in Labels._fields))
        if objective == "listmle":  # a list joins pairs, which separate encodings tear apart
            labels = labels._replace(longer=labels.longer[:1], shorter=labels.shorter[:1])
        losses.append(ranker.objective.loss(outputs, labels))
    assert losses[0].item() > 0
    assert_close(*losses)
    losses[0].backward()
    gradient = ranker.head.weight.grad.clone()
    ranker.zero_grad()
    losses[1].backward()
    assert_close(gradient, ranker.head.weight.grad)


def test_targets_are_standardised_by_the_training_lengths_of_each_group(
    make_table: MakeTable,
) -> None:
    rows = [
        {"prompt": f"{model} {n}", "response_tokens": n, "model": model}
        for model, lengths in (("a", [1, 3, 7, 500]), ("b", [1000, 2000, 4000, 3]))
        for n in lengths
    ]
    table = read_lengths(make_table(rows))
    in_train = np.array([True, True, True, False] * 2)
    target, quantile = group_targets(table, in_train)
    for group in (0, 1):
        mine = (table.group == group) & in_train
        logs = np.log1p(table.length[table.group == group])
        wanted = (logs - logs[:3].mean()) / logs[:3].std()
        np.testing.assert_allclose(target[table.group == group], wanted)
        np.testing.assert_allclose(quantile[mine], [1 / 6, 3 / 6, 5 / 6])
    assert quantile[3] == pytest.approx(1, abs=1e-5)
    assert quantile[3] < 1
    assert quantile[7] == 0


def test_lengths_that_never_vary_have_targets_too(make_table: MakeTable) -> None:
    rows = [{"prompt": f"p{n}", "response_tokens": 5} for n in range(3)]
    target, _ = group_targets(read_lengths(make_table(rows)), np.ones(3, dtype=bool))
    assert target.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"pairing": "all"}, "pairing"),
        ({"batch_size": 1}, "batch_size"),
        ({"delta": 1.0}, "delta"),
        ({"delta": -0.1}, "delta"),
        ({"survive": 1.0}, "survive"),
        ({"survive": 0.4}, "survive"),
        ({"noise": "loud"}, "noise"),
        ({"spread": 0.0}, "spread"),
        ({"partners": 0}, "partners"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "val_fraction"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"data.{key}"):
        PromptLengthDataModule("t.jsonl", **arguments)


DataOf = Callable[..., PromptLengthDataModule]
"""Rows (and arguments) to a data module that is set up."""


class FakeTrainer:
    """As much of a trainer as a data module looks at."""

    def __init__(self, ranker: ResponseLengthRanker) -> None:
        self.lightning_module = ranker
        self.current_epoch = self.global_rank = 0
        self.world_size = 1


@pytest.fixture
def data_of(encoder: Path, make_table: MakeTable) -> DataOf:
    ranker = ResponseLengthRanker(str(encoder))

    def make(rows: list[dict[str, Any]], **arguments: Any) -> PromptLengthDataModule:
        data = PromptLengthDataModule(str(make_table(rows)), **arguments)
        data.trainer = FakeTrainer(ranker)
        data.setup("fit")
        return data

    return make


def test_the_three_splits_share_no_prompt(data_of: DataOf, make_rows: MakeRows) -> None:
    data = data_of(make_rows(100))
    prompts = [
        {prompt for batch in loader for prompt in batch.prompt.tolist()}
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 100
    assert all(prompts)
    everything = [p for batch in data.predict_dataloader() for p in batch.prompt.tolist()]
    assert sorted(everything) == list(range(100))


def test_a_fit_says_that_many_prompts_are_longer_than_what_is_read(
    data_of: DataOf, make_rows: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_rows(40)
    data_of(rows)
    assert "model.max_length" not in caplog.text
    data_of(
        [
            {**row, "prompt": f"{row['prompt']} {'so ' * 140 * (n % 3 == 0)}"}
            for n, row in enumerate(rows)
        ]
    )
    (line,) = [each for each in caplog.messages if "model.max_length" in each]
    assert "model.max_length = 128" in line
    share = float(line.split(": ")[1].split("%")[0])
    assert 20 < share < 50


def test_random_pairs_are_batches_of_pairs(data_of: DataOf, make_rows: MakeRows) -> None:
    data = data_of(make_rows(60), pairing="random", partners=3, batch_size=16)
    for batch in data.train_dataloader():
        assert len(batch.input_ids) == 2 * len(batch.longer)
        longer, shorter = batch.length[batch.longer], batch.length[batch.shorter]
        assert ((longer - shorter) / longer >= 0.2).all()


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_a_tiny_table_still_trains(
    data_of: DataOf, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"p{n}", "response_tokens": 10 * 2**n} for n in range(count)]
    data = data_of(rows)
    assert any(len(batch.longer) for batch in data.train_dataloader())
    assert any(len(batch.length) for batch in data.val_dataloader())
    assert "validat" in caplog.text or "too small to split" in caplog.text or count > 5


def test_a_filter_that_leaves_no_pair_is_refused(data_of: DataOf) -> None:
    rows = [{"prompt": f"p{n}", "response_tokens": 100 + n} for n in range(20)]
    with pytest.raises(InputError, match=r"data.delta = 0.2 .* lower data.delta"):
        data_of(rows)


@pytest.mark.parametrize("pairing", ["in_batch", "random"])
def test_only_orders_that_survive_a_rerun_teach(
    data_of: DataOf, make_rows: MakeRows, pairing: str
) -> None:
    arguments: dict[str, Any] = {"pairing": pairing, "delta": 0.0, "batch_size": 16}
    rows, spread, wanted = make_rows(60), 0.3, 0.9

    def kept(length: float, other: float) -> float:
        return NormalDist(0, 2 * spread).cdf(math.log1p(length) - math.log1p(other))

    data = data_of(rows, survive=wanted, spread=spread, **arguments)
    found, evidence = set(), []
    for batch in data.train_dataloader():
        longer = batch.length[batch.longer].tolist()
        shorter = batch.length[batch.shorter].tolist()
        found |= set(zip(longer, shorter, strict=True))
        evidence += batch.evidence.tolist()
        sure = [2 * kept(*pair) - 1 for pair in zip(longer, shorter, strict=True)]
        assert batch.evidence.tolist() == pytest.approx(sure, abs=1e-6)
    assert min(evidence) >= 2 * wanted - 1 - 1e-6
    unfiltered = {
        pair
        for batch in data_of(rows, spread=spread, **arguments).train_dataloader()
        for pair in zip(
            batch.length[batch.longer].tolist(), batch.length[batch.shorter].tolist(), strict=True
        )
    }
    assert found == {pair for pair in unfiltered if kept(*pair) >= wanted} < unfiltered


def test_a_rerun_that_keeps_no_order_is_refused(data_of: DataOf) -> None:
    rows = [{"prompt": f"p{n}", "response_tokens": 100 + n} for n in range(20)]
    with pytest.raises(InputError, match=r"data.survive = 0.9 .* lower data.survive"):
        data_of(rows, delta=0.0, survive=0.9)


def test_a_training_split_without_pairs_is_refused(data_of: DataOf) -> None:
    rows = [
        {"prompt": f"p{n}", "response_tokens": n, "split": "test" if n else "train"}
        for n in range(6)
    ]
    with pytest.raises(InputError, match="the training split has no two prompts"):
        data_of(rows)


def test_padding_never_leaks_into_a_loss(encoder: Path) -> None:
    ranker = ResponseLengthRanker(str(encoder)).eval()
    items = items_of([3.0, 9.0])
    short = Collator([[2, 8, 3], [2, 9, 3]], 0, items, 0.0)([0, 1])
    wide = Collator([[2, 8, 3], [2, 9, 3], [2] * 40], 0, items, 0.0)([0, 1, 2])
    with torch.no_grad():
        alone = ranker(short.input_ids, short.attention_mask)
        padded = ranker(wide.input_ids, wide.attention_mask)
    assert_close(alone, padded[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batches", "world"), [(1, 4), (2, 8), (5, 3)])
def test_every_process_has_as_many_batches_as_it_says(batches: int, world: int) -> None:
    def make(rng: np.random.Generator) -> list[list[object]]:
        return [[number] for number in range(batches)]

    for rank in range(world):
        sampler = EpochBatches(make, lambda: 0, 0, rank, world)
        assert len(list(sampler)) == len(sampler) > 0


def test_a_fit_after_a_test_splits_by_its_own_shares(data_of: DataOf, make_rows: MakeRows) -> None:
    data = data_of(make_rows(200))
    own = data.split.tolist()
    ranker = data.trainer.lightning_module
    ranker.training_summary = {"data": {"val_fraction": 0.3, "test_fraction": 0.3}}
    try:
        data.setup("test")
        data.test_dataloader()
        assert data.split.tolist().count("test") > 2 * own.count("test")
        data.setup("fit")
        assert data.split.tolist() == own
    finally:
        ranker.training_summary = {}
