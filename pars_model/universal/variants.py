"""What was tried beside the recipe that ships, each on the kinds of prompts left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pars_model.linear import LinearShape
from pars_model.universal.fit import Recipe

SHIPPED = "as it ships"
_SHAPE = Recipe().shape


def _shaped(shape: LinearShape) -> Recipe:
    return replace(Recipe(), shape=shape)


VARIANTS: Mapping[str, Recipe] = {
    SHIPPED: Recipe(),
    "n-grams of 2 prompts or more": _shaped(replace(_SHAPE, documents=2)),
    "ends of weight 0.5": _shaped(replace(_SHAPE, ends=0.5)),
}
"""By name; the first is the one that the others are compared with."""


def mean_rank(
    first: NDArray[np.float32], second: NDArray[np.float32], family: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Sum of the ranks that two predictors give prompts, (n,), among those of their family (n,)."""
    found = np.empty(len(family), dtype=np.float32)
    for each in np.unique(family):
        mine = family == each
        found[mine] = rankdata(first[mine]) + rankdata(second[mine])
    return found
