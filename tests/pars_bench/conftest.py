"""Makes stand-ins and the tiny model importable, as pytest's importlib mode does not.

A busy machine may stop a test for seconds, which says nothing about the code: no deadlines.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "pars_vllm")])
