"""Traffic as a whole: what is kept of a file, when it arrives, and what the facts say about it."""

from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pars_bench.arrivals import poisson, renewal
from pars_bench.replay.stream import Window
from pars_bench.replay.traffic import Traffic, TrafficRequest, read_traffic, scaled
from pars_export.errors import ConfigError, InputError


def read(
    path: Path,
    arrivals: str | None = None,
    rate: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Traffic:
    return read_traffic(path, arrivals=arrivals, rate=rate, limit=limit, seed=seed)


def own(folder: Path, times: list[float], name: str = "own.csv") -> Path:
    """Requests whose response lengths count from 1, so that each can be told from the others."""
    rows = [f"{time},{100 + place},{1 + place}\n" for place, time in enumerate(times)]
    path = folder / name
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(rows))
    return path


def lengths(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "lengths.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arrivals_of(traffic: Traffic) -> list[float]:
    return [request.arrival_s for request in traffic]


def numbers(traffic: Traffic) -> list[int]:
    return [request.output_tokens for request in traffic]


def test_a_trace_keeps_its_own_times_from_zero_on(tmp_path: Path) -> None:
    traffic = read(own(tmp_path, [5.0, 5.5, 9.0]))
    assert list(traffic) == [
        TrafficRequest(0.0, 100, 1),
        TrafficRequest(0.5, 101, 2),
        TrafficRequest(4.0, 102, 3),
    ]
    assert list(traffic) == list(traffic)
    assert traffic.facts == {
        "source": "own.csv",
        "format": "requests",
        "kept": "all 3 requests",
        "arrivals": "the trace's own times",
        "requests": 3,
        "duration_s": 4.0,
        "rate": 0.5,
        "gap_cv": pytest.approx(np.std([0.5, 3.5]) / 2),
        "prompt_tokens": {"mean": 101, "p50": 101, "p99": 102, "max": 102},
        "output_tokens": {"mean": 2, "p50": 2, "p99": 3, "max": 3},
        "prompt_tokens_from": "the trace",
    }


def test_a_limit_keeps_neighbours_at_their_distances_and_says_which(tmp_path: Path) -> None:
    times = np.cumsum(np.arange(50)).tolist()
    path = own(tmp_path, times)
    starts = set()
    for seed in range(8):
        traffic = read(path, limit=10, seed=seed)
        kept = numbers(traffic)
        start = kept[0] - 1
        assert kept == list(range(start + 1, start + 11))
        assert arrivals_of(traffic) == [time - times[start] for time in times[start : start + 10]]
        assert f"requests {start + 1} to {start + 10} of 50" in str(traffic.facts["kept"])
        starts.add(start)
    assert len(starts) > 3
    assert read(path, limit=50).facts["kept"] == "all 50 requests"


def test_a_rate_stretches_a_trace_and_leaves_its_bursts(tmp_path: Path) -> None:
    path = own(tmp_path, [0, 0, 1, 1, 10])
    slow, fast = read(path), read(path, rate=4.0)
    assert arrivals_of(fast) == pytest.approx([time / 10 for time in arrivals_of(slow)])
    assert fast.facts["rate"] == pytest.approx(4.0)
    assert fast.facts["gap_cv"] == slow.facts["gap_cv"]
    assert fast.facts["arrivals"] == "the trace's own times, 10 times as dense"


def test_a_process_replaces_the_times_and_no_more(tmp_path: Path) -> None:
    path = own(tmp_path, list(range(500)))
    again = read(path, arrivals="poisson", seed=3)
    assert numbers(again) == list(range(1, 501))
    # Without a rate it is the trace's own: one a second here.
    assert arrivals_of(again) == pytest.approx(poisson(500, 1.0, 3).tolist())
    assert arrivals_of(read(path, arrivals="gamma:4", rate=2.0)) != arrivals_of(again)
    assert set(arrivals_of(read(path, arrivals="burst"))) == {0.0}
    assert "rate" not in read(path, arrivals="burst").facts


def test_gamma_gaps_have_the_rate_and_spread_that_were_asked_for(tmp_path: Path) -> None:
    facts = read(own(tmp_path, [0.0] * 20_000), arrivals="gamma:2", rate=5.0).facts
    assert facts["rate"] == pytest.approx(5.0, rel=0.05)
    assert facts["gap_cv"] == pytest.approx(2.0, rel=0.1)


@given(st.floats(0.01, 100), st.floats(0.2, 5), st.integers(0, 2**31), st.integers(1, 9))
def test_endless_arrivals_ascend_and_do_not_depend_on_the_block(
    rate: float, cv: float, seed: int, block: int
) -> None:
    some, others = renewal(rate, cv, seed), renewal(rate, cv, seed, block)
    times = [next(some) for _ in range(20)]
    assert times[0] == 0.0
    assert times == sorted(times) == [next(others) for _ in range(20)]


@pytest.mark.parametrize(("rate", "cv"), [(0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_arrivals_refuse_what_is_no_rate_or_spread(rate: float, cv: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number"):
        renewal(rate, cv, 0)


def test_scaling_changes_density_alone_and_says_so(tmp_path: Path) -> None:
    traffic = read(own(tmp_path, [0, 1, 2, 6]))
    denser = scaled(traffic, 2.0)
    assert arrivals_of(denser) == [0, 0.5, 1, 3]
    assert numbers(denser) == numbers(traffic)
    assert denser.facts["rate"] == 1.0
    assert denser.facts["duration_s"] == 3.0
    assert denser.facts["times_as_dense"] == 2.0
    for load, message in ((0, "load is 0"), (1e-320, "load is 1e-320"), (1e-9, "after 6e.09 s")):
        with pytest.raises(ConfigError, match=message):
            scaled(traffic, load)


def table(prompts: int, samples: int = 1, **more: object) -> list[dict[str, object]]:
    return [
        {"prompt": f"prompt {p}", "response_tokens": 10 * p + s, "sample": s, **more}
        for p in range(prompts)
        for s in range(samples)
    ]


def test_a_length_table_is_a_burst_of_its_items_with_text_and_rerun(tmp_path: Path) -> None:
    path = lengths(tmp_path, table(30, samples=3, prompt_tokens=7, dataset="chat"))
    requests = list(read(path))
    assert {request.arrival_s for request in requests} == {0.0}
    assert {request.prompt for request in requests} == {f"prompt {p}" for p in range(30)}
    for request in requests:
        item = int(str(request.prompt).split()[1])
        assert request.rerun_tokens is not None
        assert request.output_tokens != request.rerun_tokens
        assert {request.output_tokens, request.rerun_tokens} <= {
            max(1, 10 * item + sample) for sample in range(3)
        }
        assert (request.prompt_tokens, request.tenant) == (7, "chat")
    assert list(read(path)) == requests
    other = list(read(path, seed=1))
    assert [request.prompt for request in other] != [request.prompt for request in requests]


def test_items_are_drawn_without_replacement(tmp_path: Path) -> None:
    traffic = read(lengths(tmp_path, table(30)), arrivals="poisson", rate=2.0, limit=12)
    assert len({request.prompt for request in traffic}) == 12
    assert traffic.facts["kept"] == "12 of 30 items, drawn without replacement with seed 0"
    assert traffic.facts["rate"] == pytest.approx(2.0, rel=0.8)
    assert all(request.rerun_tokens is None for request in traffic)


def test_one_llm_and_config_is_replayed_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = table(5, model="big", config="t=0") + table(9, model="big", config="t=1")
    facts = read(lengths(tmp_path, rows)).facts
    assert (facts["llm"], facts["config"], facts["requests"]) == ("big", "t=1", 9)
    assert facts["rows_of_other_llms_or_configs"] == 5


def test_only_test_prompts_are_replayed_where_the_table_names_them(tmp_path: Path) -> None:
    rows = [{**row, "split": ("train", "test")[place % 2]} for place, row in enumerate(table(10))]
    traffic = read(lengths(tmp_path, rows))
    assert {request.prompt for request in traffic} == {f"prompt {p}" for p in range(1, 10, 2)}
    assert traffic.facts["split"] == "test"


def test_answers_cut_at_their_limit_are_counted(tmp_path: Path) -> None:
    rows = [
        {**row, "finish_reason": ("stop", "length")[place == 0]}
        for place, row in enumerate(table(4))
    ]
    assert read(lengths(tmp_path, rows)).facts["cut_at_their_limit"] == 0.25


def test_prompts_nobody_counted_are_estimated_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"arrival_s": 0, "prompt": "x" * 41, "output_tokens": 3}) + "\n")
    traffic = read(path)
    assert next(iter(traffic)).prompt_tokens == 11
    assert traffic.facts["prompt_tokens_from"] == "the texts, 4 bytes a token"


def test_traffic_can_be_sent_to_another_process(tmp_path: Path) -> None:
    for path in (own(tmp_path, [0, 1, 2]), lengths(tmp_path, table(4))):
        traffic = scaled(read(path, arrivals="poisson", rate=1.0, limit=2), 3.0)
        assert list(pickle.loads(pickle.dumps(traffic))) == list(traffic)


def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.csv.gz"
        line = "{},100,{}," + 200 * "x" + "\n"  # long enough to fill every buffer
        text = "".join(line.format(place / 10, 1 + place % 300) for place in range(rows))
        path.write_bytes(
            gzip.compress(f"arrival_s,prompt_tokens,output_tokens,note\n{text}".encode())
        )
        del text
        tracemalloc.start()
        assert read(path, limit=rows // 2).facts["requests"] == rows // 2
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1000)  # what is allocated once
    assert peak(6_000) < 1.2 * peak(2_000)


@pytest.mark.parametrize(
    ("arrivals", "rate", "limit", "message"),
    [
        ("weibull", 1.0, None, "arrivals is 'weibull'; expected trace, burst, poisson, gamma or"),
        ("poisson:2", 1.0, None, "arrivals is 'poisson:2'"),
        ("gamma:x", 1.0, None, "expected a positive number after the colon"),
        ("gamma:0", 1.0, None, "expected a positive number after the colon"),
        ("burst", 2.0, None, "a burst arrives at once and has no rate"),
        (None, -2.0, None, "rate is -2.0; expected a positive number"),
        (None, float("inf"), None, "rate is inf"),
        (None, 1e-320, None, "rate is 1e-320; expected a positive number"),
        (None, None, 0, "limit is 0; expected"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(
    tmp_path: Path, arrivals: str | None, rate: float | None, limit: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(own(tmp_path, [0, 1]), arrivals, rate, limit)


def test_a_table_without_times_needs_a_rate_for_a_process(tmp_path: Path) -> None:
    path = lengths(tmp_path, table(3))
    with pytest.raises(ConfigError, match="no times of arrival: choose burst, or poisson"):
        read(path, arrivals="trace")
    with pytest.raises(ConfigError, match="has no rate of its own"):
        read(path, arrivals="poisson")
    assert arrivals_of(read(path, rate=1.0)) == pytest.approx(poisson(3, 1.0, 0).tolist())


def test_a_rate_may_not_make_a_traffic_last_for_ever(tmp_path: Path) -> None:
    path = own(tmp_path, list(range(50)))
    for arrivals in ("trace", "poisson"):
        with pytest.raises(ConfigError, match=r"own\.csv: at this rate the last request"):
            read(path, arrivals, rate=1e-9)


def test_a_trace_at_one_moment_has_no_rate_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all requests arrive at once"):
        read(own(tmp_path, [3.0, 3.0]), rate=1.0)
    # Nor has one whose requests are closer than any float can tell as a rate.
    assert "rate" not in read(own(tmp_path, [0.0, 5e-324])).facts


def test_a_table_whose_rows_cannot_be_used_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 2: response_tokens is 'many'"):
        read(lengths(tmp_path, [*table(1), {"prompt": "x", "response_tokens": "many"}]))
    with pytest.raises(InputError, match=r"row 1: prompt_tokens is -1"):
        read(lengths(tmp_path, table(2, prompt_tokens=-1)))


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_window_is_a_slice_from_zero_on(start: int, stop: int) -> None:
    requests = [TrafficRequest(2.0 * place, 1, 1 + place) for place in range(15)]
    kept = list(Window(lambda: iter(requests), start, max(start, stop))())
    assert [request.output_tokens for request in kept] == [
        request.output_tokens for request in requests[start : max(start, stop)]
    ]
    assert not kept or kept[0].arrival_s == 0.0
