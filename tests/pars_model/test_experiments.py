from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_export.errors import InputError
from pars_model.__main__ import main
from pars_model.experiments import cells, cli
from pars_model.experiments.cells import Cell, write_table
from pars_model.experiments.held_out import part_of
from pars_model.experiments.page import HEAD, Section, marks, table, write_section
from pars_model.experiments.registry import EXPERIMENTS
from pars_model.experiments.workbench import LeftOutError, Workbench
from pars_model.lengths import LengthTable, read_lengths

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeDataRoot, MakeRows

CELL = Cell("chat", "llm-1", "chat")
KINDS = Cell("kinds", "tiny", "Kinds, tiny")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    prompts = [f"question number {number}" for number in range(6)]
    pq.write_table(
        pa.table({"dataset": ["chat"] * 6, "prompt_id": list("abcdef"), "prompt": prompts}),
        root / "prompts.parquet",
    )
    rows = [
        {
            "dataset": "chat",
            "prompt_id": name,
            "model": f"llm-{llm}",
            "sample": sample,
            "length": 10 * (place + 1) + sample,
            "max_new_tokens": 60 if place == 5 else -1,
            "finish": "length" if place == 4 else None,
        }
        for place, name in enumerate("abcdef")
        for llm in (1, 2)
        for sample in (0, 1)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "lengths.parquet")
    return root


def test_a_cell_is_a_length_table_with_samples_and_cut_off_responses(
    data_root: Path, tmp_path: Path
) -> None:
    found = read_lengths(write_table(CELL, data_root, tmp_path / "tables"))
    assert [group.model for group in found.groups] == ["llm-1"]
    assert found.length.tolist() == [10.5, 20.5, 30.5, 40.5, 50.5, 60.5]
    assert found.censored.tolist() == [False, False, False, False, True, True]
    few = write_table(Cell("chat", "llm-2", "chat", prompts=2), data_root, tmp_path / "tables")
    assert len(read_lengths(few)) == 2


def test_another_data_root_makes_another_table(
    tmp_path: Path, make_rows: MakeRows, make_data_root: MakeDataRoot
) -> None:
    def tables(name: str, prompts: int) -> tuple[LengthTable, LengthTable]:
        if not (tmp_path / name).exists():
            make_data_root(tmp_path / name, make_rows(prompts))
        bench = Workbench("recipe", tmp_path / name, tmp_path / "out")
        return read_lengths(bench.table(KINDS)), read_lengths(part_of(bench, KINDS, 10))

    def sizes(found: tuple[LengthTable, LengthTable]) -> list[int]:
        return [len(table.prompts) for table in found]

    thirty, sixty = sizes(tables("first", 30)), sizes(tables("second", 60))
    assert (thirty[0], sixty[0]) == (30, 60)
    assert thirty[1] < sixty[1] < 60, "of 60 prompts, more choose and judge"
    assert sizes(tables("first", 30)) == thirty


