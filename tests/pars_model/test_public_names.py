"""Importing pars_model is light, and its public names are these."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pars_model


def test_public_names() -> None:
    assert sorted(pars_model.__all__) == [
        "LengthTable",
        "PromptLengthDataModule",
        "ResponseLengthRanker",
        "load_ranker",
        "read_lengths",
    ]
    for name in pars_model.__all__:
        assert callable(getattr(pars_model, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pars_model.nothing


def test_neither_the_package_nor_evaluate_imports_torch_before_it_is_used() -> None:
    code = (
        "import sys, pars_model, pars_model.evaluate; "
        "print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
