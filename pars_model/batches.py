"""Batches of prompts: which prompts go together, and the tensors made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pars_model.evidence import survival
from pars_model.pairs import Pairs, all_pairs

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Batch(NamedTuple):
    """Prompts (p), their items (n) and pairs of items (m).

    Attributes:
        input_ids: tokens, (p, t).
        attention_mask: 1 for tokens, 0 for padding, (p, t).
        prompt: number of each prompt in the table, (p,).
        row: the prompt's row in this batch, per item, (n,).
        length: tokens of the response, per item; a lower bound where censored.
        censored: which are lower bounds, per item.
        group: group of each item.
        item: its number in the table; -1 where the items have none.
        target: standardised log length, per item.
        quantile: place in the group's training lengths, per item, in [0, 1).
        longer: item that is longer, per pair, (m,).
        shorter: item that is shorter, per pair, (m,).
        evidence: how sure that order is, per pair, in [0, 1], (m,).
        facts: what is known beside the text, per item, (n, width); (n, 0) where nothing is read.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt: Tensor
    row: Tensor
    length: Tensor
    censored: Tensor
    group: Tensor
    item: Tensor
    target: Tensor
    quantile: Tensor
    longer: Tensor
    shorter: Tensor
    evidence: Tensor
    facts: Tensor


