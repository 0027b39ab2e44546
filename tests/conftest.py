"""For every test: helper modules are found, and a busy machine fails nobody.

pytest's importlib mode does not make helper modules, such as the tiny model of tests/pars_vllm,
importable by itself. A machine may stop a test for seconds, which says nothing about the code:
hypothesis gets no deadline.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.extend(str(Path(__file__).parent / folder) for folder in ("pars_vllm", "pars_bench"))
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(autouse=True)
def vllm_log_level() -> Iterator[None]:
    """Commands that keep vLLM quiet do so for their process; here that is the whole test run."""
    before = os.environ.get("VLLM_LOGGING_LEVEL")
    yield
    os.environ.pop("VLLM_LOGGING_LEVEL", None)
    if before is not None:
        os.environ["VLLM_LOGGING_LEVEL"] = before
