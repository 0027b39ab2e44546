"""The shipped lengths: of the shipped prompts, whole, and as docs/demo.md tells them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_bench.demo.cli import LENGTHS, MAX_TOKENS, PROMPTS, SAMPLES

PAGE = Path(__file__).parents[2] / "docs/demo.md"


@pytest.fixture(scope="module")
def prompts() -> Any:
    rows = [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]
    return pa.Table.from_pylist(rows).to_pandas().set_index("prompt_id")


@pytest.fixture(scope="module")
def lengths() -> Any:
    return pq.read_table(LENGTHS).to_pandas()


def cut_share(rows: Any) -> float:
    return float((rows["finish_reason"] == "length").mean())


def test_every_prompt_has_one_greedy_response_and_the_samples_that_it_asks_for(
    prompts: Any, lengths: Any
) -> None:
    greedy = lengths[lengths["config"] == "temperature=0"].set_index("prompt_id")
    assert sorted(greedy.index) == sorted(prompts.index)
    for column in ("prompt", "split", "template", "kind"):
        assert greedy[column].to_dict() == prompts[column].to_dict()
    sampled = lengths[lengths["config"] == "temperature=0.7"].groupby("prompt_id")["sample"]
    asked = prompts[prompts["samples"] > 0]
    assert {name: sorted(samples) for name, samples in sampled} == {
        name: list(range(SAMPLES)) for name in asked.index
    }
    assert len(asked) >= 300
    assert len(lengths) == len(greedy) + SAMPLES * len(asked)


def test_fewer_than_a_tenth_of_the_responses_are_cut(lengths: Any) -> None:
    assert set(lengths["max_tokens"]) == {MAX_TOKENS} == {512}
    assert lengths["response_tokens"].between(1, MAX_TOKENS).all()
    cut = lengths[lengths["finish_reason"] == "length"]
    assert set(cut["response_tokens"]) == {MAX_TOKENS}
    for _, rows in lengths.groupby(["config", "split"]):
        assert cut_share(rows) < 0.1


def test_the_page_s_numbers_are_the_table_s(prompts: Any, lengths: Any) -> None:
    text = " ".join(PAGE.read_text().split())
    greedy = lengths[lengths["config"] == "temperature=0"]
    facts = {
        r"([\d,]+), written for this project": len(prompts),
        r"(\d+) kinds": prompts["kind"].nunique(),
        r"from (\d+) templates": prompts["template"].nunique(),
        r"holds ([\d,]+) responses": len(lengths),
        r"for (\d+) prompts": int((prompts["samples"] > 0).sum()),
        r"([\d.]+) % of greedy answers do": 100 * cut_share(greedy),
        r"([\d.]+) % in the test split": 100 * cut_share(greedy[greedy["split"] == "test"]),
    }
    for pattern, value in facts.items():
        found = re.search(pattern, text)
        assert found, pattern
        assert float(found[1].replace(",", "")) == pytest.approx(value, abs=0.05), pattern
