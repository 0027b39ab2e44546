"""The predictor inside the package: judged on each kind of prompts left out, and on other data.

Under ``OUT/default-predictor`` the predictor folder is written that ships as
``export/pars_export/default``; the section says how far its tau is from the shipped one's. Where
that is too far, the folder stays, and the command fails before it touches the page.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pars_export import Predictor
from pars_export.artifact import DEFAULT_PREDICTOR, folder_sha256
from pars_export.calibration import Calibration
from pars_export.errors import PredictorError
from pars_export.files import sha256_file
from pars_export.inputs import text_digest
from pars_model.experiments.cells import FILES
from pars_model.experiments.page import Section, table
from pars_model.lengths import read_lengths
from pars_model.universal.build import NUMBERS, calibrate, held_out_coverage, write_default
from pars_model.universal.card import (
    LENGTH,
    OURS,
    OWNLESS,
    RIDGE,
    Findings,
    coverage_table,
    mean_of,
    own_worth,
    render,
    result_table,
)
from pars_model.universal.fit import Fitted, Material, Recipe
from pars_model.universal.instructions.prompts import generate
from pars_model.universal.judge import compare, judge, mean_tau, some_prompts
from pars_model.universal.responses import Responses, coverage
from pars_model.universal.sources import (
    FAMILIES,
    LISTING,
    OWN,
    SOURCES,
    family_of,
    write_dataset,
    write_listed,
)
from pars_model.universal.variants import SHIPPED, VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pars_model.experiments.workbench import Workbench
    from pars_model.lengths import LengthTable
    from pars_model.ngrams import NgramRidge

    Scores = NDArray[np.float32]
    Scorer = Callable[[list[str]], Scores]

FIT_CODE = (
    "pars_export.remembered",
    "pars_export.runtimes.arrays",
    "pars_export.runtimes.ngrams",
    "pars_export.runtimes.student",
    "pars_export.words",
    "pars_model.course",
    "pars_model.device",
    "pars_model.frozen_encoder",
    "pars_model.folds",
    "pars_model.linear",
    "pars_model.ngrams",
    "pars_model.ranks",
    "pars_model.splice",
    "pars_model.student",
    "pars_model.student_fit",
    "pars_model.templates",
    "pars_model.universal.corpus",
    "pars_model.universal.fit",
    "pars_model.universal.instructions.prompts",
    "pars_model.universal.reader",
    "pars_model.universal.sources",
    "pars_model.universal.variants",
)
CODE = (*FIT_CODE, "pars_model.universal.judge")
COVERAGE_CODE = (
    *CODE,
    "pars_export.calibration",
    "pars_model.calibration",
    "pars_model.reliability",
    "pars_model.universal.build",
    "pars_model.universal.responses",
    "pars_vllm.ratio",
)
TOLERANCE = 0.01
"""How far the mean tau of a rebuilt predictor may be from the shipped one's."""

Cells = list[dict[str, Any]]


def run(bench: Workbench) -> Section:
    """Build it, judge it, write its folder, compare it with the one that ships.

    Raises:
        PredictorError: it ranks otherwise than the one that ships; its folder is written all the
            same, and the section printed.
    """
    listed = bench.out / "tables" / "listed.parquet"
    sources = write_listed(bench.data_root, listed)
    lengths = read_lengths(listed)
    material = Material(lengths, Recipe(), bench.out / "features")
    drawn = sorted(row["prompt"] for row in generate(material.recipe.made.draws))
    digest = f"{sha256_file(LISTING)} {text_digest(json.dumps(drawn))}"
    asked = {"recipe": repr(material.recipe)}
    scores = {name: _unseen_kinds(bench, material, name, digest) for name in VARIANTS}
    built = Built(material, scores[SHIPPED], scores[RIDGE])
    variants = bench.kept(
        "variants",
        {"names": list(VARIANTS), **asked},
        partial(compare, lengths, lengths.datasets, scores),
        CODE,
        digest,
    )
    left_out: Cells = []
    for family in FAMILIES:
        left_out += bench.kept(
            f"without {family}", {"family": family, **asked}, partial(_left_out, built, family),
            CODE, digest,
        )["cells"]  # fmt: skip
    left_out_covered = bench.kept(
        "intervals without each family", asked, partial(_held_out, built), COVERAGE_CODE, digest
    )
    others = _other_tables(bench)
    unseen: Cells = []
    covered: dict[str, Any] = {}
    for dataset, path in others.items():
        found = bench.kept(
            f"on {dataset}",
            {"dataset": dataset, **asked},
            partial(_unseen, built, path, dataset),
            COVERAGE_CODE,
            f"{digest} {sha256_file(path)}",
        )
        unseen += found["cells"]
        covered |= found["coverage"]
    findings = Findings(sources, left_out, unseen, left_out_covered, covered)
    training = {"sources": sources, "recipe": repr(built.material.recipe)}
    out = bench.out / "default-predictor"
    card = render(findings), findings.to_json()
    write_default(out, built.material, built.fitted, built.calibration, training, card)
    print(out, file=sys.stderr)
    verdict, same = _compared(bench, built, out, left_out, others)
    parts = [*_parts(findings, variants), verdict]
    section = Section("The default predictor", parts, short=_short(findings))
    if not same:
        print(section.markdown(bench.minutes, machines=bench.machines))
        raise PredictorError(
            f"{out}: {verdict} The folder is written, and no page; ship that folder as "
            f"{DEFAULT_PREDICTOR} and run this again, or find what differs."
        )
    return section


