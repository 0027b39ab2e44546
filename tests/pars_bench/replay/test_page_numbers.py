"""What the page computes: means over seeds, the queue that a gain needs, the check of a schema."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_replays import write_synthetic

from pars_bench.chart import Palette
from pars_bench.findings import seconds
from pars_bench.replay.page.compare import Replay, statistic
from pars_bench.replay.page.findings import headline
from pars_bench.replay.page.names import ROLES, looks
from pars_bench.replay.page.need import AtDepth, by_depth, depth_met, enough, gaining
from pars_bench.replay.page.pictures import queue_over_time, who_pays
from pars_bench.replay.page.rows import Requests, RunRows
from pars_bench.replay.page.shape import mismatch
from pars_bench.replay.page.tables import deciles
from pars_bench.replay.results import queue_depth


def test_a_ratio_pairs_seeds_and_a_value_averages_them(tmp_path: Path) -> None:
    replay = Replay(write_synthetic(tmp_path, loads=(1.0,), seeds=(0, 1, 2), requests=60))
    mean = statistic("ttlt", "mean")
    fcfs, oracle = ([mean(r) or 0 for r in replay.runs(name, 1.0)] for name in ("fcfs", "oracle"))
    ratio, value = replay.ratio("oracle", 1.0, mean), replay.value("oracle", 1.0, mean)
    ratios = [after / before for after, before in zip(oracle, fcfs, strict=True)]
    assert ratio is not None
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx(
        (np.mean(ratios), min(ratios), max(ratios))
    )
    assert value is not None
    assert value.mean == pytest.approx(np.mean(oracle))
    assert replay.ratio("oracle", 9.0, mean) is None


def test_who_pays_is_a_mean_over_seeds(tmp_path: Path) -> None:
    replay = Replay(write_synthetic(tmp_path, ("fcfs",), loads=(1.0,), seeds=(1, 0), requests=60))
    one, other = (run["slowdown_by_decile"] for run in replay.runs("fcfs", 1.0))
    tenths = replay.tenths("fcfs", 1.0)
    for place, tenth in enumerate(tenths):
        assert tenth["ttlt"] == pytest.approx((one[place]["ttlt"] + other[place]["ttlt"]) / 2)
        assert tenth["most_tokens"] == max(one[place]["most_tokens"], other[place]["most_tokens"])
    assert deciles(replay, "ttlt")[9].cells == (seconds(tenths[9]["ttlt"]),)
    assert f"{seconds(tenths[9]['ttlt'])} in the longest" in who_pays(replay, "", "", "ttlt").gist
    (shown,) = replay.sample("fcfs", 1.0)
    assert shown["seed"] == 0


def test_the_load_is_the_traffics_own_or_the_nearest(tmp_path: Path) -> None:
    for loads, expected in (((0.5, 1.0, 1.2), 1.0), ((0.5, 1.2), 1.2), ((0.9, 2.0), 0.9)):
        report = write_synthetic(tmp_path, ("fcfs",), loads=loads, seeds=(0,), requests=5)
        assert Replay(report).load == expected


def test_pars_is_the_subject_before_made_up_scores_and_oracles() -> None:
    def subject(*policies: str) -> str | None:
        runs = [{"policy": policy} for policy in policies]
        look = Replay({"runs": runs}).subject  # type: ignore[typeddict-item]  # nothing else is read
        return None if look is None else look.name

    assert subject("fcfs", "pars@tau=0.5", "pars", "oracle") == "PARS"
    assert subject("fcfs", "oracle", "pars@tau=0.38", "pars@tau=0.5") == "score model, tau 0.38"
    assert subject("fcfs", "oracle", "rerun") == "rerun oracle"
    assert subject("fcfs", "hrrn") == "HRRN"
    assert subject("fcfs") is None


def test_orders_of_one_kind_get_colours_of_their_own() -> None:
    found = looks(["fcfs", "pars@tau=0.3", "pars@tau=0.5", "pars@noise=1", "mine", "hrrn@tau=0.3"])
    assert len({look.role for look in found}) == len(found)
    assert [look.name for look in found][1:] == [
        "score model, tau 0.3", "score model, tau 0.5", "score model, noise 1", "mine",
        "HRRN, tau 0.3",
    ]  # fmt: skip


def rows_with(arrival: list[float], queued: list[float]) -> RunRows:
    ones = np.ones(len(arrival))
    return RunRows(np.array(arrival), ones, ones, ones, np.array(queued))


def test_a_request_meets_those_who_wait_when_it_comes_and_not_itself() -> None:
    # Three at once, one of them admitted at once; one that waits for nobody but a step's end; and
    # one that finds an idle server.
    rows = rows_with([0, 0, 0, 1, 1.5, 9], [0, 1, 4, 1, 0.5, 0])
    assert depth_met(rows).tolist() == [2, 1, 1, 1, 2, 0]


def test_the_queue_in_the_chart_falls_when_it_empties(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    report = write_synthetic(tmp_path, ("fcfs",), loads=(1.0,), seeds=(0,), requests=5)
    report["runs"][0]["queue_depth"] = [[0.0, 3.0], [2.0, 0.0], [90.0, 1.0], [91.0, 0.0]]
    report["runs"][0]["makespan"] = 100.0
    axes = Figure().subplots()
    queue_over_time(Replay(report), "queue", "").draw(axes, Palette(dict.fromkeys(ROLES, "#000")))
    (curve,) = axes.lines
    assert curve.get_drawstyle() == "steps-post"
    assert np.asarray(curve.get_xydata())[-2:].tolist() == [[91.0, 0.0], [100.0, 0.0]]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=400))
def test_few_points_lose_no_peak_and_no_empty_queue(requests: list[tuple[float, float]]) -> None:
    arrival, queued = np.array(requests).T
    points = np.array(queue_depth(arrival, arrival + queued))
    assert len(points) <= 500
    times, depths = points.T
    assert (np.diff(times) > 0).all()
    assert depths[-1] == 0
    moments = np.concatenate((arrival, arrival + queued))
    true = [((arrival <= t) & (arrival + queued > t)).sum() for t in moments]
    assert depths.max() == max(true)
    shown = depths[np.searchsorted(times, moments, side="right") - 1]
    assert (shown >= true).all()
    if len(set(moments)) <= 500:
        assert shown.tolist() == true


def test_classes_of_depth_hold_every_request_once_and_its_seconds(tmp_path: Path) -> None:
    replay = Replay(write_synthetic(tmp_path))
    found = by_depth(replay, Requests(tmp_path / "requests.parquet"))
    rows = pq.read_table(tmp_path / "requests.parquet").to_pandas()
    base, own = rows[rows.policy == "fcfs"], rows[rows.policy == "pars@tau=0.5"]
    assert sum(each.requests for each in found) == len(base)
    assert sum(each.requests * each.before for each in found) == pytest.approx(base.ttlt_s.sum())
    assert sum(each.requests * each.after for each in found) == pytest.approx(own.ttlt_s.sum())
    # A made-up queue has no surprise: whoever finds many waiting gains most.
    gains = gaining(enough(found))
    assert gains is not None
    assert 1 <= gains[0].least <= 16
    assert gains[2] is None
    assert not found[0].gains


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0.5, 1.5)), max_size=7))
def test_what_gains_is_the_deepest_unbroken_run_of_classes(
    classes: list[tuple[int, float]],
) -> None:
    depths = [AtDepth(4**n, None, count, 1.0, after) for n, (count, after) in enumerate(classes)]
    sure = enough(depths)
    assert all(each.requests >= 30 for each in sure)
    found = gaining(sure)
    if found is None:
        assert not any(each.gains for each in sure)
        return
    first, last, behind = found
    assert all(each.gains for each in sure if first.least <= each.least <= last.least)
    below = [each for each in sure if each.least < first.least]
    assert not below or not below[-1].gains
    deeper = [each for each in sure if each.least > last.least]
    assert deeper[:1] == ([] if behind is None else [behind])
    assert not any(each.gains for each in deeper)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([(29, 0.5), (29, 0.5)], "cannot be said, for no class of depths was met by 30 requests"),
        ([(30, 0.99), (30, 1.1), (5, 0.5)], "no depth of the queue that 30 requests or more met"),
        ([(30, 1.0), (30, 0.9), (30, 0.9)], "it needs a queue: requests gain where 1 or more are"),
        ([(30, 0.9), (30, 0.9)], "even requests that found nobody waiting gain"),
        ([(30, 1.0), (30, 0.9), (30, 1.0)], "gain where 1 to 3 are waiting, but not where 4 or mo"),
        ([(30, 0.9), (30, 1.0)], "gain where nobody is waiting, but not where 1 or more are"),
    ],
)
def test_the_headline_says_what_its_table_shows(
    tmp_path: Path, classes: list[tuple[int, float]], words: str
) -> None:
    replay = Replay(write_synthetic(tmp_path, loads=(1.0,), seeds=(0,), requests=20))
    bounds = ((0, 0), (1, 3), (4, 15))
    depths = [
        AtDepth(*bound, count, 1.0, after)
        for bound, (count, after) in zip(bounds, classes, strict=False)
    ]
    assert words in headline(replay, depths)


class Inner(TypedDict):
    name: str
    size: float | None


class Outer(TypedDict):
    count: int
    parts: list[Inner]
    more: dict[str, object]


GOOD = {"count": 1, "parts": [{"name": "a", "size": 2}, {"name": "b", "size": None}], "more": {}}


def test_what_fits_a_schema_has_no_mismatch_and_more_keys_do_not_matter() -> None:
    assert mismatch(GOOD, Outer, "") is None
    assert mismatch({**GOOD, "new": 1}, Outer, "") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_value_in_any_place_is_accepted_or_named(key: str, value: object) -> None:
    problem = mismatch({**GOOD, key: value}, Outer, "")
    assert problem is None or problem.startswith(key)


def test_a_type_that_json_has_not_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="no place in a schema"):
        mismatch(1, bytes, "x")
