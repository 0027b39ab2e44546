from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pars_bench.experiment import Facts, compute, interval_text, mean_interval, source_digest


class Quiet:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def count(self, label: str, done: int, total: int) -> None:
        raise AssertionError("not used")


MODULES = ("pars_vllm.policy",)


def test_a_cell_is_computed_once_and_again_only_if_it_changed(tmp_path: Path) -> None:
    ran: list[object] = []

    def measure(parameters: Facts) -> Facts:
        ran.append(parameters["x"])
        if parameters["x"] == 3:
            raise KeyboardInterrupt
        return {"twice": 2 * int(str(parameters["x"]))}

    cells: dict[str, Facts] = {"one": {"x": 1}, "two": {"x": 2}, "three": {"x": 3}}
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, cells, measure, MODULES, Quiet())
    assert ran == [1, 2, 3]
    cells["three"] = {"x": 4}
    progress = Quiet()
    results = compute(tmp_path, cells, measure, MODULES, progress)
    assert ran == [1, 2, 3, 4]
    assert results == {"one": {"twice": 2}, "two": {"twice": 4}, "three": {"twice": 8}}
    assert progress.said[-1] == "three: 3 of 3 cells are there"
    compute(tmp_path, cells, measure, (*MODULES, "pars_vllm.order"), progress)  # other code
    assert ran == [1, 2, 3, 4, 1, 2, 4]


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"code": 1}'])
def test_what_is_not_a_cell_is_computed_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "one.json").write_text(content)
    results = compute(tmp_path, {"one": {"x": 1}}, lambda _: {"y": 2}, MODULES, Quiet())
    assert results == {"one": {"y": 2}}
    assert json.loads((tmp_path / "one.json").read_text())["parameters"] == {"x": 1}


def test_the_digest_is_of_the_source() -> None:
    assert source_digest(MODULES) == source_digest(MODULES)
    assert source_digest(MODULES) != source_digest(("pars_vllm.order",))
    with pytest.raises(ModuleNotFoundError):
        source_digest(("pars_vllm.no_such_module",))


def test_interval_of_a_mean_by_hand() -> None:
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / math.sqrt(3))
    assert math.isnan(mean_interval([1.0])[1])
    assert interval_text([1.0, 2.0, 3.0], 1) == "2.0 ± 2.5"
    assert interval_text([1.25]) == "1.25"
