"""The default predictor's folder: arrays, calibration, and the card that goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_export.artifact import Manifest, write_predictor
from pars_export.calibration import Calibration
from pars_export.errors import PredictorError
from pars_export.parity import STUDENT, builtin_texts, compare_scores
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.student import TOKENIZER, WEIGHTS
from pars_model.calibration import fit_calibration
from pars_model.universal.fit import Fitted, Material
from pars_model.universal.responses import Responses, coverage
from pars_model.universal.sources import FAMILIES

CARD, NUMBERS = "CARD.md", "card.json"
LARGEST = 3_000_000
"""Bytes of the folder, at most: it goes with every installation."""
_PER_FAMILY = 600
"""Prompts of each family that the calibration sees: traffic is no multiple choice exam."""
_WORDS = ("r1distill_gsm8k", "r1distill_math500")
"""Data sets whose lengths are counted in words."""


def calibrate(
    material: Material, scores: NDArray[np.float32], families: Sequence[str] = FAMILIES
) -> dict[str, object]:
    """Calibration of scores of unseen prompts by single responses of a typical LLM.

    Args:
        material: the prompts.
        scores: of each, by a fit that did not see it.
        families: those whose lengths are learned from.
    """
    typical = _in_tokens(material, families).typical()
    # The product-limit estimate would prolong a cut-off answer as longer answers of other kinds of
    # prompts went on, and of those nothing follows for it.
    typical = typical.take(np.flatnonzero(~typical.censored))
    drawn = typical.draw(_some_of_each(material, typical.prompt, families))
    return fit_calibration(scores[drawn.prompt], drawn.length, drawn.censored)


def held_out_coverage(
    material: Material, scores: NDArray[np.float32]
) -> dict[str, Mapping[str, object]]:
    """By family, how much the intervals of a calibration cover that saw the other families only.

    Args:
        material: the prompts.
        scores: of each, by a fit on the other families.
    """
    found: dict[str, Mapping[str, object]] = {}
    for family in FAMILIES:
        mine = _in_tokens(material, [family])
        others = [each for each in FAMILIES if each != family]
        if len(mine.prompt) and not _in_tokens(material, others).censored.all():
            calibration = Calibration.from_json(calibrate(material, scores, others))
            prompts = _some_of_each(material, mine.prompt, [family])
            found[family] = coverage(calibration, scores, mine, prompts)
    return found


def _in_tokens(material: Material, families: Sequence[str]) -> Responses:
    """Responses to the prompts of some families, but those that are counted in words."""
    table = material.table
    numbers = [FAMILIES.index(each) for each in families]
    words = [table.datasets.index(name) for name in _WORDS if name in table.datasets]
    chosen = np.isin(material.family[table.prompt], numbers) & ~np.isin(table.dataset, words)
    return Responses.of(table.select(chosen))


def _some_of_each(
    material: Material, prompts: NDArray[np.int64], families: Sequence[str]
) -> NDArray[np.int64]:
    """At most `_PER_FAMILY` of these prompts of each family, at random."""
    mixed = np.random.default_rng(0).permutation(np.unique(prompts))
    kept = [
        mixed[material.family[mixed] == FAMILIES.index(each)][:_PER_FAMILY] for each in families
    ]
    return np.concatenate(kept)


def write_default(
    out: Path,
    material: Material,
    fitted: Fitted,
    calibration: Mapping[str, object],
    training: Mapping[str, object],
    card: tuple[str, str],
) -> Manifest:
    """Write the folder, whole or not at all.

    Args:
        out: where.
        material: the prompts.
        fitted: what was learned from them.
        calibration: from scores to tokens.
        training: goes into the manifest.
        card: Markdown and JSON.

    Raises:
        PredictorError: the runtime scores otherwise than what was trained, or it is too large.
    """
    scorer = fitted.scorer()
    parity = compare_scores(fitted.scores, scorer, material.table.prompts, STUDENT)
    parity.check("student")
    if not np.isfinite(scorer.score(builtin_texts())).all():
        raise PredictorError("The student has no score for some prompts; nothing was written.")
    files: dict[str, Path | str | bytes] = {
        TOKENIZER: fitted.tokenizer_json,
        WEIGHTS: arrays_bytes(fitted.arrays),
        CARD: card[0],
        NUMBERS: card[1],
    }
    size = sum(len(each) for each in files.values() if isinstance(each, (str, bytes)))
    if size > LARGEST:
        raise PredictorError(
            f"The default predictor would take {size} bytes, more than {LARGEST}; give it fewer "
            "buckets."
        )
    manifest = Manifest(
        kind="student",
        input=fitted.spec,
        engines={"student": {"file": WEIGHTS, "parity": parity.to_json()}},
        calibration=Calibration.from_json(calibration),
        training=training,
    )
    return write_predictor(out, manifest, files)
