"""Digest of the code that something was made by."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
from collections.abc import Sequence


def source_digest(modules: Sequence[str]) -> str:
    """Digest of the code of modules, by name; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
