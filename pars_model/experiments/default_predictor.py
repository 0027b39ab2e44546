"""The predictor inside the package: chosen with one kind of prompts left out, and judged on others.

Under ``OUT/default-predictor`` the predictor folder is written that ships as
``export/pars_export/default``; the section says how far its tau is from the shipped one's.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pars_export.artifact import DEFAULT_PREDICTOR
from pars_export.files import sha256_file
from pars_model.experiments.cells import FILES
from pars_model.experiments.page import Section
from pars_model.lengths import read_lengths
from pars_model.universal.build import NUMBERS, calibrate, write_default
from pars_model.universal.card import LENGTH, OURS, RIDGE, mean_of, render, result_table, to_json
from pars_model.universal.fit import Fitted, Material, Recipe
from pars_model.universal.judge import judge, some_prompts
from pars_model.universal.sources import (
    FAMILIES,
    LISTING,
    SOURCES,
    family_of,
    write_dataset,
    write_listed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pars_model.experiments.workbench import Workbench
    from pars_model.ngrams import NgramRidge

CODE = (
    "pars_export.runtimes.ngrams",
    "pars_export.words",
    "pars_model.linear",
    "pars_model.ngrams",
    "pars_model.universal.fit",
    "pars_model.universal.judge",
    "pars_model.universal.sources",
)
TOLERANCE = 0.01
"""How far the mean tau of a rebuilt predictor may be from the shipped one's."""

Cells = list[dict[str, Any]]


def run(bench: Workbench) -> Section:
    """Build it, judge it, write its folder."""
    listed = bench.out / "tables" / "listed.parquet"
    sources = write_listed(bench.data_root, listed)
    material = Material(read_lengths(listed), Recipe())
    digest = sha256_file(LISTING)
    left_out: Cells = []
    for family in FAMILIES:
        settings = {"family": family, "recipe": repr(material.recipe)}
        found = bench.kept(
            f"without {family}", settings, partial(_left_out, material, family), CODE, digest
        )
        left_out += found["cells"]
    fitted, ridge = material.fit(), _Ridge(material)
    out = bench.out / "default-predictor"
    card = render(sources, left_out), to_json(sources, left_out)
    training = {"sources": sources, "recipe": repr(material.recipe)}
    calibration = calibrate(material, material.unseen())
    write_default(out, material, fitted, calibration, training, card)
    print(out, file=sys.stderr)
    unseen: Cells = []
    for dataset in _other_datasets(bench.data_root):
        path = bench.out / "tables" / f"all-{dataset}.parquet"
        write_dataset(bench.data_root, dataset, path)
        settings = {"dataset": dataset, "recipe": repr(material.recipe)}
        found = bench.kept(
            f"on {dataset}",
            settings,
            partial(_unseen, material, fitted, ridge, path, dataset),
            CODE,
            f"{digest} {sha256_file(path)}",
        )
        unseen += found["cells"]
    parts = ["Kinds of prompts left out of the training:", "\n".join(result_table(left_out))]
    if unseen:
        parts += [
            "Other data sets, by the predictor as it ships. No choice hung on them; prompts that "
            "it was trained on are left out.",
            "\n".join(result_table(unseen)),
        ]
    return Section("The default predictor", [*parts, _compared(left_out)])


class _Ridge:
    """The ridge on all listed prompts; fitted when it is first asked."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._fitted: NgramRidge | None = None

    def score(self, texts: list[str]) -> NDArray[np.float32]:
        if self._fitted is None:
            self._fitted = self._material.ridge()
        return self._fitted.score(texts)


def _left_out(material: Material, family: str) -> dict[str, Any]:
    train = material.left_out(family)
    texts = material.table.prompts
    scores = {
        OURS: material.fit(train).scores,
        RIDGE: material.ridge(train).score(texts),
        LENGTH: _characters(texts),
    }
    mine = [name for name in material.table.datasets if family_of(name) == family]
    cells = [judge(material.table, name, scores) for name in mine]
    return {"cells": [cell for cell in cells if cell is not None]}


def _unseen(
    material: Material, fitted: Fitted, ridge: _Ridge, path: Path, dataset: str
) -> dict[str, Any]:
    table = read_lengths(path)
    known = set(material.table.prompts)
    new = np.array([text not in known for text in table.prompts])
    table = some_prompts(table.select(new[table.prompt]))
    numbers = np.unique(table.prompt)
    texts = [table.prompts[number] for number in numbers]
    scores = {}
    for name, score in (
        (OURS, fitted.scorer().score),
        (RIDGE, ridge.score),
        (LENGTH, _characters),
    ):
        scores[name] = np.full(len(table.prompts), np.nan, dtype=np.float32)
        scores[name][numbers] = score(texts)
    cell = judge(table, dataset, scores)
    return {"cells": [] if cell is None else [cell]}


def _characters(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([len(text) for text in texts], dtype=np.float32)


def _other_datasets(root: Path) -> list[str]:
    import pyarrow.parquet as pq

    names = pq.read_table(root / FILES[1], columns=["dataset"]).column("dataset").unique()
    return sorted(set(names.to_pylist()) - {source.dataset for source in SOURCES})


def _compared(left_out: Cells) -> str:
    """How far the rebuilt predictor is from the shipped one."""
    path = DEFAULT_PREDICTOR / NUMBERS
    if not path.is_file():
        return "No default predictor ships with this installation to compare with."
    shipped = mean_of(json.loads(path.read_text(encoding="utf-8"))["left_out"], OURS)
    rebuilt = mean_of(left_out, OURS)
    same = "within" if abs(rebuilt - shipped) <= TOLERANCE else "NOT within"
    return (
        f"Mean tau of the shipped predictor's table: {shipped:.4f}; of this one: {rebuilt:.4f} "
        f"({same} {TOLERANCE})."
    )
