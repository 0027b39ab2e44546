"""A real fit's checkpoint finds its table again, and is exported on what it did not learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from pars_export import build
from pars_export.artifact import MANIFEST, Manifest, read_manifest
from pars_export.build import add_engines
from pars_export.export import export_checkpoint
from pars_export.parity import PROMPTS, Parity, measure
from pars_model.__main__ import main
from pars_model.checkpoint import load_ranker
from pars_model.fitted_table import prompts_of_fit
from pars_model.lengths import read_lengths, split_prompts

CONFIG = Path(__file__).parents[2] / "configs" / "default.yaml"
SHIPPED = {"shipped": PROMPTS}


@pytest.fixture(scope="module")
def fitted(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of lengths.jsonl, and of the best.ckpt of a fit that was given a relative path."""
    from tests.pars_model.conftest import rows_of, write_jsonl

    folder = tmp_path_factory.mktemp("fitted")
    write_jsonl(folder / "lengths.jsonl", rows_of(300))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["fit", "--config", str(CONFIG), "--data.path", "lengths.jsonl"]
        arguments += ["--model.encoder", str(encoder), "--model.max_length", "32"]
        arguments += ["--trainer.max_epochs", "1", "--trainer.default_root_dir", "."]
        assert main([*arguments, "--trainer.accelerator", "cpu"]) == 0
    return folder


@pytest.fixture
def checkpoint(fitted: Path) -> Path:
    return fitted / "best.ckpt"


@pytest.fixture
def aside(fitted: Path) -> Iterator[Path]:
    """The table under another name; it is put back afterwards."""
    table, aside = fitted / "lengths.jsonl", fitted / "aside.jsonl"
    table.rename(aside)
    yield aside
    aside.replace(table)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts on which engines were compared."""
    found: list[str] = []

    def spy(*args: Any, **more: Any) -> Parity:
        found.extend(cast("Sequence[str]", args[4]))
        return measure(*args, **more)

    monkeypatch.setattr(build, "measure", spy)
    return found


def _parts(table: Path) -> tuple[set[str], set[str]]:
    """Prompts held out of a fit, and those that it learned from."""
    found = read_lengths(table)
    learned = split_prompts(found) == "train"
    texts = np.array(found.prompts)
    return set(texts[~learned].tolist()), set(texts[learned].tolist())


def _compared_on(manifest: Manifest) -> object:
    return manifest.engines["onnx"]["compared_on"]


def test_an_export_compares_on_what_the_fit_did_not_learn_from(
    fitted: Path,
    checkpoint: Path,
    tmp_path: Path,
    compared: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "p"
    assert main(["export", str(checkpoint), "--out", str(out), "--to", "onnx-bf16"]) == 0
    held_out, learned = _parts(fitted / "lengths.jsonl")
    assert 40 < len(held_out) < 100
    assert held_out < set(compared)
    assert not learned & set(compared)
    counts = {"table": len(held_out), "shipped": PROMPTS - len(held_out)}
    for name in ("onnx", "onnx-bf16"):
        engine: Any = read_manifest(out).engines[name]
        assert engine["compared_on"] == counts
        assert engine["parity"]["prompts"] == PROMPTS
    told = f"compared on {len(held_out)} of the table that it was fitted on, "
    assert told in capsys.readouterr().out
    assert not caplog.records


def go_on(fitted: Path, encoder: Path, table: Path, root: Path) -> int:
    """Go on with the fit's last.ckpt, with one epoch more and its files in ``root``."""
    arguments = ["fit", "--config", str(CONFIG), "--data.path", str(table)]
    arguments += ["--model.encoder", str(encoder), "--model.max_length", "32"]
    arguments += ["--trainer.max_epochs", "2", "--trainer.default_root_dir", str(root)]
    arguments += ["--trainer.accelerator", "cpu", "--ckpt_path", str(fitted / "last.ckpt")]
    return main(arguments)


def test_a_fit_with_other_shares_of_the_split_is_not_gone_on_with(
    fitted: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(fitted / "last.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"]["val_fraction"] = 0.2
    torch.save(content, tmp_path / "last.ckpt")
    assert go_on(tmp_path, encoder, fitted / "lengths.jsonl", tmp_path / "run") == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "--ckpt_path" in each]
    assert "is of a fit with data.val_fraction 0.2, and it is 0.1 now" in line


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "from before it was noted"])
def test_a_fit_on_another_table_is_not_gone_on_with(
    fitted: Path,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    noted: bool,
) -> None:
    from tests.pars_model.conftest import rows_of, write_jsonl

    other = write_jsonl(tmp_path / "other.jsonl", rows_of(60, seed=1))
    content = torch.load(fitted / "last.ckpt", weights_only=True)
    if not noted:
        content["datamodule_hyper_parameters"].pop("table_sha256", None)
    torch.save(content, tmp_path / "last.ckpt")
    assert go_on(tmp_path, encoder, other, tmp_path / "run") == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "--ckpt_path" in each]
    assert f"{tmp_path / 'last.ckpt'} is of a fit on {fitted / 'lengths.jsonl'} with" in line
    assert f"but data.path is {other} with sha256" in line
    assert not (tmp_path / "run" / "best.ckpt").exists()


