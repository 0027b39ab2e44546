"""The tiny model and its engine, made once per test run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from processes import scorer_processes

# vLLM reads these when it is imported.
os.environ.update(tiny.engine_environment())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model."""
    return tiny.make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """No scorer process may be left over."""
    yield
    left = scorer_processes()
    assert not left, f"scorer processes left over: {left}"
