"""What the documentation says of the counters."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from pars_vllm.metrics import Counters

SERVING = Path(__file__).parents[2] / "docs/serving.md"


def test_counters_that_the_documentation_lists_are_there() -> None:
    section = SERVING.read_text().split("## Is it on?")[1]
    listed = set(re.findall(r"`(\w+)`", section))
    assert {"requests", "scored", "not_sent", "losses"} <= listed
    assert listed <= {field.name for field in fields(Counters)}