@dataclass
class Built:
    """The predictor, each part of it made when it is first asked for."""

    material: Material
    unseen_kinds: Scores
    """Of each prompt, by a fit on the other families."""
    ridge_unseen_kinds: Scores
    """The same by the ridge."""

    @cached_property
    def fitted(self) -> Fitted:
        """What ships."""
        return self.material.fit()

    @cached_property
    def without_own(self) -> Fitted:
        """The same without the prompts that were written for this project."""
        return self.material.fit([source.family for source in OWN])

    @cached_property
    def calibration(self) -> dict[str, object]:
        """Its scores to tokens."""
        return calibrate(self.material, self.unseen_kinds)

    @cached_property
    def ridge(self) -> NgramRidge:
        """The ridge on the same prompts."""
        return self.material.ridge()

    def new_to_it(self, path: Path) -> LengthTable:
        """Of a data set's table the prompts that it did not learn from, or some of very many."""
        lengths, known = read_lengths(path), set(self.material.table.prompts)
        new = np.array([text not in known for text in lengths.prompts])
        return some_prompts(lengths.select(new[lengths.prompt]))


def _unseen_kinds(bench: Workbench, material: Material, name: str, digest: str) -> Scores:
    """Scores of each prompt by fits of a variant without its family."""

    def one(family: str) -> Scores:
        def compute() -> dict[str, Any]:
            found = VARIANTS[name](material, family)
            return {"scores": [round(each, 6) for each in found.tolist()]}

        settings = {"recipe": repr(material.recipe), "variant": name, "without": family}
        found = bench.kept(f"{name}, without {family}", settings, compute, FIT_CODE, digest)
        return np.array(found["scores"], dtype=np.float32)

    return material.by_family(one)


def _left_out(built: Built, family: str) -> dict[str, Any]:
    material = built.material
    texts = material.table.prompts
    scores = {
        OURS: built.unseen_kinds,
        RIDGE: built.ridge_unseen_kinds,
        LENGTH: _characters(texts),
    }
    mine = [name for name in material.table.datasets if family_of(name) == family]
    cells = [judge(material.table, name, scores) for name in mine]
    return {"cells": [cell for cell in cells if cell is not None]}


def _held_out(built: Built) -> dict[str, Any]:
    return dict(held_out_coverage(built.material, built.unseen_kinds))


def _unseen(built: Built, path: Path, dataset: str) -> dict[str, Any]:
    lengths = built.new_to_it(path)
    scores = {
        name: _of_those_there(lengths, score)
        for name, score in (
            (OURS, built.fitted.scorer().score),
            (RIDGE, built.ridge.score),
            (LENGTH, _characters),
            (OWNLESS, built.without_own.scorer().score),
        )
    }
    cell = judge(lengths, dataset, scores)
    if cell is None:
        return {"cells": [], "coverage": {}}
    calibration = Calibration.from_json(built.calibration)
    prompts = np.unique(lengths.prompt)
    covered = coverage(calibration, scores[OURS], Responses.of(lengths), prompts)
    return {"cells": [cell], "coverage": {dataset: covered}}


def _of_those_there(lengths: LengthTable, score: Scorer) -> Scores:
    """Scores of a table's prompts, (n,); NaN for those that no item has."""
    numbers = np.unique(lengths.prompt)
    scores = np.full(len(lengths.prompts), np.nan, dtype=np.float32)
    if len(numbers):
        scores[numbers] = score([lengths.prompts[number] for number in numbers])
    return scores


def _characters(texts: Sequence[str]) -> Scores:
    return np.array([len(text) for text in texts], dtype=np.float32)


