"""The examples of docs/traffic.md are read as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pars_bench.replay.mix import parse_mix
from pars_bench.replay.traffic import ARRIVALS, read_traffic

PAGE = Path(__file__).parents[3] / "docs" / "traffic.md"
BLOCKS = re.findall(r"^```(csv|json|yaml)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
EXAMPLES = [block for block in BLOCKS if block[0] != "yaml"]
FORMATS = ["Azure", "Mooncake", "requests", "requests", "length table"]


@pytest.mark.parametrize(("example", "kind"), list(zip(EXAMPLES, FORMATS, strict=True)))
def test_examples_are_of_the_format_that_the_page_names(
    tmp_path: Path, example: tuple[str, str], kind: str
) -> None:
    path = tmp_path / f"trace.{'csv' if example[0] == 'csv' else 'jsonl'}"
    path.write_text(example[1])
    traffic = read_traffic(path, arrivals=None, rate=None, limit=None, seed=0)
    assert traffic.facts["format"] == kind
    assert list(traffic)


def test_the_mix_names_what_the_page_explains(tmp_path: Path) -> None:
    ((_, text),) = (block for block in BLOCKS if block[0] == "yaml")
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    mix = parse_mix(path)
    assert mix.rate == 6
    assert [part.name for part in mix.parts] == ["chat", "reasoning", "nightly batch"]
    assert mix.parts[0].trace == tmp_path / "chat.csv"
    assert mix.parts[2].requests == 500


def test_every_way_to_arrive_is_explained() -> None:
    rows = re.findall(r"^\| `([\w:]+)` \| (?!needed|one is)", PAGE.read_text(), re.MULTILINE)
    assert {name.partition(":")[0] for name in rows} >= set(re.findall(r"\b[a-z]{5,}\b", ARRIVALS))
