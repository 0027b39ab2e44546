from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pars_export import artifact
from pars_export.artifact import (
    Manifest,
    folder_sha256,
    predictor_folder,
    read_manifest,
    write_predictor,
)
from pars_export.errors import PredictorError
from pars_export.facts import FactSpec, Standard
from pars_export.inputs import InputSpec
from pars_export.table import write_length_predictor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "predictor"
    manifest = Manifest(
        kind="encoder",
        input=InputSpec(77, "head_tail"),
        engines={"torch": {"file": "weights.bin"}},
        training={"rows": 3},
    )
    write_predictor(path, manifest, {"weights.bin": b"\0" * 100, "config.json": "{}"})
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "predictor.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_what_is_written_is_read_and_files_are_hashed(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.input == InputSpec(77, "head_tail")
    assert manifest.training == {"rows": 3}
    entry = manifest.files["weights.bin"]
    assert (entry.bytes, entry.sha256) == (100, hashlib.sha256(b"\0" * 100).hexdigest())
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_folder_is_of_the_oldest_format_that_has_its_keys() -> None:
    facts = FactSpec((Standard("tools", 0.5, 1.0),))
    plain, half = Manifest(kind="encoder"), Manifest(kind="encoder", ngrams="n.safetensors")
    found = [plain, replace(plain, facts=facts), half, replace(half, facts=facts)]
    found.append(Manifest(kind="student"))
    assert [each.to_json()["format_version"] for each in found] == [2, 3, 5, 5, 5]
    assert [("ngrams" in each.to_json()) for each in found] == [False, False, True, True, False]