def _other_tables(bench: Workbench) -> dict[str, Path]:
    """Tables of all data sets that are not listed, by name."""
    import pyarrow.parquet as pq

    column = pq.read_table(bench.data_root / FILES[1], columns=["dataset"]).column("dataset")
    names = sorted(set(column.unique().to_pylist()) - {source.dataset for source in SOURCES})
    paths = {name: bench.out / "tables" / f"all-{name}.parquet" for name in names}
    for name, path in paths.items():
        write_dataset(bench.data_root, name, path)
    return paths


def _parts(found: Findings, variants: Mapping[str, Any]) -> list[str]:
    parts = ["Kinds of prompts left out of the training:", "\n".join(result_table(found.left_out))]
    if found.unseen:
        parts += [
            "Other data sets, by the predictor as it ships. It learned nothing from them, but was "
            "chosen by them, too; prompts that it was trained on are left out.",
            "\n".join(result_table(found.unseen)),
            own_worth(found.unseen),
        ]
    return [
        *parts,
        "What the central intervals of single answers cover, each LLM's tokens rescaled as serving "
        "does; families by fits without them:",
        "\n".join(coverage_table(found)),
        "Variants, on the kinds of prompts left out; the mean over data sets, its lead over the "
        "one that ships on the same draws, and means by family:",
        _variant_table(variants),
    ]


def _short(found: Findings) -> str:
    """In one line."""
    told = [
        f"{mean_of(cells, OURS):.3f} on {len(cells)} data sets {of} ({RIDGE} "
        f"{mean_of(cells, RIDGE):.3f}, {LENGTH} {mean_of(cells, LENGTH):.3f})"
        for cells, of in (
            (found.left_out, "whose kind was left out of its training"),
            (found.unseen, "of other prompts"),
        )
        if cells
    ]
    return f"Default predictor: mean tau {' and '.join(told)}."


def _variant_table(found: Mapping[str, Any]) -> str:
    families = [family_of(name) for name in found["datasets"]]
    shown = list(dict.fromkeys(families))
    rows = []
    for name, taus in found["taus"].items():
        value, low, high = found["gain"][name]
        lead = "" if name == SHIPPED else f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
        means = [
            np.mean([tau for tau, mine in zip(taus, families, strict=True) if mine == family])
            for family in shown
        ]
        tau = f"{found['tau'][name][0]:.4f}"
        rows.append([name, tau, lead, *(f"{mean:.3f}" for mean in means)])
    return table(["variant", "tau", "lead [95 %]", *shown], rows)


def _compared(
    bench: Workbench, built: Built, out: Path, left_out: Cells, others: Mapping[str, Path]
) -> tuple[str, bool]:
    """How far the rebuilt predictor is from the shipped one, and whether that is near enough."""
    path = DEFAULT_PREDICTOR / NUMBERS
    if not path.is_file():
        return "No default predictor ships with this installation to compare with.", True
    card = json.loads(path.read_text(encoding="utf-8"))
    means = {"left out of the training": (mean_of(card["left_out"], OURS), mean_of(left_out, OURS))}
    folders = [DEFAULT_PREDICTOR, out]
    digests = [*map(folder_sha256, folders), *map(sha256_file, others.values())]
    taus = bench.kept(
        "the shipped one and the rebuilt one",
        {},
        partial(_taus, built, folders, others),
        CODE,
        " ".join(digests),
    )["taus"]
    if taus:
        shipped, rebuilt = np.mean(taus, axis=0).tolist()
        means["of other data sets, scored by both folders"] = (shipped, rebuilt)
    worst = max(abs(rebuilt - shipped) for shipped, rebuilt in means.values())
    told = "; ".join(
        f"{name}: {shipped:.4f} shipped, {rebuilt:.4f} rebuilt"
        for name, (shipped, rebuilt) in means.items()
    )
    same = worst <= TOLERANCE
    within = "within" if same else "NOT within"
    return f"Mean tau on the prompts {told} ({within} {TOLERANCE}).", same


def _taus(built: Built, folders: Sequence[Path], others: Mapping[str, Path]) -> dict[str, Any]:
    """Tau of each folder's predictor on each data set where there is one."""
    predictors = [Predictor.load(folder) for folder in folders]
    found = []
    for dataset, path in others.items():
        lengths = built.new_to_it(path)
        taus = [
            mean_tau(lengths, dataset, _of_those_there(lengths, predictor.score))
            for predictor in predictors
        ]
        if None not in taus:
            found.append(taus)
    return {"taus": found}