@dataclass(frozen=True)
class Items:
    """The items of one split, as arrays of one length.

    ``noise`` is the standard deviation of the log of each length between reruns; without it the
    order of every pair is taken as sure. ``facts`` are the numbers (n, width) that a ranker reads
    beside the text, ``item`` the numbers of the items in the table.
    """

    prompt: Ints
    length: Floats
    censored: Bools
    group: Ints
    target: Floats
    quantile: Floats
    noise: Floats | None = None
    facts: NDArray[np.float32] | None = None
    item: Ints | None = None

    def __len__(self) -> int:
        return len(self.prompt)

    def pick(self, chosen: Ints) -> Items:
        """The chosen items."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Items(**{k: column[chosen] for k, column in columns.items() if column is not None})


def pad(texts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (n, t) of the longest text's width, and their mask."""
    sizes = np.array([len(text) for text in texts])
    ids = np.full((len(texts), sizes.max()), pad_id, dtype=np.int64)
    for line, text in enumerate(texts):
        ids[line, : len(text)] = text
    mask = np.arange(ids.shape[1]) < sizes[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


class Collator:
    """Keys of a batch to its tensors.

    A key is the number of a prompt (all its items come along, and all pairs among them) or a
    pair of items (each text encoded for that pair alone, as in the paper).

    Args:
        tokens: token ids of each prompt of the table.
        pad_id: token id of padding.
        items: the items of the split.
        delta: smallest relative difference of a pair.
        survive: smallest probability that a rerun keeps a pair's order.
    """

    def __init__(
        self,
        tokens: Sequence[Sequence[int]],
        pad_id: int,
        items: Items,
        delta: float,
        survive: float = 0.5,
    ) -> None:
        self.tokens = tokens
        self.pad_id = pad_id
        self.items = items
        self.delta, self.survive = delta, survive
        order = np.argsort(items.prompt, kind="stable")
        bounds = np.searchsorted(items.prompt[order], np.arange(len(tokens) + 1))
        self._order, self._bounds = order, bounds

    def __call__(self, keys: Sequence[int] | Sequence[tuple[int, int]]) -> Batch:
        """The batch of those keys."""
        table = np.asarray(keys, dtype=np.int64)
        return self._of_pairs(table) if table.ndim == 2 else self._of_prompts(table)

    def _of_prompts(self, prompts: Ints) -> Batch:
        chosen = [self._order[self._bounds[p] : self._bounds[p + 1]] for p in prompts]
        row = np.repeat(np.arange(len(prompts)), [len(each) for each in chosen])
        items = self.items.pick(np.concatenate(chosen))
        pairs = all_pairs(items.length, items.censored, items.group, items.prompt, self.delta)
        return self._batch(prompts, row, items, *self._believed(items, pairs))

    def _of_pairs(self, pairs: Ints) -> Batch:
        items = self.items.pick(pairs.T.reshape(-1))
        rows = np.arange(len(items))
        half = len(pairs)
        found = Pairs(rows[:half], rows[half:])
        return self._batch(items.prompt, rows, items, *self._believed(items, found))

    def _believed(self, items: Items, pairs: Pairs) -> tuple[Pairs, Floats]:
        """The pairs whose order would survive a rerun, and how sure each is."""
        if items.noise is None:
            return pairs, np.ones(len(pairs.longer))
        noise, (longer, shorter) = items.noise, pairs
        kept = survival(items.length[longer], items.length[shorter], noise[longer], noise[shorter])
        enough = kept >= self.survive
        return Pairs(longer[enough], shorter[enough]), 2 * kept[enough] - 1

    def _batch(
        self, prompts: Ints, row: Ints, items: Items, pairs: Pairs, evidence: Floats
    ) -> Batch:
        texts = [self.tokens[prompt] for prompt in prompts]
        ids, mask = pad(texts, self.pad_id)
        return Batch(
            input_ids=ids,
            attention_mask=mask,
            prompt=torch.from_numpy(prompts),
            row=torch.from_numpy(row),
            length=torch.from_numpy(items.length),
            censored=torch.from_numpy(items.censored),
            group=torch.from_numpy(items.group),
            item=torch.full((len(items),), -1)
            if items.item is None
            else torch.from_numpy(items.item),
            target=torch.from_numpy(items.target.astype(np.float32)),
            quantile=torch.from_numpy(items.quantile.astype(np.float32)),
            longer=torch.from_numpy(pairs.longer),
            shorter=torch.from_numpy(pairs.shorter),
            evidence=torch.from_numpy(evidence.astype(np.float32)),
            facts=torch.zeros(len(items), 0)
            if items.facts is None
            else torch.from_numpy(items.facts),
        )


class Keys(Dataset[object]):  # type: ignore[misc]  # mypy does not follow torch
    """A data set whose items are the keys that the sampler gives: the collator does the rest."""

    def __getitem__(self, key: object) -> object:
        return key


class EpochBatches(Sampler[list[object]]):  # type: ignore[misc]  # mypy does not follow torch
    """Batches in a new random order each epoch, the same for one seed and epoch.

    Args:
        make: from a random generator to all batches of an epoch, always equally many.
        epoch: the current epoch.
        seed: of the order.
        rank: which process this is, of ``world``: each takes every ``world``-th batch, and the
            first ones are repeated so that all take equally many.
        world: number of processes.
        least: fewest batches of an epoch that each process takes, for that is how often weights
            are updated; where ``make`` has fewer, an epoch is several of its.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator], list[list[object]]],
        epoch: Callable[[], int],
        seed: int,
        rank: int = 0,
        world: int = 1,
        least: int = 1,
    ) -> None:
        self._make, self._epoch, self._seed = make, epoch, seed
        self._rank, self._world = rank, world
        once = len(make(np.random.default_rng(seed)))
        self._passes = max(1, -(-least * world // once))
        self._count = -(-once * self._passes // world)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[object]]:
        rng = np.random.default_rng((self._seed, self._epoch()))
        batches = [batch for _ in range(self._passes) for batch in self._make(rng)]
        again = itertools.cycle(batches)
        yield from itertools.islice(again, self._rank, self._count * self._world, self._world)


def bucketed_batches(
    prompts: Ints,
    home: Ints,
    tokens: Ints,
    batch_size: int,
    pool: int,
    rng: np.random.Generator,
) -> list[list[object]]:
    """Prompts in batches of similar token counts, so that little is padded.

    Args:
        prompts: numbers of the prompts.
        home: cluster of each prompt; a batch stays inside one, so that its items can be paired.
        tokens: token count of each prompt.
        batch_size: most prompts in a batch; batches of one cluster differ by one at most.
        pool: batches drawn at random together before they are sorted by token count.
        rng: source of the order.

    Returns:
        Batches of prompt numbers, in random order.
    """
    batches: list[list[object]] = []
    for cluster in np.unique(home):
        mine = rng.permutation(np.flatnonzero(home == cluster))
        count = -(-len(mine) // batch_size)
        # Cut evenly: a last batch of one prompt would hold no pair.
        sizes = [len(part) for part in np.array_split(mine, count)]
        for first in range(0, count, pool):
            start = sum(sizes[:first])
            stop = start + sum(sizes[first : first + pool])
            part = mine[start:stop]
            part = part[np.argsort(tokens[part], kind="stable")]
            cuts = np.cumsum(sizes[first : first + pool])[:-1]
            batches += [prompts[each].tolist() for each in np.split(part, cuts)]
    return [batches[place] for place in rng.permutation(len(batches))]


def home_clusters(prompt: Ints, group: Ints) -> dict[int, int]:
    """For each prompt the largest group that has it: prompts of one home can always be paired."""
    groups, counts = np.unique(group, return_counts=True)
    size = dict(zip(groups.tolist(), counts.tolist(), strict=True))
    home: dict[int, int] = {}
    for each, candidate in zip(prompt.tolist(), group.tolist(), strict=True):
        best = home.setdefault(each, candidate)
        if (size[candidate], -candidate) > (size[best], -best):
            home[each] = candidate
    return home
