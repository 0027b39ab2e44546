"""What was wanted of scoring, judged by the numbers of a report."""

from __future__ import annotations

import pytest
from predictor_reports import report_of, with_int8

from pars_bench.predictor.goals import sentences
from pars_bench.predictor.page import losses, render
from pars_bench.predictor.products import products_name
from pars_bench.predictor.rates import OPERATIONS
from pars_bench.predictor.report import (
    PARTS,
    Speed,
    SpeedCell,
    Supposed,
    over_floor,
    over_floor_by_parts,
    over_floor_of_products,
    rates_of,
)


def test_goals_are_judged_by_the_numbers() -> None:
    # 32 tokens x 1e6 operations at 2 ** 31 in 20 ms: 0.298 ms at least
    fast = report_of("x onnx", {"what": "onnx"}, ms=0.4, bert_ms=5.0)
    (cell,) = fast["speed"]
    assert rates_of(fast, cell)["float32"] == pytest.approx(OPERATIONS / 20e-3)
    # Its own products, where they are faster than those of large matrices: 32e6 in .2 ms.
    alone: Speed = {"seconds": [0.2e-3] * 3, "cores": (1.0, 1.0)}
    own = {**cell["speeds"], products_name("x", "float32", "onnxruntime"): alone}
    quick: SpeedCell = {**cell, "speeds": own}
    assert rates_of(fast, quick)["float32"] == pytest.approx(32e6 / 0.2e-3)
    assert over_floor(fast, fast["speed"][0], "x onnx") == pytest.approx(0.4 / 0.298, rel=1e-3)
    said = sentences(fast)
    assert "one thread: **reached**, holds in 1 of 1 shapes; 1.34 at best" in said[0]
    assert "10 times faster a prompt than BERT, one thread: **reached**" in said[1]
    assert "12.5 times at worst" in said[1]
    assert "tau than a trained BERT-base: **not compared**" in said[2]
    assert "the interpreter, one thread: **reached**, 0.04 s" in said[3]
    assert "**reached**, 0.04 s of CPU time and 20 MiB (0.08 s on the clock)" in said[3]
    assert "ranks 2,000 prompts of the demonstration in under 5 s, one thread: " in said[4]
    assert "under 5 s, one thread: **reached**, 0.4 s" in said[4]
    fast["settings"]["command"] = "pars bench predictor x --json OUT --prompts mine.txt"
    assert "ranks 2,000 prompts of `--prompts` in under 5 s" in sentences(fast)[4]
    assert losses(fast) == [
        "Nowhere is anything faster than what a folder is loaded with by default."
    ]

    slow = report_of("x onnx", {"what": "onnx"}, ms=20.0, bert_ms=10.0)
    slow["contestants"]["x onnx"]["work"]["weights"] = 1e7  # type: ignore[index]
    assert all("**missed**" in each for i, each in enumerate(sentences(slow)) if i != 2)
    assert sentences(slow)[4].endswith(
        " s, so nothing could whose products are no faster than the fastest in float32 measured "
        "here."
    )
    assert losses(slow)[0].startswith("BERT is faster than x onnx in 1 of 1 shapes; it takes 0.50")
    page = render(slow, [("page-latency.svg", "A caption.")])
    assert "**missed**" in page
    assert "after scoring 32 prompts of the demonstration in one call" in page
    assert "The prompts of the demonstration, all ranked in one call" in page
    assert "| **x onnx** | 0.08 | 0.29 | 1e-06 | 0.001 | 0.9912 | 500 |" in page
    assert f"- `x`: sha256 {'ab' * 32}" in page

    student = report_of("x", {"what": "student"}, ms=0.7, bert_ms=10.0)
    assert "under 0.5 s, one thread: **missed**" in sentences(student)[-1]
    assert not any("times the floor of" in each for each in sentences(student))


