from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pars_export import InputError, Predictor, PredictorError
from pars_export.artifact import read_manifest
from pars_export.inputs import InputSpec
from pars_export.parity import PROMPTS, builtin_texts
from pars_export.runtimes.arrays import read_arrays
from pars_export.table import write_table_predictor
from pars_model import student_folder
from pars_model.__main__ import main
from pars_model.course import Course
from pars_model.distil import distil
from pars_model.evaluate import evaluate
from pars_model.experiments.hollow import hollow_out
from pars_model.lengths import read_lengths, split_prompts, text_fraction
from pars_model.splice import splice
from pars_model.student import StudentShape, int8_rows
from pars_model.student_fit import Recipe, _Told, predict

KINDS = {"word": 1.0, "list": 2.0, "story": 3.0}
SMALL = Recipe(
    spec=InputSpec(16, "head_tail"),
    shape=StudentShape(vocabulary=200, buckets=256, width=16, channels=16, neurons=16),
    course=Course(epochs=8, lr=0.02, batch_size=32),
    dropout=0.05,
)
TAU = 0.5
"""Well above chance."""
Table = Callable[..., Path]
Rows = Callable[..., list[dict[str, object]]]


class Teacher:
    """Knows the kind of answer that a prompt names."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def score(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        self.asked |= set(texts)
        found = [next((v for k, v in KINDS.items() if k in text), 0.0) for text in texts]
        return np.array(found, dtype=np.float32)


class Telling(Teacher):
    """Shows beside its score which kinds a prompt names."""

    def scores_and_vectors(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        named = [[float(kind in text) for kind in KINDS] for text in texts]
        return np.column_stack([self.score(texts), named]).astype(np.float32)


@pytest.fixture
def lengths(make_table: Table, make_rows: Rows) -> Path:
    return make_table(make_rows(400))


def test_a_student_learns_what_its_teacher_knows(lengths: Path, tmp_path: Path) -> None:
    teacher, out = Teacher(), tmp_path / "student"
    manifest = distil(teacher, lengths, out, SMALL)
    metrics = manifest.metrics
    assert float(str(metrics["teacher_tau"])) > 0.7
    assert float(str(metrics["tau"])) > TAU, "the teacher's own has ties, which tau-b rewards"
    predictor = Predictor.load(out)
    texts = [f"write a {kind} of ten" for kind in KINDS]
    assert (np.diff(predictor.score(texts)) > 0).all()
    assert (np.diff(predictor.expected_tokens(texts)) > 0).all()
    judged = evaluate(predictor, lengths, resamples=10)
    assert judged["split"] == "test"
    assert float(str(judged["tau"])) > TAU
    hollow = hollow_out(out, tmp_path / "hollow")
    assert read_arrays(hollow / "student.safetensors")["conv"].shape == (3, 1, 1)
    assert np.isfinite(Predictor.load(hollow).score(texts)).all()


def test_members_are_trained_apart(lengths: Path, tmp_path: Path) -> None:
    one = distil(Teacher(), lengths, tmp_path / "one", SMALL)
    two = distil(Teacher(), lengths, tmp_path / "two", replace(SMALL, members=2))
    assert float(str(two.metrics["tau"])) > TAU
    single, both = (read_arrays(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    assert set(both) == {*single, *(f"{name}.1" for name in single)}
    assert np.array_equal(both["token"], single["token"]), "the first is the one of its seed"
    assert not np.array_equal(both["token.1"], single["token"])
    told = [manifest.training["epoch_taus"] for manifest in (one, two)]
    assert len(told[1]) == 2 * len(told[0])  # type: ignore[arg-type]  # plain values
    assert Predictor.load(tmp_path / "two").score(["a story", ""]).shape == (2,)


def test_vectors_of_the_teacher_are_learned(lengths: Path, tmp_path: Path) -> None:
    teacher = Telling()
    manifest = distil(teacher, lengths, tmp_path / "student", SMALL)
    assert float(str(manifest.metrics["tau"])) > TAU
    assert set(KINDS) <= teacher.asked, "words by themselves, for the embeddings to begin with"
    out = tmp_path / "scores"
    untold = distil(Telling(), lengths, out, replace(SMALL, vector_weight=0.0))
    plain = distil(Teacher(), lengths, tmp_path / "plain", SMALL)
    again = distil(Telling(), lengths, tmp_path / "again", SMALL)
    name = "student.safetensors"
    assert again.files[name] == manifest.files[name], "one seed, one student"
    # What is thrown away does not ship.
    arrays = [read_arrays(folder / "student.safetensors") for folder in (out, tmp_path / "plain")]
    assert set(arrays[0]) == set(arrays[1])
    assert plain.metrics["teacher_tau"] == untold.metrics["teacher_tau"]


def test_the_vectors_reach_the_students_hidden_layer() -> None:
    torch.manual_seed(0)
    neurons = torch.randn(40, 8, requires_grad=True)
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype("f4")
    vectors[:, 4] = 1.7  # a constant, which float32's own mean misses
    told = _Told(vectors, np.arange(30), 8)
    distance = told.distance(neurons, torch.arange(40))
    distance.backward()
    assert 0.5 < distance.item() < 5
    assert neurons.grad is not None
    assert (neurons.grad.abs().sum(dim=1) > 0).all()


def test_what_is_kept_of_a_teacher_of_another_kind_is_refused(
    lengths: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.npz"
    distil(Teacher(), lengths, tmp_path / "student", SMALL, scores_file=kept)
    for more in ((), ["a story of its own"]):
        with pytest.raises(InputError, match=r"kept\.npz: its answers are not of the kind"):
            distil(Telling(), lengths, tmp_path / "student", SMALL, more, kept)


def test_test_prompts_are_never_read(lengths: Path, tmp_path: Path) -> None:
    table = read_lengths(lengths)
    held = {t for t, s in zip(table.prompts, split_prompts(table), strict=True) if s == "test"}
    more = [f"a story {number}" for number in range(50)]
    teacher = Teacher()
    manifest = distil(teacher, lengths, tmp_path / "student", SMALL, [*more, *held, *more])
    assert held
    assert not teacher.asked & held
    extra = teacher.asked - set(table.prompts)
    assert 25 < len(extra) < 50, "more texts are split by their hash too"
    data = manifest.training["data"]
    assert isinstance(data, dict)
    assert data["unlabelled"] == len(extra)


def test_held_out_prompts_are_not_made_again_by_splicing(
    make_table: Table, make_rows: Rows, tmp_path: Path
) -> None:
    rows = make_rows(400)
    texts = list(dict.fromkeys(str(row["prompt"]) for row in rows))
    held = {text for text in texts if text_fraction(text) < 0.2}
    starts, ends = zip(*(text.rsplit(" ", 1) for text in texts), strict=True)
    more = [f"{start} {end}" for start, end in zip(starts, reversed(ends), strict=True)]
    held |= {text for text in more if text_fraction(text) < 0.2}
    teacher = Teacher()
    distil(teacher, make_table(rows), tmp_path / "student", SMALL, more, None, 5000)
    asked_of_no_table = teacher.asked - set(texts)
    assert len(asked_of_no_table) > 100
    assert not asked_of_no_table & held


def test_spliced_prompts_are_of_training_prompts_alone(lengths: Path, tmp_path: Path) -> None:
    table = read_lengths(lengths)
    split = split_prompts(table)
    train = {t for t, s in zip(table.prompts, split, strict=True) if s == "train"}
    teacher = Teacher()
    manifest = distil(teacher, lengths, tmp_path / "student", SMALL, (), None, 300)
    made = teacher.asked - set(table.prompts)
    data = manifest.training["data"]
    assert isinstance(data, dict)
    assert data["spliced"] == len(made) > 50
    assert all(text_fraction(text) >= 0.2 for text in made)
    starts, ends = {text.split()[0] for text in train}, {text.split()[-1] for text in train}
    assert all(text.split()[0] in starts and text.split()[-1] in ends for text in made)
    assert float(str(manifest.metrics["tau"])) > TAU


class Trained(Teacher):
    """One whose fit noted how it split its table."""

    def __init__(self, **data: object) -> None:
        super().__init__()
        self.training_summary = {"data": data}


def marked(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows with a column split that is no hash."""
    names = {0: "test", 1: "val"}
    return [{**row, "split": names.get(n % 5, "train")} for n, row in enumerate(rows)]


