"""pars evaluate: the right prompts, the right cells, and what stands beside a tau."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pars_export import Predictor
from pars_export.errors import ConfigError, InputError, ParsError
from pars_export.files import sha256_file
from pars_export.table import write_length_predictor, write_table_predictor
from pars_model import evaluate as module
from pars_model.calibration import fit_calibration
from pars_model.evaluate import evaluate, load_scorer
from pars_model.evaluation_text import render
from pars_model.lengths import hash_split, text_fraction

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeRows, MakeTable


class Constant:
    """Scores by a function of the text."""

    def __init__(self, of: Callable[[str], float]) -> None:
        self.of = of
        self.seen: list[str] = []

    def score(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        self.seen += texts
        return np.array([self.of(text) for text in texts], dtype=np.float32)


def number_of(text: str) -> float:
    return float(text.split()[-1])


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "prompt": f"{dataset} {n}",
            "response_tokens": int(n * 10 * math.exp(0.3 * rng.normal())) + 1,
            "model": model,
            "dataset": dataset,
            "split": "test" if n % 2 else "train",
        }
        for dataset in ("chat", "code")
        for model in ("big", "small")
        for n in range(1, 41)
        for _ in range(3)
    ]


def test_cells_and_mixed_traffic(make_table: MakeTable, rows: list[dict[str, Any]]) -> None:
    result: dict[str, Any] = evaluate(Constant(number_of), make_table(rows), resamples=50)
    assert result["split"] == "test"
    assert result["split_from"] == "table"
    assert result["prompts"] == 40
    cells = {(cell["dataset"], cell["llm"]): cell for cell in result["cells"]}
    assert set(cells) == {(d, m) for d in ("chat", "code") for m in ("big", "small")}
    for cell in cells.values():
        assert cell["prompts"] == 20
        assert cell["tau"]["low"] < cell["tau"]["value"] < cell["tau"]["high"]
        # The scores know the level that reruns share, so they beat one run of the LLM.
        assert cell["ceiling_rerun"]["value"] < cell["ceiling_median"]["value"] + 0.05
        assert 0.5 < cell["ceiling_rerun"]["value"] < cell["tau"]["value"] + 0.05
    assert [cell["llm"] for cell in result["mixed"]] == ["big", "small"]
    assert all(cell["prompts"] == 40 for cell in result["mixed"])
    assert result["tau"] == result["mixed"][0]["tau"]["value"]
    assert result["of"] == {"llm": "big", "config": ""}
    json.dumps(result, allow_nan=False)
    text = render(result)
    assert "test prompts (the table's own split), 40" in text
    assert "all 2" in text


@pytest.mark.parametrize(("split", "prompts"), [("train", 40), ("test", 40), ("all", 80)])
def test_only_prompts_of_the_split_are_scored(
    make_table: MakeTable, rows: list[dict[str, Any]], split: str, prompts: int
) -> None:
    scorer = Constant(number_of)
    rows = [{**row, "split": row["split"].replace("val", "train")} for row in rows]
    # No validation rows: pars fit would take some of the training prompts, and so do we.
    result: dict[str, Any] = evaluate(scorer, make_table(rows), split, resamples=5)
    assert len(scorer.seen) == len(set(scorer.seen)) == result["prompts"]
    assert result["prompts"] == prompts if split != "train" else 25 < result["prompts"] < 40


def test_a_table_without_a_split_is_judged_on_all_of_it(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    path = make_table(make_rows(80))
    scorer = Constant(len)
    assert evaluate(scorer, path, resamples=5)["split"] == "all"
    assert len(scorer.seen) == 80
    held_out: dict[str, Any] = evaluate(scorer, path, "test", resamples=5)
    assert held_out["split_from"] == "hash"
    assert held_out["prompts"] < 30
    assert "no split" in render(evaluate(scorer, path, resamples=5))


def test_the_ceiling_of_greedy_answers_is_taken_from_the_samples(
    make_table: MakeTable,
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": f"p {n}", "response_tokens": n + int(rng.integers(9)), "config": config}
        for n in range(30)
        for config in ("greedy", "warm", "warm")
    ]
    result: dict[str, Any] = evaluate(Constant(number_of), make_table(rows), resamples=5)
    assert result["of"]["config"] == "greedy"
    assert result["mixed"][0]["ceiling_rerun"] is None
    rerun = result["mixed"][1]["ceiling_rerun"]
    assert result["ceiling"] == rerun["value"] > 0.7
    assert result["ceiling_interval"] == [rerun["low"], rerun["high"]]
    assert result["ceiling_config"] == "warm"  # not the config that tau is of: it is said


def test_unknown_prompts_are_left_out_and_counted(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    path = make_table(make_rows(40))
    half = Constant(lambda text: number_of(text) if number_of(text) % 2 else math.nan)
    result: dict[str, Any] = evaluate(half, path, resamples=5)
    assert (result["prompts"], result["unknown"]) == (20, 20)
    assert "20 unknown to the predictor" in render(result)
    with pytest.raises(InputError, match="knows none of the prompts"):
        evaluate(Constant(lambda _: math.nan), path)


def test_a_cell_without_a_comparable_pair_has_no_tau(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    same = [
        {"prompt": f"q {n}", "response_tokens": 5, "model": "flat", "dataset": "d"}
        for n in range(4)
    ]
    result: dict[str, Any] = evaluate(
        Constant(len), make_table([*make_rows(30), *same]), resamples=5
    )
    flat = next(cell for cell in result["cells"] if cell["dataset"] == "d")
    assert flat["tau"] is None
    shown = render(result)
    assert "Of the prompts judged: 1 of 2 LLMs and configs (flat)" in shown
    assert "rest on fewer than 30 prompts" not in shown
    few: dict[str, Any] = evaluate(Constant(len), make_table(make_rows(29)), "all", resamples=5)
    assert "1 of 1 rows (tiny) rest on fewer than 30 prompts" in render(few)
    with pytest.raises(InputError, match="equal or cut off"):
        evaluate(Constant(len), make_table(same))


def test_rows_of_many_prompts_and_few_known_lengths_are_named(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    rows = [
        {**row, "model": "m", "dataset": "d", "finish_reason": "stop" if number < 29 else "length"}
        for number, row in enumerate(make_rows(60))
    ]

    def notes() -> str:
        return str(evaluate(Constant(len), make_table(rows), "all", resamples=5)["notes"])

    assert "1 of 1 rows (m on d) rest on fewer than 30 prompts whose lengths are known" in notes()
    rows[29]["finish_reason"] = "stop"
    assert "rest on fewer" not in notes()


def test_the_oracle_has_tau_one_and_prompt_length_has_little(
    tmp_path: Path,
    make_table: MakeTable,
    make_rows: MakeRows,
) -> None:
    rows = make_rows(60)
    path = make_table(rows)
    write_table_predictor(
        tmp_path / "oracle", {row["prompt"]: row["response_tokens"] for row in rows}
    )
    write_length_predictor(tmp_path / "length")
    assert evaluate(load_scorer(tmp_path / "oracle"), path, resamples=5)["tau"] == 1
    length: dict[str, Any] = evaluate(load_scorer(tmp_path / "length"), path, resamples=5)
    assert length["tau"] < 0.6


def run(*args: object) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([*map(str, args), "--resamples", "5"]))


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path,
    make_table: MakeTable,
    make_rows: MakeRows,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_length_predictor(tmp_path / "length")
    out = tmp_path / "deep" / "out.json"
    assert run(tmp_path / "length", "--data", make_table(make_rows(30)), "--json", out) == 0
    assert "pair accuracy" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["predictor"] == str(tmp_path / "length")
    assert -1 <= result["tau"] <= 1


class Calibrated(Constant):
    """With the calibration that a fit would have given its scores."""

    def __init__(self, of: Callable[[str], float], lengths: Sequence[float]) -> None:
        super().__init__(of)
        scores = [math.log(length) for length in lengths]
        self.calibration = fit_calibration(scores, lengths)


def test_tokens_are_held_against_what_came(
    tmp_path: Path, make_table: MakeTable, rows: list[dict[str, Any]]
) -> None:
    # Fitted to lengths without noise, the intervals are far too narrow for these.
    scorer = Calibrated(lambda text: math.log(10 * number_of(text)), range(10, 401))
    result: dict[str, Any] = evaluate(scorer, make_table(rows), resamples=20)
    found = result["mixed"][0]["reliability"]
    assert found["tokens_ratio"]["low"] < found["tokens_ratio"]["value"] < 1.05
    assert found["coverage"]["90%"]["high"] < 0.6
    assert "of the intervals 50% holds" in render(result)
    assert "reliability" not in result["cells"][0]
    json.dumps(result, allow_nan=False)
    from pars_model.evaluation_text import reliabilities
    from pars_model.reliability import write_plots

    for path in write_plots(tmp_path / "plots", reliabilities(result)):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_no_quantiles_no_plots(tmp_path: Path, make_table: MakeTable, make_rows: MakeRows) -> None:
    write_length_predictor(tmp_path / "length")
    with pytest.raises(InputError, match="tells no quantiles of tokens"):
        run(tmp_path / "length", "--data", make_table(make_rows(30)), "--plots", tmp_path)


@pytest.mark.parametrize("predictor", ["none", "text.ckpt", "folder"])
def test_what_is_no_predictor_is_refused(
    tmp_path: Path,
    make_table: MakeTable,
    make_rows: MakeRows,
    predictor: str,
) -> None:
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ParsError):
        run(tmp_path / predictor, "--data", make_table(make_rows(5)))


class Fitted:
    """A ranker that was fitted by the column split of its table, or as it is told."""

    def __init__(self, **data: object) -> None:
        self.training_summary = {"data": data or {"split_column": True}}
        self.calibration = None
        self.seen: list[str] = []

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen += texts
        return np.array([len(text) for text in texts], dtype=np.float32)


def test_a_fit_by_a_column_split_is_not_judged_by_another(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    path = make_table(make_rows(40))
    with pytest.raises(InputError, match=r"has no column split, .* add the column, or .* all"):
        evaluate(Fitted(), path, resamples=5)
    judged: dict[str, Any] = evaluate(Fitted(), path, "all", resamples=5)
    assert judged["prompts"] == 40
    assert "which of these prompts it was trained on is unknown" in judged["notes"][0]
    split = make_table([{**row, "split": "test"} for row in make_rows(40)], "split.jsonl")
    assert evaluate(Fitted(), split, resamples=5)["split_from"] == "table"


HASHED = {"split_column": False, "val_fraction": 0.1, "test_fraction": 0.2}


def marked(rows: list[dict[str, Any]], every: int = 3) -> list[dict[str, Any]]:
    """Rows whose column split is no hash: of every few prompts one is for the test, one for val."""
    names = {0: "test", 1: "val"}
    return [{**row, "split": names.get(n % every, "train")} for n, row in enumerate(rows)]


def test_a_fit_by_the_hash_is_judged_on_no_training_prompt_of_its(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    path = make_table(marked(make_rows(300)))
    for split, share in (("test", 0.2), ("val", 0.3)):
        scorer = Fitted(**HASHED)
        result: dict[str, Any] = evaluate(scorer, path, split, resamples=5)
        assert result["split_from"] == "table"
        assert 10 <= result["prompts"] < 45
        assert all(text_fraction(text) < share for text in scorer.seen)
        left = 100 - result["prompts"]
        assert f"{left} of the 100 {split} prompts of the column split are left out: " in str(
            result["notes"]
        )
    train: dict[str, Any] = evaluate(Fitted(**HASHED), path, "train", resamples=5)
    assert train["prompts"] == 100
    everything: dict[str, Any] = evaluate(Fitted(**HASHED), path, "all", resamples=5)
    assert everything["prompts"] == 300
    (note,) = everything["notes"]
    assert (
        "of these 300 prompts are, by the hash of its fit, of those that the predictor was" in note
    )


def test_a_column_that_agrees_with_the_hash_is_judged_in_silence(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    plain = make_rows(300)
    names = hash_split([row["prompt"] for row in plain], 0.1, 0.2).tolist()
    rows = [{**row, "split": name} for row, name in zip(plain, names, strict=True)]
    for split in ("test", "val"):
        judged: dict[str, Any] = evaluate(Fitted(**HASHED), make_table(rows), split, resamples=5)
        assert judged["prompts"] == names.count(split)
        assert not [note for note in judged["notes"] if "left out" in note]


def test_too_few_prompts_that_the_hash_kept_are_refused(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    path = make_table(marked(make_rows(60)))
    with pytest.raises(
        InputError, match=r"names 20 prompts test, .* keeps \d of them unseen, .* --split all"
    ) as caught:
        evaluate(Fitted(**HASHED), path, resamples=5)
    assert "\n" not in str(caught.value)
    assert evaluate(Fitted(**HASHED), path, "all", resamples=5)["prompts"] == 60


def test_the_table_of_a_fit_on_all_prompts_is_refused(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    path, other = make_table(make_rows(300)), make_table(make_rows(300, seed=1), "other.jsonl")
    summary = {**HASHED, "trained_on_all": True, "table_sha256": sha256_file(path)}
    with pytest.raises(InputError, match=r"trained on all of its prompts, so none are unseen"):
        evaluate(Fitted(**summary), path, resamples=5)
    judged: dict[str, Any] = evaluate(Fitted(**summary), path, "all", resamples=5)
    assert "300 of these 300 prompts" in judged["notes"][0]
    apart: dict[str, Any] = evaluate(Fitted(**summary), other, resamples=5)
    assert "trained on all prompts of its table: those judged" in apart["notes"][0]


def test_what_the_default_predictor_learned_from_is_told(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    predictor = Predictor.default()

    def notes(name: str, *of: str) -> str:
        rows = [
            row for n, dataset in enumerate(of) for row in make_rows(30, seed=n, dataset=dataset)
        ]
        for number, row in enumerate(rows):
            row["prompt"] += f" {number}"
        return str(evaluate(predictor, make_table(rows, name), resamples=5)["notes"])

    named = notes("a.jsonl", "MMLU-Pro", "mine")
    assert "30 of the 60 prompts judged are of data sets named like those that the predict" in named
    assert "(MMLU-Pro)" in named
    assert "(gsm8k)" in notes("b.jsonl", "gsm8k")
    assert "60 of the 60 prompts judged are of no named data set: they may be of" in notes(
        "c.jsonl", "", ""
    )
    assert notes("d.jsonl", "mine", "k") == "[]"


def test_one_prompt_has_no_tau_whatever_its_facts(
    make_table: MakeTable, make_rows: MakeRows
) -> None:
    rows = [{**row, "dataset": "many"} for row in make_rows(12)]
    for reasoning, tokens in ((False, 20), (True, 2000)):
        alone = {"prompt": "2 + 2?", "response_tokens": tokens, "model": "tiny", "dataset": "one"}
        rows.append({**alone, "reasoning": reasoning})
    table = make_table([{**row, "model": "tiny", "tokenizer": ""} for row in rows])
    found: dict[str, Any] = evaluate(Predictor.default(), table, resamples=5)
    (cell,) = [each for each in found["cells"] if each["dataset"] == "one"]
    assert (cell["prompts"], cell["tau"]) == (1, None)


def test_a_predictor_of_unknown_origin_is_told(
    tmp_path: Path, make_table: MakeTable, make_rows: MakeRows
) -> None:
    path = make_table(make_rows(40))
    unknown = "Nothing is known of what the predictor was trained on"
    assert unknown in str(evaluate(Constant(len), path, resamples=5)["notes"])
    write_length_predictor(tmp_path / "length")
    length = evaluate(load_scorer(tmp_path / "length"), path, resamples=5)
    assert unknown not in str(length["notes"]), "the length of a prompt is not learned"


def test_an_empty_split_is_refused(make_table: MakeTable, make_rows: MakeRows) -> None:
    path = make_table([{**row, "split": "train"} for row in make_rows(10)])
    with pytest.raises(InputError, match="no prompts of split test"):
        evaluate(Constant(len), path)


def test_threads_that_are_none_are_refused_before_a_checkpoint_is_read(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").write_bytes(b"not read")
    for threads in (0, -1):
        with pytest.raises(ConfigError, match=f"threads is {threads}; it must be a whole number"):
            load_scorer(tmp_path / "best.ckpt", threads)
