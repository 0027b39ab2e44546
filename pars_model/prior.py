"""Where a ranker starts from when its own table is small: the order of a predictor that is there.

A hundred prompts tell little of which words ask for long answers. A predictor that learned from
others, the default one above all, holds something of that for any LLM. It is asked about texts of
many kinds, and what it says of them goes into the n-gram half (`pars_model.ngram_half`) as what
that starts from: nothing is added to what serves.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pars_export import Predictor
from pars_export.errors import ConfigError, PredictorError
from pars_export.prompts import read_prompts
from pars_model.lengths import LengthTable
from pars_model.universal.instructions.prompts import generate

log = logging.getLogger("pars")

DEFAULT, NONE = "default", "none"
MOST = 2_000
"""Training prompts beyond which a table says as much by itself."""
KNOWN = 0.01
"""Share of a table's prompts, one at least, that may be the default predictor's own: a hello."""
DRAWS = 8
"""Of each template of the project's instructions, texts that a predictor is asked about."""


@dataclass(frozen=True)
class Prior:
    """A predictor, and what it says of texts of many kinds.

    Attributes:
        name: `default`, or the name of its folder.
        predictor: what was loaded.
    """

    name: str
    predictor: Predictor

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts: prompts of the project's own, different ones."""
        return _texts()

    def score(self, texts: list[str]) -> NDArray[np.float64]:
        """Scores (n,) of texts; where it gives none, their mean."""
        scores = self.predictor.score(texts).astype(np.float64)
        known = np.isfinite(scores)
        return np.where(known, scores, scores[known].mean() if known.any() else 0.0)

    @property
    def said(self) -> dict[str, object]:
        """What a training summary tells of it: the data sets that it learned from, too."""
        training = self.predictor.manifest.training
        half: Any = training.get("ngram_half") or {}
        own = half.get("prior") or {}
        lists = (training.get("sources"), own.get("sources"))
        names = sorted(
            {str(name) for each in lists if isinstance(each, Collection) for name in each}
        )
        return {"name": self.name, "sha256": self.predictor.sha256, "sources": names}


def find_prior(name: str) -> Prior | None:
    """Load the predictor that ``model.prior`` names.

    Args:
        name: `default` for the one inside the package, the path of a predictor folder, or `none`.

    Raises:
        ConfigError: it cannot be loaded.
    """
    if name == NONE:
        return None
    try:
        predictor = Predictor.default() if name == DEFAULT else Predictor.load(name)
    except PredictorError as error:
        raise ConfigError(
            f"model.prior is {name!r}, which cannot be loaded ({error}): name a predictor folder, "
            f"{DEFAULT}, or {NONE}."
        ) from error
    return Prior(name if name == DEFAULT else Path(name).resolve().name, predictor)


def prior_for(name: str, table: LengthTable, train: NDArray[np.bool_]) -> Prior | None:
    """The prior of a fit to a table, if one is named and of use.

    It is of none where there are many training prompts; of a folder that was named, a warning says
    so. Nor is the default predictor, with a warning, where prompts of the table are among its own:
    the order of what it has learned is no evidence of how it would order others.

    Args:
        name: as in `find_prior`.
        table: of the fit.
        train: which of its prompts are learned from, (prompts,).

    Raises:
        ConfigError: it cannot be loaded.
    """
    if train.sum() > MOST:
        if name not in (DEFAULT, NONE):
            log.warning("No prior: %s is not used with more than %d training prompts.", name, MOST)
        return None
    prior = find_prior(name)
    if prior is None or name != DEFAULT:
        return prior
    known = len(set(table.prompts) & set(prior.texts))
    if known > max(1, KNOWN * len(table.prompts)):
        log.warning(
            "No prior: %d of the table's %d prompts are among the default predictor's own.",
            known,
            len(table.prompts),
        )
        return None
    return prior


@cache
def _texts() -> tuple[str, ...]:
    """Prompts of the demonstration, and drawings of the instructions."""
    source = files("pars_bench.demo").joinpath("prompts.jsonl")
    lines = source.read_text(encoding="utf-8").splitlines()
    demonstration = [prompt.text for prompt in read_prompts(lines, source.name, "jsonl")]
    return tuple(dict.fromkeys([*demonstration, *(row["prompt"] for row in generate(DRAWS))]))