def test_a_teacher_by_a_column_split_teaches_by_no_other(
    lengths: Path, make_table: Table, make_rows: Rows, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    with pytest.raises(
        InputError, match=r"no column split, and the teacher .* is unknown: add the column\."
    ):
        distil(Trained(split_column=True), lengths, out, SMALL)
    assert not out.exists()
    table = make_table(marked(make_rows(400)), "split.jsonl")
    manifest = distil(Trained(split_column=True), table, out, SMALL)
    data: Any = manifest.training["data"]
    assert data["split_column"]
    assert data["prompts"] == {"train": 240, "val": 80, "test": 80}


def test_what_a_teacher_by_the_hash_held_out_teaches_nothing(
    make_table: Table, make_rows: Rows, tmp_path: Path
) -> None:
    rows = marked(make_rows(600))
    column = {str(row["prompt"]): row["split"] for row in rows}
    more = [f"a story {number}" for number in range(50)]
    teacher = Trained(split_column=False, val_fraction=0.2, test_fraction=0.1)
    out, table = tmp_path / "student", make_table(rows)
    manifest = distil(teacher, table, out, SMALL, more, None, 300)
    # Asked of the validation prompts, to judge: those the teacher was not trained on.
    held = {text for text in column if text_fraction(text) < 0.1 or column[text] == "test"}
    assert not teacher.asked & held
    val = {text for text in teacher.asked & set(column) if text_fraction(text) < 0.3}
    assert {column[text] for text in val} == {"val", "train"}
    learned = teacher.asked - val
    assert all(text_fraction(text) >= 0.3 for text in learned)
    assert {column.get(text, "train") for text in learned} == {"train"}
    assert 20 < len(learned & set(more)) < 45
    data: Any = manifest.training["data"]
    assert data["prompts"]["val"] == len(val)
    assert data["spliced"] == len(learned - set(more) - set(column)) > 50
    student = Predictor.load(out)
    judged: dict[str, Any] = evaluate(student, table, "test", resamples=5)
    both = [text for text in column if text_fraction(text) < 0.1 and column[text] == "test"]
    assert judged["prompts"] == len(both)
    assert "left out" in str(judged["notes"])
    plain = make_table(make_rows(600), "plain.jsonl")
    assert "left out" not in str(evaluate(student, plain, resamples=5)["notes"])


def test_the_sources_of_a_teacher_are_those_of_its_student(lengths: Path, tmp_path: Path) -> None:
    manifest = distil(Predictor.default(), lengths, tmp_path / "student", SMALL)
    sources: Any = manifest.training["sources"]
    assert sources == Predictor.default().manifest.training["sources"]


def test_splices_are_new_each_once_and_the_same_by_seed() -> None:
    texts = ["Sort these:\n3 1 2", "Name a fruit", "Translate this text:\nHello there"]
    made = splice(texts, 200)
    assert len(made) == len(set(made)) > 5
    assert any(text == "Sort these:\nHello there" for text in made)
    assert made == splice(texts, 200)
    assert made != splice(texts, 200, seed=1)
    assert splice(texts, 0) == []


def test_a_student_is_compared_as_engines_are(
    lengths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared() -> dict[str, Any]:
        manifest = distil(Teacher(), lengths, tmp_path / "student", SMALL)
        parity: Any = manifest.engines["student"]["parity"]
        assert parity["odd"] == len(builtin_texts())
        assert parity["max_abs_diff"] <= parity["bound"]
        assert parity["tau"] >= parity["tau_bound"] == 0.99
        assert parity["batch_diff"] <= parity["batch_bound"]
        return dict(parity)

    assert compared()["prompts"] == PROMPTS, "few are filled up"
    monkeypatch.setattr(student_folder, "PROMPTS", 5)
    monkeypatch.setattr(student_folder, "_MOST", 20)
    assert compared()["prompts"] == 20, "of many some are taken"


def test_a_student_that_scores_otherwise_than_trained_is_not_written(
    lengths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_folder, "predict", lambda *given: -predict(*given))
    with pytest.raises(PredictorError, match=r"The student engine's scores differ .* allowed"):
        distil(Teacher(), lengths, tmp_path / "student", SMALL)
    assert not (tmp_path / "student").exists()


def test_the_command_and_what_it_keeps(
    lengths: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_lengths(lengths)
    scores = dict(zip(table.prompts, Teacher().score(table.prompts).tolist(), strict=True))
    write_table_predictor(tmp_path / "teacher", scores)
    (tmp_path / "more.jsonl").write_text(json.dumps({"prompt": table.prompts[0]}) + "\n")
    out, kept = tmp_path / "student", tmp_path / "kept.npz"
    command = ["distil", str(tmp_path / "teacher"), "--data", str(lengths), "--out", str(out)]
    options = ["--epochs", "1", "--vocabulary", "150", "--scores", str(kept)]
    options += ["--spliced", "0"]
    assert main([*command, *options, "--texts", str(tmp_path / "more.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"validation tau of \d+ prompts: \S+, the teacher's: \S+$", lines[0])
    assert lines[-1] == str(out)
    assert kept.is_file()
    manifest = read_manifest(out)
    assert manifest.kind == "student"
    assert set(manifest.files) == {"student.safetensors", "tokenizer.json"}


def test_a_teacher_that_kept_no_validation_prompts_is_told_to_know_them(
    lengths: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_lengths(lengths)
    scores = dict(zip(table.prompts, Teacher().score(table.prompts).tolist(), strict=True))
    folder = tmp_path / "teacher"
    write_table_predictor(folder, scores)
    manifest = json.loads((folder / "predictor.json").read_text())
    manifest["training"] = {"data": {"val_fraction": 0.0, "test_fraction": 0.1}}
    (folder / "predictor.json").write_text(json.dumps(manifest))
    options = ["--epochs", "1", "--vocabulary", "150", "--spliced", "0"]
    command = ["distil", str(folder), "--data", str(lengths), "--out", str(tmp_path / "student")]
    assert main([*command, *options]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(", which has learned from these prompts")


def test_a_teacher_that_does_not_know_the_prompts(lengths: Path, tmp_path: Path) -> None:
    write_table_predictor(tmp_path / "teacher", {"another": 3.0})
    with pytest.raises(InputError, match="The teacher does not know"):
        distil(Predictor.load(tmp_path / "teacher"), lengths, tmp_path / "student", SMALL)
    assert not (tmp_path / "student").exists()


def test_a_folder_of_something_else_is_left_alone(lengths: Path, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "mine.txt").write_text("mine")
    with pytest.raises(PredictorError, match=r"mine\.txt"):
        distil(Teacher(), lengths, tmp_path / "student", SMALL)


def test_a_table_without_validation_prompts(
    make_table: Table, make_rows: Rows, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"\(split val\)"):
        distil(Teacher(), make_table(make_rows(4)), tmp_path / "student", SMALL)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [("--epochs=0", "--epochs is 0"), ("--vocabulary=3", "--vocabulary is 3")],
)
def test_options_out_of_range(
    lengths: Path, option: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distil", "t", "--data", str(lengths), "--out", "o", option]) == 2
    assert sentence in capsys.readouterr().err


def test_int8_rows_are_off_by_half_a_step_at_most() -> None:
    table = np.random.default_rng(0).normal(size=(50, 8)).astype("f4")
    table[0] = 0
    table[1:20] *= np.logspace(-9, 3, 19, dtype="f4")[:, None]
    rows, scale = int8_rows(table)
    assert (rows.dtype.name, scale.dtype.name) == ("int8", "float16")
    step = scale.astype("f4")
    # 2 to the -24 is float16's own smallest step.
    assert (np.abs(rows * step - table) <= step * 0.5001 + 127 * 2.0**-25).all()
