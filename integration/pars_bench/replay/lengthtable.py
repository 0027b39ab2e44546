"""A length table as traffic: its items in a drawn order, another sample of each as its rerun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pars_bench.arrivals import submission_order
from pars_bench.replay.stream import TrafficRequest
from pars_bench.replay.traces import BYTES_PER_TOKEN, estimated_tokens
from pars_export.errors import InputError
from pars_model.rows import Row, read_rows


@dataclass(frozen=True)
class Choice:
    """Which rows of a length table: None means not chosen, see :func:`read_items`."""

    model: str | None = None
    config: str | None = None
    dataset: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Items:
    """Requests of one LLM and generation config, all at second 0."""

    requests: tuple[TrafficRequest, ...]
    facts: dict[str, object]
    kept: str
    """What drawing kept, in words."""

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the stream."""
        return iter(self.requests)


def read_items(path: Path, choice: Choice, limit: int | None, seed: int) -> Items:
    """Draw items of a length table without replacement, and of each item a sample and a rerun.

    No item comes twice: an equal prompt would hit the prefix cache, which is no gain of an order.
    Lengths are comparable inside one LLM and config only; of those that are left by ``choice``
    the one with most items is taken. Where the table names a split and ``choice`` none, its test
    prompts are taken: a predictor may have seen the others.

    Raises:
        InputError: the table cannot be used, or nothing is left of it.
    """
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path} is empty: give a length table with at least one row.")
    split = choice.split
    if split is None and any(row.split == "test" for row in rows):
        split = "test"
    wanted = {"model": choice.model, "config": choice.config, "dataset": choice.dataset}
    wanted["split"] = None if split == "all" else split
    kept = [
        row
        for row in rows
        if all(value is None or getattr(row, name) == value for name, value in wanted.items())
    ]
    if not kept:
        asked = ", ".join(
            f"{name} {value!r}" for name, value in wanted.items() if value is not None
        )
        raise InputError(f"{path} has no row of {asked}: choose what the table holds.")
    (model, config), items = _largest_group(kept)
    order = submission_order(len(items), len(items) if limit is None else limit, seed)
    random = np.random.default_rng([seed, 3])
    drawn = [items[place] for place in order]
    samples = [random.permutation(len(item))[:2] for item in drawn]
    return Items(
        requests=tuple(
            _request(item, chosen.tolist()) for item, chosen in zip(drawn, samples, strict=True)
        ),
        kept=(
            f"all {len(items)} items, in an order drawn with seed {seed}"
            if len(drawn) == len(items)
            else f"{len(drawn)} of {len(items)} items, drawn without replacement with seed {seed}"
        ),
        facts={
            "llm": model,
            "config": config,
            "rows_of_other_llms_or_configs": len(kept) - sum(map(len, items)),
            "split": wanted["split"] or "all",
            "cut_at_their_limit": float(
                np.mean(
                    [item[chosen[0]].censored for item, chosen in zip(drawn, samples, strict=True)]
                )
            ),
            "prompt_tokens_from": (
                "the table"
                if all(item[0].facts.prompt_tokens is not None for item in drawn)
                else f"the texts, {BYTES_PER_TOKEN} bytes a token"
            ),
        },
    )


def _largest_group(rows: Sequence[Row]) -> tuple[tuple[str, str], list[list[Row]]]:
    groups: dict[tuple[str, str], dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        items = groups.setdefault((row.model, row.config), {})
        items.setdefault((row.text, row.dataset), []).append(row)
    name, items = max(groups.items(), key=lambda group: len(group[1]))
    return name, list(items.values())


def _request(item: Sequence[Row], samples: Sequence[int]) -> TrafficRequest:
    row = item[samples[0]]
    return TrafficRequest(
        arrival_s=0.0,
        prompt_tokens=max(1, row.facts.prompt_tokens or estimated_tokens(row.text)),
        # An empty response is one token all the same: the one that ends it.
        output_tokens=max(1, row.length),
        prompt=row.text,
        tenant=row.dataset,
        rerun_tokens=max(1, item[samples[1]].length) if len(samples) > 1 else None,
    )