def test_goals_say_how_many_shapes_of_the_grid_they_are_about() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=0.4, bert_ms=5.0)
    (cell,) = report["speed"]
    own: SpeedCell = {**cell, "speeds": {n: s for n, s in cell["speeds"].items() if n != "BERT"}}
    for batch in (4, 128):
        report["speed"].append({**own, "batch": batch})
    floors, bert, *_ = sentences(report)
    assert "holds in 2 of 2 shapes (of 3 from 32 tokens on; larger calls have no floor); " in floors
    assert "holds in 1 of 1 shapes (of 3; BERT takes no part in larger calls); 12.5 times" in bert


def test_what_bounds_an_int8_engine() -> None:
    # Of 9 ms, 4.5 are products, those with weights 3.6, which take 3.2 alone; all of them take 2.98
    # at the floor's rate; rounding takes 1.8.
    report = report_of("x onnx", {"what": "onnx"}, ms=10.0, bert_ms=80.0)
    with_int8(report, ms=9.0, attention=0.0)
    (cell,) = report["speed"]
    cell["speeds"][products_name("x", "int8", "onnxruntime")] = {
        "seconds": [3.2e-3] * 3,
        "cores": (1.0, 1.0),
    }
    floor = 32 * 1e7 / (OPERATIONS / 20e-3) * 1e3
    assert over_floor_of_products(report, cell, "x onnx-int8") == pytest.approx(3.2 / floor)
    for suppose, least in (
        (Supposed.FLOOR, floor + 0.3 * 9),
        (Supposed.FLOOR_AND_ROUNDING, floor + 0.5 * 9),
        (Supposed.ALONE, 3.2 + 0.6 * 9),
    ):
        found = over_floor_by_parts(report, cell, "x onnx-int8", suppose)
        assert found == pytest.approx(least / floor)
        assert over_floor_by_parts(report, cell, "x onnx", suppose) is None, "no profile"
    (said,) = [each for each in sentences(report) if each.startswith("x onnx-int8 within")]
    assert "**missed**" in said
    assert (
        ". Were all its products as fast as the floor's and rounding free, all else that it "
        "computes would keep 1 of the 1 missed beyond 1.5 (1.91 to 1.91 times the floor). With "
        "rounding as it is, all else that it computes would keep 1 of the 1 missed beyond 1.5 "
        "(2.51 to 2.51 times the floor)."
    ) in said
    # Its products are then faster than the floor has them, and are taken as they are.
    cell["speeds"]["x onnx-int8"]["seconds"] = [5e-3] * 3
    (said,) = [each for each in sentences(report) if each.startswith("x onnx-int8 within")]
    assert "would keep 0 of the 1 missed beyond 1.5 (1.34 to 1.34 times the floor)" in said
    assert "would keep 1 of the 1 missed beyond 1.5 (1.68 to 1.68 times the floor)" in said
    del cell["parts"]
    (said,) = [each for each in sentences(report) if each.startswith("x onnx-int8 within")]
    assert "would keep" not in said


def test_products_alone_are_of_all_layers_where_an_engine_has_some_in_float32() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=10.0, bert_ms=80.0)
    with_int8(report, ms=9.0, attention=0.0)
    (cell,) = report["speed"]
    alone = cell["speeds"][products_name("x", "int8", "onnxruntime")] = {
        "seconds": [3.2e-3] * 3,
        "cores": (1.0, 1.0),
    }
    cell["speeds"]["int8, onnxruntime"]["seconds"] = [10e-3] * 3  # twice the rate of float32
    page = render(report, [])
    assert "*x int8: products with weights alone*" in page
    assert "has its products with weights in int8 and" in page
    floor = 32 * 1e7 / (OPERATIONS / 10e-3) * 1e3
    work = report["contestants"]["x onnx-int8"]["work"]
    assert work is not None
    for spared, weight_bytes in ((0.0, 1e3), (0.25, 1.75e3)):
        work |= {"spared": spared, "weight_bytes": weight_bytes}
        found = over_floor_of_products(report, cell, "x onnx-int8")
        assert found == pytest.approx(3.2 / floor)
        assert over_floor(report, cell, "x onnx-int8") == pytest.approx(9 / floor / (1 + spared))
        by_parts = over_floor_by_parts(report, cell, "x onnx-int8", Supposed.ALONE)
        assert (by_parts is None) == (spared > 0), "of other products than the engine's"
    (said,) = [each for each in sentences(report) if each.startswith("x onnx-int8 within")]
    assert "floor of int8 with 25% of its products with weights in float32 from 32 tokens" in said
    assert "; its products with weights of all layers alone, by the same library" in said
    page = render(report, [])
    assert "*x int8: products with weights alone, all layers*" in page
    assert "weights in int8 (x onnx-int8 25% of them in float32) and those of attention" in page
    # All layers in int8 took this, so the rate is of all of them.
    alone["seconds"] = [1e-3] * 3
    assert rates_of(report, cell)["int8"] == pytest.approx(32 * 1e7 / 1e-3)


