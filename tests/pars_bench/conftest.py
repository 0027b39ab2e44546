"""Makes this folder's stand-ins importable: pytest's importlib mode puts no folder on the path.

A busy machine may stop a test for seconds, which says nothing about the code: no deadlines.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
sys.path.append(str(Path(__file__).parent))