def test_the_same_content_has_the_same_pin_and_any_other_another(
    folder: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(folder)
    files: dict[str, Path | str] = {"weights.bin": folder / "weights.bin", "config.json": "{}"}
    write_predictor(tmp_path / "again", manifest, files)
    assert folder_sha256(tmp_path / "again") == folder_sha256(folder)
    write_predictor(tmp_path / "other", manifest, files | {"config.json": "{ }"})
    assert folder_sha256(tmp_path / "other") != folder_sha256(folder)


def test_pin(folder: Path) -> None:
    assert read_manifest(folder, sha256=folder_sha256(folder).upper()).kind == "encoder"
    with pytest.raises(PredictorError, match=r"not the 00 that is pinned"):
        read_manifest(folder, sha256="00")


def test_a_changed_byte_names_the_file(folder: Path) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[50] ^= 1
    (folder / "weights.bin").write_bytes(content)
    with pytest.raises(PredictorError, match=r"weights\.bin: its content has changed"):
        read_manifest(folder)
    assert read_manifest(folder, check_hashes=False).kind == "encoder"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "weights.bin").unlink(), r"weights\.bin: this file .* is missing"),
        (lambda f: (f / "weights.bin").write_bytes(b"x"), r"has 1 bytes instead of 100"),
        (lambda f: (f / "predictor.json").unlink(), r"holds no file predictor\.json"),
        (lambda f: (f / "predictor.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "predictor.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda f: (f / "predictor.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda f: (f / "predictor.json").write_text('{"a": NaN}'), "NaN is no JSON number"),
        (lambda f: (f / "predictor.json").write_text("[]"), "it is no predictor"),
        (lambda f: (f / "predictor.json").write_text("{}"), "it is no predictor"),
        (shutil.rmtree, "there is no such predictor folder"),
    ],
)
def test_damage(folder: Path, damage: Callable[[Path], object], sentence: str) -> None:
    damage(folder)
    with pytest.raises(PredictorError, match=sentence):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(format_version=6), r"format version 6, .* reads up to 5"),
        (lambda m: m.update(format_version="1"), "format_version is '1'"),
        (lambda m: m.update(format_version=True), "format_version is True"),
        (lambda m: m.update(format="gguf"), "it is no predictor"),
        (lambda m: m.update(extra=1), "'extra' is unknown in format version 2"),
        (lambda m: m.pop("files"), "'files' is missing"),
        (lambda m: m.update(kind="pickle"), "kind is 'pickle'"),
        (lambda m: m.update(kind=3), "kind must be text"),
        (lambda m: m["input"].update(text="v9"), "input.text is 'v9'"),
        (lambda m: m["input"].update(more=1), "input must hold"),
        (lambda m: m["input"].update(max_length=2), "max_length is 2"),
        (lambda m: m["input"].update(max_length="8"), "whole number"),
        (lambda m: m["input"].update(truncation="tail"), "truncation is 'tail'"),
        (lambda m: m.update(engines=[]), "engines must be an object"),
        (lambda m: m["engines"]["torch"].update(file="other"), "which files does not list"),
        (lambda m: m.update(ngrams="config.json"), "'ngrams' is unknown in format version 2"),
        (
            lambda m: m.update(format_version=3, ngrams="config.json"),
            "'ngrams' is unknown in format version 3",
        ),
        (
            lambda m: m.update(format_version=5, ngrams="other"),
            "ngrams is 'other', which files does not list",
        ),
        (lambda m: m.update(format_version=5, ngrams=None), "ngrams must be text, found None"),
        (
            lambda m: m.update(format_version=5, kind="student", ngrams="config.json"),
            "of kind 'student' has no n-gram half",
        ),
        (
            lambda m: m.update(format_version=4, ngrams="config.json"),
            r"version 4, whose arrays \(\.npz\) are no longer read; make the predictor again",
        ),
        (
            lambda m: m.update(kind="student"),
            r"version 2, whose arrays \(\.npz\) are no longer read; make the predictor again",
        ),
        (lambda m: m["files"].update({"../x": {}}), "only plain file names"),
        (lambda m: m["files"].update({"/etc/passwd": {}}), "only plain file names"),
        (lambda m: m["files"].update({"a/b": {}}), "only plain file names"),
        (lambda m: m["files"].update({".hidden": {}}), "only plain file names"),
        (lambda m: m["files"].update({"x": {"sha256": "0", "bytes": 1}}), "a sha256 in hex"),
        (lambda m: m["files"]["weights.bin"].update(bytes=-1), "size in bytes"),
        (lambda m: m.update(calibration={"scores": [1], "tokens": [1]}), "two or more"),
    ],
)
def test_an_edited_manifest(
    folder: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    edit(folder, change)
    with pytest.raises(PredictorError, match=sentence) as caught:
        read_manifest(folder)
    assert str(folder / "predictor.json") in str(caught.value)


def test_links_are_refused_but_the_folder_itself_may_be_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert read_manifest(tmp_path / "current").kind == "encoder"
    outside = tmp_path / "outside.bin"
    shutil.move(folder / "weights.bin", outside)
    (folder / "weights.bin").symlink_to(outside)
    with pytest.raises(PredictorError, match="a symbolic link"):
        read_manifest(folder)


def test_a_folder_is_replaced_where_a_link_leads(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(folder)
    write_length_predictor(link)
    assert link.is_symlink()
    assert read_manifest(folder).kind == "length"
    assert not list(tmp_path.glob(".*")), "nothing half-written beside the link"


def test_a_file_is_no_predictor(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").write_text("x", encoding="utf-8")
    with pytest.raises(PredictorError, match="a predictor is a folder"):
        read_manifest(tmp_path / "best.ckpt")
    with pytest.raises(PredictorError, match="this is a file"):
        write_length_predictor(tmp_path / "best.ckpt")


def test_an_older_predictor_is_replaced_but_nothing_else_ever(folder: Path) -> None:
    write_length_predictor(folder)
    assert read_manifest(folder).kind == "length"
    assert names(folder) == ["predictor.json"]
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(PredictorError, match=r"holds 'thesis\.tex', which is no part"):
        write_length_predictor(folder)
    assert (folder / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_files_can_be_read_by_others(folder: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("call", ["rename", "second rename", "rmtree"])
def test_a_signal_while_folders_change_places_leaves_one_of_them_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = folder_sha256(folder)
    left = {"rename": 1, "second rename": 2, "rmtree": 0}[call]
    rename, rmtree = os.rename, shutil.rmtree

    def renamed(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise SystemExit(143)
        rename(source, target)

    def removed(path: Path, ignore_errors: bool = False) -> None:
        nonlocal call
        if call == "rmtree":
            call = ""
            raise SystemExit(143)
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(shutil, "rmtree", removed)
    replaced = call == "rmtree"
    with pytest.raises(SystemExit):
        write_predictor(folder, Manifest(kind="table"), {"table.json": "{}"})
    monkeypatch.undo()
    assert names(folder.parent) == ["predictor"]
    assert (folder_sha256(folder) == before) is not replaced
    assert read_manifest(folder).kind == ("table" if replaced else "encoder")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_older_one_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    before = folder_sha256(folder)
    wrote: list[Path] = []

    def fail(path: Path) -> str:
        wrote.append(path)
        raise failure

    monkeypatch.setattr(artifact, "sha256_file", fail)
    with pytest.raises(type(failure)):
        write_predictor(folder, Manifest(kind="table"), {"table.json": "{}"})
    monkeypatch.undo()
    assert wrote
    assert names(folder.parent) == ["predictor"]
    assert folder_sha256(folder) == before
    assert read_manifest(folder).kind == "encoder"


def test_an_interrupted_first_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with predictor_folder(tmp_path / "new") as temporary:
            (temporary / "half").write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