def test_a_bound_is_never_beyond_the_engine_and_has_attention_once() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=10.0, bert_ms=80.0)
    with_int8(report, ms=9.0, attention=1e5)
    (cell,) = report["speed"]
    rate = OPERATIONS / 20e-3 / 1e3
    floor = (32 * 1e7 + 32 * 32 * 1e5) / rate
    found = over_floor_by_parts(report, cell, "x onnx-int8", Supposed.FLOOR_AND_ROUNDING)
    assert found == pytest.approx((floor + 0.5 * 9) / floor)
    assert over_floor_by_parts(report, cell, "x onnx-int8", Supposed.ALONE) is None, "not measured"
    # Products that are faster in the engine than the floor has them are taken as they are.
    cell["parts"]["x onnx-int8"]["shares"] |= {"products": 0.1, "rest": 0.4}
    found = over_floor_by_parts(report, cell, "x onnx-int8", Supposed.FLOOR_AND_ROUNDING)
    assert found == pytest.approx(over_floor(report, cell, "x onnx-int8"))


def test_bf16_weights_are_computed_as_the_float_engine_is() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=0.4, bert_ms=5.0)
    (cell,) = report["speed"]
    report["contestants"]["x onnx-bf16"] = {
        **report["contestants"]["x onnx"],
        "what": "onnx-bf16",
        "auto": False,
    }
    cell["speeds"]["x onnx-bf16"] = {"seconds": [0.5e-3] * 3, "cores": (1.0, 1.0)}
    report["starts"]["x onnx-bf16"] = report["starts"]["x onnx"]
    said = [each for each in sentences(report) if each.startswith("x onnx-bf16 within")]
    assert said[0].endswith("It computes as x onnx does, which is within 1.5 in 1 of these.")


def test_a_float_engine_has_no_rounding_to_speak_of() -> None:
    report = report_of("x onnx", {"what": "onnx"}, ms=0.5, bert_ms=80.0)
    (cell,) = report["speed"]
    shares = dict.fromkeys(PARTS, 0.0) | {"products": 0.3, "rest": 0.7}
    cell["parts"] = {"x onnx": {"shares": shares, "nodes": 9, "surplus": 0.0, "slower": 1.0}}
    assert over_floor_by_parts(report, cell, "x onnx", Supposed.FLOOR_AND_ROUNDING) is None
    said = sentences(report)[0]
    # It is 1.68 times a floor of 0.298 ms; 0.15 ms of products are less than that floor.
    assert (
        ". Were all its products as fast as the floor's, all else that it computes would keep 1"
        in said
    )
    assert "rounding" not in said


