"""Kept results count the code that they depend on: what the counted modules import, too."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pars_model.experiments import fine_tuning, heads

PLUMBING = {
    "pars_export.errors",
    "pars_export.files",
    "pars_model.checkpoint",
    "pars_model.encoder",
    "pars_model.evaluate",
    "pars_model.few_validation",
    "pars_model.fitted_table",
    "pars_model.processes",
}
"""Modules that read, write, tell and refuse, and change no score."""
OF_HEADS = {
    "pars_export.remembered",  # the same ids, sooner
    "pars_model.experiments.cells",  # the digest of the table counts
    "pars_model.experiments.workbench",
    "pars_model.kept",
    "pars_model.module",  # of which a head has the pretrained encoder and its tokenizer alone
}
OF_FITS = {
    "pars_export.facts",  # the default recipe reads none
    # What a prior says; fits that are kept learn from more prompts than one is taken for.
    "pars_export.Predictor",
    "pars_export.prompts",
    "pars_model.universal.instructions.prompts",
    "pars_model.solved_head",  # fits that are kept learn by gradients
}


def imports_of(name: str) -> set[str]:
    """Our modules that a module imports, but for types."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    found = set()
    for node in _nodes(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] not in ("pars_export", "pars_model"):
                continue
            for each in node.names:
                inside = f"{node.module}.{each.name}"
                package = not node.module.count(".") or node.module.endswith("experiments")
                found.add(inside if package else node.module)
    return found


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _nodes(child)


@pytest.mark.parametrize(
    ("code", "left_out"),
    [(heads.CODE, PLUMBING | OF_HEADS), (fine_tuning.CODE, PLUMBING | OF_FITS)],
    ids=["heads", "fine-tunings"],
)
def test_what_counted_code_imports_counts_too(code: Sequence[str], left_out: set[str]) -> None:
    assert len(code) == len(set(code))
    uncounted = {each: imports_of(each) - {*code} - left_out for each in code}
    assert not any(uncounted.values()), uncounted


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (heads.CODE, ("batches", "datamodule", "lengths", "metrics", "optim")),
        (fine_tuning.CODE, ("callbacks", "lengths", "calibration")),
    ],
    ids=["heads", "fine-tunings"],
)
def test_what_chooses_or_judges_weights_counts(code: Sequence[str], names: tuple[str, ...]) -> None:
    assert {f"pars_model.{name}" for name in names} <= set(code)
