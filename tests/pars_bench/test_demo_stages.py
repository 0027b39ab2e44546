"""Stages run once; what changed runs again; a failed stage is not remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from pars_bench.demo.stages import Ledger


class Stage:
    """Writes its output and counts how often."""

    def __init__(self, output: Path) -> None:
        self.output, self.runs = output, 0

    def __call__(self) -> None:
        self.runs += 1
        self.output.write_text("made")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "output")


def run(folder: Path, stage: Stage, *inputs: object) -> Ledger:
    ledger = Ledger(folder / "stages.json", say=lambda _: None)
    ledger.run("stage", inputs, [stage.output], stage)
    return ledger


def test_an_unchanged_stage_is_kept(tmp_path: Path, stage: Stage) -> None:
    source = tmp_path / "input"
    source.write_text("a")
    run(tmp_path, stage, source, 1)
    ledger = run(tmp_path, stage, source, 1)
    assert stage.runs == 1
    assert [done.kept for done in ledger.done] == [True]
    assert "(kept)" in ledger.summary()


def test_a_changed_input_or_a_lost_output_runs_it_again(tmp_path: Path, stage: Stage) -> None:
    source = tmp_path / "input"
    source.write_text("a")
    run(tmp_path, stage, source, 1)
    run(tmp_path, stage, source, 2)
    source.write_text("b")
    run(tmp_path, stage, source, 2)
    stage.output.unlink()
    run(tmp_path, stage, source, 2)
    assert stage.runs == 4


def test_a_folder_counts_by_its_content(tmp_path: Path, stage: Stage) -> None:
    source = tmp_path / "folder"
    source.mkdir()
    (source / "file").write_text("a")
    run(tmp_path, stage, source)
    (source / "file").write_text("b")
    run(tmp_path, stage, source)
    assert stage.runs == 2


def test_a_failed_stage_is_run_again(tmp_path: Path, stage: Stage) -> None:
    def fail() -> None:
        stage.output.write_text("half")
        raise RuntimeError

    ledger = Ledger(tmp_path / "stages.json", say=lambda _: None)
    with pytest.raises(RuntimeError):
        ledger.run("stage", [1], [stage.output], fail)
    run(tmp_path, stage, 1)
    assert stage.output.read_text() == "made"


def test_a_cut_ledger_means_everything_runs_again(tmp_path: Path, stage: Stage) -> None:
    run(tmp_path, stage, 1)
    (tmp_path / "stages.json").write_text('{"stage": {"dig')
    run(tmp_path, stage, 1)
    assert stage.runs == 2
