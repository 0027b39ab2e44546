"""Mixes of traffic: shares hold, parts keep apart, and a mix file's mistakes are said."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest

from pars_bench.replay.traffic import Traffic, read_traffic
from pars_export.errors import ConfigError, ParsError


def read(path: Path, rate: float | None = None, limit: int | None = None, seed: int = 0) -> Traffic:
    return read_traffic(path, arrivals=None, rate=rate, limit=limit, seed=seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"p {n}", "response_tokens": 900 + n % 90, "model": "r1"} for n in range(400)
    ]
    (tmp_path / "reasoning.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = "".join(f"{n / 7},50,{1 + n % 40},app\n" for n in range(900))
    (tmp_path / "chat.csv").write_text(f"arrival_s,prompt_tokens,output_tokens,tenant\n{chat}")
    for name, hashes in (("one", [0, 1]), ("two", [0, 2])):
        row = {"input_length": 700, "output_length": 9, "hash_ids": hashes}
        lines = [json.dumps({"timestamp": 1000 * n, **row}) + "\n" for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def mix(folder: Path, text: str) -> Path:
    path = folder / "mix.yaml"
    path.write_text(text)
    return path


TWO = """
rate: 10
parts:
  - {name: chat, trace: chat.csv, share: 3}
  - {name: reasoning, trace: reasoning.jsonl, share: 1, arrivals: "gamma:2"}
"""


def test_parts_arrive_at_their_shares_of_the_rate(folder: Path) -> None:
    traffic = read(mix(folder, TWO))
    requests = list(traffic)
    times = [request.arrival_s for request in requests]
    assert times == sorted(times)
    counts = Counter(request.tenant for request in requests)
    assert set(counts) == {"chat/app", "reasoning"}
    assert counts["chat/app"] / counts["reasoning"] == pytest.approx(3, rel=0.3)
    assert traffic.facts["rate"] == pytest.approx(10, rel=0.2)
    assert traffic.facts["tenants"] == dict(counts)
    # Neither part goes on alone: the mix ends where the first of them does.
    last = {request.tenant: request.arrival_s for request in requests}
    assert min(last.values()) > 0.95 * max(last.values())
    parts = traffic.facts["parts"]
    assert isinstance(parts, dict)
    assert parts["chat"]["rate"] == pytest.approx(7.5)
    assert parts["reasoning"]["llm"] == "r1"


def test_the_rate_on_the_command_line_wins(folder: Path) -> None:
    assert read(mix(folder, TWO), rate=40.0).facts["rate"] == pytest.approx(40, rel=0.2)
    with pytest.raises(ConfigError, match="gives shares but no rate"):
        read(mix(folder, TWO.replace("rate: 10", "")))


def test_a_burst_lands_in_the_middle_of_nothing_else(folder: Path) -> None:
    text = (
        TWO + "  - {name: batch, trace: reasoning.jsonl, arrivals: burst, requests: 25, split: all}"
    )
    requests = list(read(mix(folder, text)))
    assert {r.arrival_s for r in requests if r.tenant == "batch"} == {0.0}
    assert sum(r.tenant == "batch" for r in requests) == 25
    assert sum(r.tenant == "chat/app" for r in requests) > 100


def test_bursts_alone_are_a_mix_too(folder: Path) -> None:
    text = '{"parts": [\n{"trace": "one.jsonl", "arrivals": "burst"},\n'
    text += '{"trace": "two.jsonl", "arrivals": "burst", "requests": 5}]}'
    traffic = read(mix(folder, text))  # JSON over several lines is YAML as well
    assert Counter(request.tenant for request in traffic) == {"1": 20, "2": 5}


def test_equal_hashes_of_two_traces_are_not_one_prefix(folder: Path) -> None:
    text = "rate: 2\nparts:\n- {trace: one.jsonl, share: 1}\n- {trace: two.jsonl, share: 1}\n"
    traffic = read(mix(folder, text))
    assert traffic.block_tokens == 512
    blocks = {request.tenant: set(request.blocks) for request in traffic}
    assert len(blocks["1"]) == len(blocks["2"]) == 2
    assert not blocks["1"] & blocks["2"]


def test_a_limit_is_a_window_of_the_mix(folder: Path) -> None:
    path = mix(folder, TWO)
    traffic = read(path, limit=60)
    assert len(list(traffic)) == 60
    assert "one contiguous window" in str(traffic.facts["kept"])
    assert list(traffic) == list(read(path, limit=60)) == list(pickle.loads(pickle.dumps(traffic)))
    assert list(traffic) != list(read(path, limit=60, seed=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parts:\n- [", "is neither YAML nor JSON"),
        ("parts:\nrate: 3", "parts is None; expected a list with at least one part"),
        ("parts: 3", "parts is 3"),
        ("parts: []\nrates: 1", "has the unknown keys rates"),
        ("rate: -1\nparts:\n- {trace: one.jsonl, share: 1}", "rate is -1; expected a positive"),
        ("rate: .nan\nparts:\n- {trace: one.jsonl, share: 1}", "rate is nan"),
        ("parts:\n- 7", "part 1 is 7; expected a mapping"),
        ("parts:\n- {share: 1}", "part 1 has no trace"),
        ("parts:\n- {trace: 1, share: 1}", "part 1: trace is 1; expected a text"),
        ("parts:\n- {trace: one.jsonl}", "part 1 has no share"),
        ("parts:\n- {trace: a, share: 1, arrivals: burst}", "a share and arrives in a burst"),
        ("parts:\n- {trace: a, share: true}", "share is True; expected a positive number"),
        ("parts:\n- {trace: a, share: 1, weight: 2}", "part 1 has the unknown keys weight"),
        ("parts:\n- {trace: a, share: 1, requests: 1.5}", "requests is 1.5; expected a whole"),
        ("rate: 1\nparts:\n- {trace: a, share: 1}", "part 1: .*a does not exist"),
        ("rate: 1\nparts:\n- {trace: mix.yaml, share: 1}", "is a mix, which cannot be a part"),
        ("rate: 1\nparts:\n- {trace: chat.csv, share: 1, model: x}", "choose from a length table"),
        (
            "rate: 1\nparts:\n- {trace: reasoning.jsonl, share: 1, model: x}",
            "has no row of model 'x'",
        ),
        (
            "rate: 1\nparts:\n- {trace: one.jsonl, share: 1}\n- {trace: a, share: 1, name: '1'}",
            "two parts have one name",
        ),
        ("rate: 1\nparts:\n- {trace: chat.csv, share: 1, requests: 0}", "limit is 0"),
    ],
)
def test_what_is_wrong_with_a_mix_is_said(folder: Path, text: str, message: str) -> None:
    path = mix(folder, text)
    with pytest.raises(ParsError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_mix_takes_no_arrivals_from_outside(folder: Path) -> None:
    with pytest.raises(ConfigError, match="drop arrivals"):
        read_traffic(mix(folder, TWO), arrivals="poisson", rate=1.0, limit=None, seed=0)
