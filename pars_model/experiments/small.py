"""Small tables: the default recipe beside the one in closed form, each as `pars fit` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pars_export.errors import InputError
from pars_export.files import sha256_file
from pars_model.experiments import facts, few
from pars_model.experiments.cells import Cell
from pars_model.experiments.fine_tuning import CODE, fit_folder, train
from pars_model.experiments.held_out import judged_items, ridge_of
from pars_model.experiments.judging import Judged, contrast, judge, mean_gain, prompt_sets
from pars_model.experiments.made import made
from pars_model.experiments.matrix import LENGTH, RIDGE, length_scores, shown
from pars_model.experiments.page import Section, table
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import read_lengths, text_fraction
from pars_model.metrics import Estimate

NO_PRIOR = ("--model.prior", "none")


@dataclass(frozen=True)
class Small:
    """A small table.

    Attributes:
        cell: of whose prompts it has some.
        count: prompts to learn from, 0 for all that are not judged.
        more: further arguments of `pars fit`.
    """

    cell: Cell
    count: int
    more: tuple[str, ...] = ()


TABLES = (
    *(Small(cell, count) for cell in few.CELLS[:4] for count in (300, 1_000)),
    *(Small(cell, 2_000) for cell in few.CELLS[:4] if cell.prompts),
    *(Small(cell, 0, NO_PRIOR) for cell in (facts.CELLS[1], facts.CELLS[3])),
)
"""The default predictor has learned nothing of those that have it as their prior."""
JUDGE = 0.25
"""Share of a cell's prompts that is judged on."""
TUNED, SOLVED = "fine-tuned", "in closed form"
RECIPES = {TUNED: Path("configs/default.yaml"), SOLVED: Path("configs/few.yaml")}
METHODS = (TUNED, SOLVED, RIDGE, LENGTH)
GAIN = f"{TUNED} less {SOLVED}"
SMALL = (
    *(*CODE, "pars_export.runtimes.student"),
    *(f"pars_model.{name}" for name in ("frozen_encoder", "solved_head")),
)
"""Modules that the scores depend on; what the prior says counts by itself."""
TABLE_CODE = ("pars_model.experiments.small", "pars_model.lengths")
"""Modules that a small table depends on."""
COLUMNS = (
    "cell",
    "prompts learned from",
    "judged",
    *(f"{name}, minutes" for name in RECIPES),
    *(f"{name} [95 %]" for name in METHODS),
    f"{GAIN} [95 %]",
)
INTRODUCTION = f"""\
Which recipe a small table wants: `pars fit` with `{RECIPES[TUNED]}`, which fine-tunes the encoder,
and with `{RECIPES[SOLVED]}`, which leaves it as it is and solves the head. Both are as shipped,
their prior included, but in GSM8K and CRUXEval, whose prompts the default predictor has read with
lengths of other LLMs (`{" ".join(NO_PRIOR)}`). A quarter of a cell's prompts, by a hash, is judged
on; a table has the first others, by that hash. A tenth of these chooses a fine-tuning's epoch and
its half's share; the closed form and the ridge learn from that tenth too. One seed."""


def run(bench: Workbench) -> Section:
    """Fit by both recipes on every table."""
    for recipe in RECIPES.values():
        if not recipe.is_file():
            raise InputError(f"{recipe} does not exist: run this from the root of the repository.")
    rows, gains, prompts = [], [], []
    for small in TABLES:
        path = table_of(bench, small)
        lengths = read_lengths(path)
        items, texts = judged_items(lengths)
        fits = {name: _fit(bench, small, path, texts, name) for name in RECIPES}
        judged = lengths.prompt[items]
        scored = Judged(
            judged,
            {
                **{name: np.array(found["scores"]) for name, found in fits.items()},
                RIDGE: ridge_of(lengths).score(texts).astype(np.float64),
                LENGTH: length_scores(lengths, judged),
            },
        )
        standings = judge(lengths, [scored], RIDGE)
        gains.append(contrast(lengths, [scored], {TUNED: 1.0, SOLVED: -1.0}))
        prompts.append(lengths.prompts)
        learned = int((lengths.split == "train").sum())
        rows.append([small.cell.title, f"{learned:,}", f"{len(judged):,}"])
        rows[-1] += [f"{found['minutes']:.1f}" for found in fits.values()]
        rows[-1] += [*(shown(standings[name].tau) for name in METHODS), shown(gains[-1], True)]
    short = f"Small tables: tau {GAIN} is {_means(gains, prompts)}."
    return Section("Small tables", [INTRODUCTION, table(COLUMNS, rows)], short=short)


def _means(gains: Sequence[Estimate], prompts: Sequence[Sequence[str]]) -> str:
    """The mean gain of the tables of each size, in words."""
    told = []
    for count in sorted({small.count for small in TABLES if small.count}):
        chosen = [number for number, small in enumerate(TABLES) if small.count == count]
        sets = prompt_sets([prompts[number] for number in chosen])
        mean = mean_gain([gains[number] for number in chosen], sets)
        told.append(f"{shown(mean, signed=True)} of {count:,} prompts ({len(chosen)} cells)")
    told += [
        f"{shown(gain, signed=True)} in {small.cell.title}"
        for small, gain in zip(TABLES, gains, strict=True)
        if not small.count
    ]
    return ", ".join(told)


def table_of(bench: Workbench, small: Small) -> Path:
    """The small table, whose column split names what is judged on test."""
    whole = bench.table(small.cell)
    return made(
        whole.with_name(f"{whole.stem}-small{small.count}.parquet"),
        [whole],
        TABLE_CODE,
        lambda path: _write(whole, small.count, path),
    )


def _write(whole: Path, count: int, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lengths = pq.read_table(whole)
    texts = lengths["prompt"].to_pylist()
    order = {text: text_fraction(f"small {text}") for text in texts}
    free = sorted((text for text in order if order[text] >= JUDGE), key=order.__getitem__)
    taught = set(free[: count or None])
    split = ["test" if order[text] < JUDGE else "train" for text in texts]
    kept = pa.array([text in taught or order[text] < JUDGE for text in texts])
    pq.write_table(lengths.append_column("split", pa.array(split)).filter(kept), path)


def _fit(bench: Workbench, small: Small, path: Path, texts: Sequence[str], name: str) -> Result:
    """``minutes`` of `pars fit` by a recipe, and its ``scores`` of texts (n,)."""
    from pars_model.callbacks import BEST
    from pars_model.checkpoint import load_ranker

    recipe = RECIPES[name]
    root = fit_folder(bench.out / "small" / recipe.stem, path, small.more, recipe)

    def compute() -> Result:
        minutes = train(root, path, small.more, recipe)
        return {"minutes": minutes, "scores": load_ranker(root / BEST).score(texts).tolist()}

    settings = {"folder": root.name, "threads": bench.threads}
    label = f"{name}: {small.cell.title}, {small.count or 'all'} prompts"
    data = f"{sha256_file(path)} {few.prior_digest()}"
    return bench.kept(label, settings, compute, SMALL, data)