def test_a_table_is_written_once_for_its_data_and_code(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    real = cells._write

    def write(cell: Cell, root: Path, path: Path) -> None:
        written.append(path)
        real(cell, root, path)

    monkeypatch.setattr(cells, "_write", write)
    path = write_table(CELL, data_root, tmp_path / "tables")
    first = path.read_bytes()
    assert write_table(CELL, data_root, tmp_path / "tables") == path
    assert len(written) == 1
    lengths = pq.read_table(data_root / "lengths.parquet")
    pq.write_table(lengths.slice(0, 20), data_root / "lengths.parquet")
    write_table(CELL, data_root, tmp_path / "tables")
    assert len(written) == 2
    assert path.read_bytes() != first
    pq.write_table(lengths, data_root / "lengths.parquet")
    write_table(CELL, data_root, tmp_path / "tables")
    assert path.read_bytes() == first, "what was kept of it still holds"
    monkeypatch.setattr(cells, "CODE", ("pars_model.lengths",))
    write_table(CELL, data_root, tmp_path / "tables")
    assert len(written) == 4


def test_an_interrupted_table_is_written_again(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    path = write_table(CELL, data_root, tmp_path / "tables")
    os.utime(data_root / "prompts.parquet", ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(cells, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_table(CELL, data_root, tmp_path / "tables")
    path.write_bytes(b"old")
    assert len(read_lengths(write_table(CELL, data_root, tmp_path / "tables"))) == 6


def write_answers(root: Path, rows: list[tuple[str, str, str, str, int]]) -> Path:
    """Data set, prompt id, prompt, LLM and length of each answer, as the folder of real lengths."""
    root.mkdir()
    names = ("dataset", "prompt_id", "prompt", "model", "length")
    answers = [
        {**dict(zip(names, row, strict=True)), "sample": 0, "max_new_tokens": -1, "finish": None}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(answers).select(names[:3]), root / "prompts.parquet")
    pq.write_table(pa.Table.from_pylist(answers).drop_columns(["prompt"]), root / "lengths.parquet")
    return root


def test_a_text_under_two_ids_is_no_repeated_sample(tmp_path: Path) -> None:
    rows = [
        ("chat", "1", "one text", "llm", 10),
        ("chat", "1", "one text", "llm", 14),
        ("chat", "2", "one text", "llm", 90),
        ("chat", "3", "another", "llm", 20),
    ]
    root = write_answers(tmp_path / "data", rows)
    found = read_lengths(write_table(Cell("chat", "llm", ""), root, tmp_path / "tables"))
    assert found.prompts == ("one text", "another")
    assert found.sample_length.tolist() == [10, 14, 20]


def test_a_cell_takes_other_hosts_as_samples_and_other_data_sets_as_prompts(tmp_path: Path) -> None:
    rows = [
        ("chat", "1", "one text", "llm@here", 10),
        ("chat", "1", "one text", "llm@there", 14),
        ("maths", "1", "a sum", "llm@here", 5),
        ("maths", "2", "one text", "llm@here", 70),
        ("maths", "3", "another sum", "llm-2", 6),
    ]
    root = write_answers(tmp_path / "data", rows)
    cell = Cell("chat", "llm@here", "", hosts=("llm@there",), more=("maths",))
    found = read_lengths(write_table(cell, root, tmp_path / "tables"))
    assert [group.model for group in found.groups] == ["llm@here"]
    assert found.prompts == ("one text", "a sum")
    assert [found.datasets[number] for number in found.dataset] == ["chat", "maths"]
    assert found.sample_length.tolist() == [10, 14, 5]
    assert cell.slug != Cell("chat", "llm@here", "").slug


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (Cell("chat", "llm-3", ""), "no lengths of llm-3 on chat, which has LLMs llm-1, llm-2"),
        (Cell("code", "llm-1", ""), "no lengths of llm-1 on code, which is not there"),
    ],
)
def test_a_cell_that_is_not_in_the_data_is_refused(
    cell: Cell, sentence: str, data_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        write_table(cell, data_root, tmp_path / "tables")


def test_a_result_is_kept_until_settings_data_or_code_change(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, object]:
        calls.append(1)
        return {"tau": len(calls)}

    def ask(**changed: object) -> object:
        bench = Workbench("objectives", tmp_path, tmp_path / "out")
        settings = {"lr": changed.get("lr", 1.0)}
        code = ("pars_model.losses",) if changed.get("code") else ()
        return bench.kept("a fit", settings, compute, code, str(changed.get("data", "")))["tau"]

    assert [ask(), ask(), ask(lr=2.0), ask(data="other"), ask(code=True), ask()] == [
        1,
        1,
        2,
        3,
        4,
        1,
    ]


def test_what_is_left_out_is_not_computed_and_taken_where_it_is_kept(tmp_path: Path) -> None:
    bench = Workbench("objectives", tmp_path, tmp_path / "out", leave_out="6 layers|students?")
    with pytest.raises(LeftOutError, match="objectives needs fine-tune 6 layers, which is left"):
        bench.kept("fine-tune 6 layers", {}, lambda: {"tau": 1})
    assert bench.kept("fine-tune 2 layers", {}, lambda: {"tau": 2}) == {"tau": 2}
    assert bench.kept("fine-tune 6 layers", {}, lambda: {"tau": 1}) == {"tau": 2}


def test_minutes_count_each_result_once_and_those_of_a_shared_shelf(tmp_path: Path) -> None:
    def ask(experiment: str, times: int) -> Workbench:
        bench = Workbench(experiment, tmp_path, tmp_path / "out", threads=2)
        for _ in range(times):
            bench.kept("encode", {}, lambda: {"prompts": 1}, shelf="features")
        return bench

    first = ask("objectives", 1)
    (file,) = (tmp_path / "out").rglob("*.json")
    kept = json.loads(file.read_text())
    assert first.minutes == kept["seconds"] / 60
    again = ask("filter", 2)
    assert again.minutes == first.minutes
    assert again.machines == first.machines == {kept["machine"]}
    assert kept["machine"].endswith("cores, 2 used")


def test_an_interrupted_result_is_computed_again_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    bench = Workbench("objectives", tmp_path, tmp_path / "out")

    def interrupted() -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.kept("a fit", {}, interrupted)
    assert bench.kept("a fit", {}, lambda: {"tau": 1}) == {"tau": 1}
    (file,) = (tmp_path / "out").rglob("*.json")
    assert json.loads(file.read_text())["seconds"] >= 0
    file.write_text("{}")
    with pytest.raises(InputError, match=f"{file.name} is no result"):
        bench.kept("a fit", {}, lambda: {"tau": 1})


def test_a_section_is_written_in_its_place_and_leaves_the_others(tmp_path: Path) -> None:
    page = tmp_path / "ranking.md"
    first, second = list(EXPERIMENTS)[:2]
    picture = {"tau.svg": lambda path: path.write_text("<svg/>") and None}
    write_section(page, second, Section("Second", ["two"]), 3.0)
    page.write_text(page.read_text() + "\nBy hand.\n")
    write_section(page, first, Section("First", ["one"], picture, {"tau.svg": "tau"}), 2.0)
    write_section(page, second, Section("Second", ["two again"]), 4.0)
    text = page.read_text()
    assert text.startswith(HEAD)
    assert text.index(marks(first)[1]) < text.index(marks(second)[0])
    assert "two again" in text
    assert "\ntwo\n" not in text
    assert "By hand." in text
    command = f"pars experiment {first} --data-root DATA --markdown docs/results/ranking.md"
    assert f"Made by `{command}`; 2 minutes" in text
    assert "![tau](ranking/tau.svg)" in text
    assert (tmp_path / "ranking" / "tau.svg").is_file()
    page.write_text(text.replace(marks(first)[1], ""))
    with pytest.raises(InputError, match="once each"):
        write_section(page, first, Section("First", []), 1.0)


def test_the_page_s_head_promises_no_more_than_its_sections_hold() -> None:
    text = (Path(__file__).parents[2] / "docs" / "results" / "ranking.md").read_text()
    assert text.startswith(HEAD)
    assert "chosen by those prompts either, but where a section says so" in HEAD.replace("\n", " ")
    assert "but was chosen by them" in text


def test_the_page_sums_up_what_its_sections_say_in_short(tmp_path: Path) -> None:
    page = tmp_path / "ranking.md"
    rows = [["n-gram ridge", "0.600 [0.5, 0.7]"], ["MiniLM, 2 layers", "0.645 [0.6, 0.7]"]]
    write_section(page, "objectives", Section("First", ["one"], short="Loss: little."), 1.0)
    frontier = Section("Frontier", [table(["predictor", "tau"], rows)])
    write_section(page, "frontier", frontier, 1.0)
    write_section(page, "objectives", Section("First", ["one"], short="Loss: less."), 1.0)
    above, _, below = page.read_text().partition(marks("objectives")[0])
    assert above.startswith(HEAD)
    assert above.count("\n- ") == 2
    assert (
        "- Loss: less.\n- Encoder, fine-tuned (frontier): tau less the n-gram ridge's is +0.045 "
        in above
    )
    assert "**In short.** Loss: less." in below


def test_the_command_on_the_page_has_the_options_that_are_not_default(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    given = ["frontier", "--seeds", "5", "--leave-out", "6 layers", "--out", str(tmp_path)]
    assert cli._options(parser.parse_args(given)) == " --seeds 5 --leave-out '6 layers'"
    assert cli._options(parser.parse_args(["frontier", "--seeds", "3"])) == ""


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in EXPERIMENTS)


def test_a_missing_data_root_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "nowhere"
    arguments = ["experiment", "objectives", "--data-root", str(root), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert f"{root / 'prompts.parquet'} does not exist" in capsys.readouterr().err


def test_the_data_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "objectives"]) != 0
    assert "pars experiment objectives needs --data-root" in capsys.readouterr().err
