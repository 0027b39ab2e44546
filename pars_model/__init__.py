"""Learn to rank prompts by the length of the response that an LLM will give.

Public names are imported when they are used: ``import pars_model`` is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pars_model.checkpoint import load_ranker as load_ranker
    from pars_model.datamodule import PromptLengthDataModule as PromptLengthDataModule
    from pars_model.lengths import LengthTable as LengthTable
    from pars_model.lengths import read_lengths as read_lengths
    from pars_model.module import ResponseLengthRanker as ResponseLengthRanker

_HOMES = {
    "LengthTable": "lengths",
    "PromptLengthDataModule": "datamodule",
    "ResponseLengthRanker": "module",
    "load_ranker": "checkpoint",
    "read_lengths": "lengths",
}

__all__ = [
    "LengthTable",
    "PromptLengthDataModule",
    "ResponseLengthRanker",
    "load_ranker",
    "read_lengths",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