def test_a_fit_goes_on_with_its_table_elsewhere(
    fitted: Path, encoder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((fitted / "lengths.jsonl").read_bytes())
    assert go_on(fitted, encoder, moved, tmp_path / "run") == 0
    assert load_ranker(tmp_path / "run" / "best.ckpt").training_summary["epochs"] == 2


def test_a_checkpoint_is_judged_on_any_table(
    fitted: Path, encoder: Path, tmp_path: Path, table: Path
) -> None:
    arguments = ["test", "--config", str(CONFIG), "--data.path", str(table)]
    arguments += ["--model.encoder", str(encoder), "--trainer.default_root_dir", str(tmp_path)]
    arguments += ["--trainer.accelerator", "cpu", "--ckpt_path", str(fitted / "last.ckpt")]
    assert main(arguments) == 0


def test_engines_are_made_by_what_the_fit_learned_from(fitted: Path, checkpoint: Path) -> None:
    prompts = prompts_of_fit(checkpoint, load_ranker(checkpoint))
    assert prompts is not None
    assert prompts.made_by.counts == {"table": 128}
    assert set(prompts.made_by.texts) < _parts(fitted / "lengths.jsonl")[1]
    again = prompts_of_fit(checkpoint, load_ranker(checkpoint))
    assert again == prompts


def test_the_folder_holds_no_path_and_no_prompt(
    fitted: Path, checkpoint: Path, tmp_path: Path
) -> None:
    export_checkpoint(checkpoint, tmp_path / "p")
    assert str(fitted).encode() in checkpoint.read_bytes()
    held_out, learned = _parts(fitted / "lengths.jsonl")
    for file in (tmp_path / "p").iterdir():
        assert str(fitted).encode() not in file.read_bytes()
    manifest = (tmp_path / "p" / MANIFEST).read_text()
    assert not any(text in manifest for text in (*held_out, *learned))


def test_a_table_that_is_gone_is_told_and_replaced_by_what_ships(
    checkpoint: Path, aside: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = export_checkpoint(checkpoint, tmp_path / "p")
    assert _compared_on(manifest) == SHIPPED
    (message,) = caplog.messages
    assert message == (
        f"{aside.with_name('lengths.jsonl')}, the length table of the fit, is gone: engines are "
        "compared on prompts that ship with this package; name others by --texts."
    )


def test_a_table_that_changed_is_told_and_replaced_by_what_ships(
    checkpoint: Path, aside: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aside.with_name("lengths.jsonl").write_bytes(aside.read_bytes() + b"\n")
    manifest = export_checkpoint(checkpoint, tmp_path / "p")
    assert _compared_on(manifest) == SHIPPED
    (message,) = caplog.messages
    assert "lengths.jsonl has changed since the fit" in message


def test_a_table_that_cannot_be_read_is_no_reason_to_refuse(
    checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pars_model.fitted_table.sha256_file", refused)
    assert _compared_on(export_checkpoint(checkpoint, tmp_path / "p")) == SHIPPED
    assert "the length table of the fit, cannot be read (" in caplog.text


def test_a_folder_that_cannot_be_entered_is_no_reason_to_refuse(
    fitted: Path,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranker, real = load_ranker(checkpoint), Path.is_file

    def is_file(path: Path) -> bool:
        if path.name == "lengths.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert prompts_of_fit(checkpoint, ranker) is None
    (message,) = caplog.messages
    assert "lengths.jsonl, the length table of the fit, cannot be read ([Errno 13]" in message
    assert message.endswith(
        "compared on prompts that ship with this package; name others by --texts."
    )


def test_a_checkpoint_in_the_format_that_cannot_be_mapped_says_where_its_table_is(
    checkpoint: Path, tmp_path: Path
) -> None:
    legacy = tmp_path / "legacy.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    found = prompts_of_fit(legacy, load_ranker(legacy))
    assert found is not None
    assert found == prompts_of_fit(checkpoint, load_ranker(checkpoint))


def test_a_checkpoint_from_before_tables_were_noted(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["datamodule_hyper_parameters"]
    torch.save(content, tmp_path / "old.ckpt")
    assert _compared_on(export_checkpoint(tmp_path / "old.ckpt", tmp_path / "p")) == SHIPPED
    (message,) = caplog.messages
    assert "old.ckpt does not say where the length table of its fit is" in message


def test_prompts_that_are_given_come_before_the_table(
    checkpoint: Path,
    aside: Path,
    tmp_path: Path,
    compared: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"say {number}\n" for number in range(628)))
    out = tmp_path / "p"
    assert main(["export", str(checkpoint), "--out", str(out), "--texts", str(texts)]) == 0
    assert _compared_on(read_manifest(out)) == {"given": PROMPTS}
    assert all(text.startswith("say ") for text in compared)
    assert not caplog.records, "a table that is gone is not missed"


def test_a_folder_knows_no_table(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p"
    export_checkpoint(checkpoint, out)
    assert main(["export", str(out), "--to", "onnx-bf16"]) == 0
    assert capsys.readouterr().out.startswith("compared on 500 that ship with this package\n")
    engines = read_manifest(out).engines
    assert engines["onnx"]["compared_on"] == engines["onnx-bf16"]["compared_on"] == SHIPPED
    manifest = add_engines(out, [], [f"say {number}" for number in range(628)])
    assert _compared_on(manifest) == {"given": PROMPTS}
    assert manifest.engines["onnx-bf16"]["compared_on"] == SHIPPED, "as when it was written"


def test_of_a_table_too_small_to_split_nothing_is_compared_on(checkpoint: Path) -> None:
    data = load_ranker(checkpoint).training_summary["data"]
    ranker: Any = SimpleNamespace(training_summary={"data": {**data, "trained_on_all": True}})
    prompts = prompts_of_fit(checkpoint, ranker)
    assert prompts is not None
    assert prompts.compared_on.counts == SHIPPED
    assert prompts.made_by.counts == {"table": 128}
