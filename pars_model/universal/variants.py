"""What was tried beside the predictor that ships, each on the kinds of prompts left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pars_model.universal.card import RIDGE
from pars_model.universal.fit import Material

SHIPPED = "as it ships"

VARIANTS: Mapping[str, Callable[[Material, str], NDArray[np.float32]]] = {
    SHIPPED: lambda material, family: material.fit([family]).scores,
    "its teacher": lambda material, family: material.teacher([family]),
    "the encoder's half of the teacher": lambda material, family: material.encoder([family])(
        material.known
    ),
    "the linear half": lambda material, family: material.linear([family]).scores,
    RIDGE: lambda material, family: material.ridge([family]).score(material.table.prompts),
}
"""By name, scores of all prompts by a fit without a family; the first is compared with the rest."""