def test_what_openvinos_profile_lacks_is_not_taken_for_products() -> None:
    # Of 0.5 ms, 0.4 are products with weights by the profile, but alone they take 0.3; attention's
    # are 0.05: so 0.15 are none of both, and all would take 0.298 at the floor's rate.
    report = report_of("x openvino", {"what": "openvino"}, ms=0.5, bert_ms=80.0)
    (cell,) = report["speed"]
    shares = dict.fromkeys(PARTS, 0.0) | {"products": 0.8, "attention": 0.1}
    shares["rest"] = 0.1
    cell["parts"] = {"x openvino": {"shares": shares, "nodes": 9, "surplus": 0.0, "slower": 0.7}}
    by_profile = (
        ". Were all its products as fast as the floor's, all else that it computes but GELU and "
        "softmax, parts of its products, would keep 0 of the 1 missed beyond 1.5 (1.17 to 1.17 "
        "times the floor)"
    )
    assert sentences(report)[0].endswith(by_profile + ".")
    alone = products_name("x", "float32", "openvino")
    cell["speeds"][alone] = {"seconds": [3e-4] * 3, "cores": (1.0, 1.0)}
    assert (
        by_profile + ". By what its calls take beside its products alone, all else that it "
        "computes but GELU and softmax, parts of its products, would keep 1 of the 1 missed beyond "
        "1.5 (1.50 to 1.50 times the floor)."
    ) in sentences(report)[0]
    page = render(report, [])
    assert "| *x openvino: the same, beside its products alone* | 1.50 |" in page
    # Slower alone than within the call, they leave nothing of it, and not less than nothing.
    cell["speeds"][alone]["seconds"] = [6e-4] * 3
    found = over_floor_by_parts(report, cell, "x openvino", Supposed.BESIDE)
    assert found == pytest.approx(1.0)
    # Faster alone than large matrices, they set the floor.
    cell["speeds"][alone]["seconds"] = [2.9e-4] * 3
    found = over_floor_by_parts(report, cell, "x openvino", Supposed.BESIDE)
    assert found == pytest.approx((0.29 + 0.5 - 0.29 - 0.05) / 0.29)


def test_products_of_a_precision_that_no_library_has_large_ones_of_set_the_rate() -> None:
    report = report_of("x openvino", {"what": "openvino"}, ms=0.5, bert_ms=80.0)
    (cell,) = report["speed"]
    entry = report["contestants"]["x openvino"]
    assert entry["work"] is not None
    entry["work"]["precision"] = entry["work"]["others"] = "bfloat16"
    for name in [name for name in cell["speeds"] if name.startswith("bfloat16")]:
        del cell["speeds"][name]
    assert over_floor(report, cell, "x openvino") is None
    alone = products_name("x", "bfloat16", "openvino")
    cell["speeds"][alone] = {"seconds": [2e-4] * 3, "cores": (1.0, 1.0)}
    assert over_floor_of_products(report, cell, "x openvino") is None
    assert over_floor(report, cell, "x openvino") == pytest.approx(0.5 / 0.2)
    assert "x openvino" in render(report, [])


def test_products_that_are_slow_alone_keep_an_engine_from_its_floor() -> None:
    # Of 0.5 ms, 0.4 are products, which take 0.298 at the floor's rate and 0.36 alone.
    report = report_of("x onnx", {"what": "onnx"}, ms=0.5, bert_ms=80.0)
    (cell,) = report["speed"]
    shares = dict.fromkeys(PARTS, 0.0) | {"products": 0.8, "rest": 0.2}
    cell["parts"] = {"x onnx": {"shares": shares, "nodes": 9, "surplus": 0.0, "slower": 1.0}}
    floors = (
        ". Were all its products as fast as the floor's, all else that it computes would keep 0 of "
        "the 1 missed beyond 1.5 (1.34 to 1.34 times the floor)"
    )
    assert sentences(report)[0].endswith(floors + ".")
    cell["speeds"][products_name("x", "float32", "onnxruntime")] = {
        "seconds": [3.6e-4] * 3,
        "cores": (1.0, 1.0),
    }
    assert sentences(report)[0].endswith(
        floors + ". With its products as fast as they are alone, all else that it computes would "
        "keep 1 of the 1 missed beyond 1.5 (1.54 to 1.54 times the floor)."
    )
    assert "| *x onnx: with its products alone* | 1.54 |" in render(report, [])
