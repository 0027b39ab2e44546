"""A trained student becomes a predictor folder, its numpy form checked against torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest, write_predictor
from pars_export.calibration import Calibration
from pars_export.parity import (
    PROMPTS,
    STUDENT,
    builtin_texts,
    compare_scores,
    enough,
    evenly,
    tau_b,
)
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.student import TOKENIZER, WEIGHTS, StudentScorer, read_network
from pars_export.words import WordTokenizer
from pars_model.calibration import fit_calibration
from pars_model.course import Lesson
from pars_model.lengths import LengthTable
from pars_model.student_fit import Recipe, Student, predict

_MOST = 2000
"""Validation prompts to compare it on, at most: tau counts all pairs."""


def write_student(
    out: Path,
    table: LengthTable,
    part: NDArray[np.str_],
    scores: NDArray[np.floating],
    student: Student,
    recipe: Recipe,
    training: Mapping[str, object],
) -> Manifest:
    """Write the folder, whole or not at all.

    Args:
        out: where; an older predictor there is replaced.
        table: length table that holds the validation prompts.
        part: train, val or test, per prompt of the table (and whatever follows).
        scores: the teacher's, per prompt.
        student: what was trained.
        recipe: how.
        training: what goes into the manifest beside the recipe.

    Raises:
        PredictorError: the student scores otherwise in numpy than in torch, or ``out`` holds
            something else.
    """
    tokenizer = WordTokenizer(student.tokenizer_json, recipe.spec)
    arrays = student.network.arrays()
    scorer = StudentScorer(tokenizer, read_network(arrays))
    val = np.flatnonzero(part[: len(table.prompts)] == "val")
    texts = [table.prompts[i] for i in val]
    own = np.full(len(table.prompts), np.nan)
    own[val] = scorer.score(texts)
    items = table.select((part[: len(table.prompts)] == "val")[table.prompt])
    lesson = Lesson(table, part, ())
    metrics = {
        "tau": lesson.tau(own),
        "teacher_tau": lesson.tau(scores),
        "tau_to_teacher": tau_b(own[val].astype("f4"), scores[val].astype("f4")),
    }
    prompt, lengths, censored = items.responses()
    calibration = fit_calibration(own[prompt], lengths, censored)
    manifest = Manifest(
        kind="student",
        input=recipe.spec,
        engines={
            "student": {"file": WEIGHTS, "parity": _parity(student, tokenizer, scorer, texts)}
        },
        calibration=Calibration.from_json(calibration),
        training={**training, "student": _plain(recipe), "epoch_taus": list(student.taus)},
        metrics=metrics,
    )
    files: dict[str, Path | str | bytes] = {
        TOKENIZER: student.tokenizer_json,
        WEIGHTS: arrays_bytes(arrays),
    }
    return write_predictor(out, manifest, files)


def _parity(
    student: Student, tokenizer: WordTokenizer, scorer: StudentScorer, texts: list[str]
) -> dict[str, float | int]:
    """Of the student in numpy beside torch, on validation prompts and others where they are few."""
    texts = enough([texts[row] for row in evenly(len(texts), _MOST)], PROMPTS)
    odd = builtin_texts()
    wanted = predict(student.network, *tokenizer.read_all([*texts, *odd]))
    parity = compare_scores(wanted, scorer, texts, STUDENT, odd)
    parity.check("student")
    return parity.to_json()


def _plain(recipe: Recipe) -> dict[str, object]:
    return asdict(recipe)
