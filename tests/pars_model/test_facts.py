"""A ranker that reads facts known at arrival beside the text, from the table to the predictor."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pars_export import Predictor
from pars_export.calibration import Calibration
from pars_export.errors import ConfigError, InputError
from pars_export.export import export_checkpoint
from pars_export.facts import Facts, standardise
from pars_model.checkpoint import load_ranker
from pars_model.cli import main
from pars_model.datamodule import PromptLengthDataModule
from pars_model.evaluate import evaluate
from pars_model.lengths import read_lengths, require_pairs
from pars_model.module import ResponseLengthRanker
from pars_model.writing import writer_of

if TYPE_CHECKING:
    from tests.pars_model.conftest import MakeTable

CONFIG = Path(__file__).parents[2] / "configs" / "default.yaml"


def told_by_tokens(prompts: int, **columns: object) -> list[dict[str, Any]]:
    """Prompts that say nothing of the answer, whose length follows the prompt's tokens."""
    rng = random.Random(0)
    rows = []
    for number in range(prompts):
        tokens = rng.choice([10, 40, 160, 640])
        length = max(1, round(tokens * rng.lognormvariate(0, 0.2)))
        text = f"write a story about the {rng.choice(['moon', 'sea'])} {number}"
        row = {"prompt": text, "response_tokens": length, "prompt_tokens": tokens, "model": "tiny"}
        rows.append({**row, **columns})
    return rows


def test_columns_become_facts_of_items(make_table: MakeTable) -> None:
    rows = [
        {"prompt": "a", "response_tokens": 5, "sample": 0, "max_tokens": 64, "reasoning": True},
        {"prompt": "a", "response_tokens": 7, "sample": 1, "prompt_tokens": 3},
        {"prompt": "b", "response_tokens": 2, "max_tokens": -1, "tools": [{"name": "f"}]},
    ]
    table = read_lengths(make_table(rows))
    nan = float("nan")
    expected = {
        "prompt_tokens": [3, nan],
        "max_tokens": [64, nan],
        "structured": [nan, nan],
        "tools": [0, 1],
        "reasoning": [1, nan],
    }
    assert table.facts.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(table.facts[name], values, name)
    assert table.select(np.array([False, True])).facts["tools"].tolist() == [1]
    assert len(table.notes) == 1
    assert "1 of 3 rows hold in the column max_tokens what is no number of tokens" in table.notes[0]


def items_of(make_table: MakeTable, name: str, values: Sequence[object]) -> list[list[int]]:
    """The lengths of each item of one prompt's rows, the row at place n having length n."""
    rows = [{"prompt": "a", "response_tokens": at, name: each} for at, each in enumerate(values)]
    table = read_lengths(make_table([*rows, {"prompt": "b", "response_tokens": 9}]))
    return [table.samples_of(item)[0].astype(int).tolist() for item in range(len(table) - 1)]


@pytest.mark.parametrize(
    ("name", "values", "items"),
    [
        ("reasoning", [True, False, True], [[0, 2], [1]]),
        ("structured", [True, None, True], [[0, 1, 2]]),
        ("reasoning", [None, False, True, None], [[0, 3], [1], [2]]),
        ("tools", [[{"name": "f"}], None, []], [[1, 2]]),
        ("max_tokens", [2048, 16, 2048, 16], [[0, 2], [1, 3]]),
        ("max_tokens", [2048, 1990, None, 2101], [[0, 1, 2, 3]]),
        ("prompt_tokens", [40, 41, 4000, 39], [[0, 1, 3], [2]]),
        ("max_tokens", [100, 120, 140, 160], [[0, 1], [2, 3]]),
    ],
)
def test_rows_of_one_prompt_that_differ_in_a_fact_are_different_items(
    make_table: MakeTable, name: str, values: list[object], items: list[list[int]]
) -> None:
    found = items_of(make_table, name, values)
    if name == "tools":  # they are part of the text, so of another prompt
        assert sorted(found) == [[0], [1, 2]]
    else:
        assert found == items
        assert sorted(items_of(make_table, name, values[::-1])) == sorted(
            sorted(len(values) - 1 - at for at in item) for item in items
        )


def thinking(prompts: int) -> list[dict[str, Any]]:
    """Each prompt measured with thinking on and off, which is all that tells of the length."""
    rng = random.Random(0)
    return [
        {
            "prompt": f"write a list about the {rng.choice(['moon', 'sea'])} {number}",
            "response_tokens": round((2000 if thinks else 20) * rng.lognormvariate(0, 0.1)),
            "reasoning": thinks,
            "model": "tiny",
        }
        for number in range(prompts)
        for thinks in (False, True)
    ]


def test_what_a_fact_changes_of_a_prompt_is_learned(
    encoder: Path, make_table: MakeTable, tmp_path: Path
) -> None:
    table = make_table(thinking(120))
    lengths = read_lengths(table)
    assert len(lengths) == 240
    assert lengths.length.max() > 1000 > 100 > lengths.length.min()
    assert ((lengths.length > 100) == (lengths.facts["reasoning"] == 1)).all()
    more = ("--model.facts", "[reasoning]", "--trainer.max_epochs", 3)
    ranker = fit(encoder, table, tmp_path / "run", *more)
    text = ["write a list about the sea 3"] * 2
    facts = [Facts(reasoning=False), Facts(reasoning=True)]
    short, long = ranker.score(text, facts)
    assert short < long
    judged: dict[str, Any] = evaluate(ranker, table, "test", resamples=5)
    assert judged["cells"][0]["prompts"] == judged["prompts"]
    assert judged["cells"][0]["pair_accuracy"]["value"] > 0.7, "all but pairs that think alike"
    calibration = Calibration.from_json(ranker.calibration)
    expected = calibration.expected_tokens(np.array([short, long]))
    assert expected[0] < 1000 < expected[1], "each item's score stands for its own responses"


def test_responses_are_those_of_their_own_items(make_table: MakeTable) -> None:
    rows = thinking(3)
    data = PromptLengthDataModule(str(make_table([*rows, {**rows[1], "response_tokens": 7}])))
    data.table = read_lengths(data.path)
    place, length, censored = data.responses(np.array([2, 1]))
    assert place.tolist() == [1, 1, 0]
    assert length.tolist() == [rows[1]["response_tokens"], 7, rows[2]["response_tokens"]]
    assert not censored.any()


def test_one_prompt_under_several_facts_cannot_be_compared(make_table: MakeTable) -> None:
    table = read_lengths(make_table(thinking(1)))
    assert len(table) == 2
    with pytest.raises(InputError, match="every LLM and config has a single prompt"):
        require_pairs(table, "lengths.jsonl")


def capped(prompts: int) -> list[dict[str, Any]]:
    """Answers of 300 tokens and more, half of them cut off at a cap of 16."""
    rng = random.Random(0)
    rows = []
    for number in range(prompts):
        cap = (16, 2048)[number % 2]
        length = min(cap, round(400 * rng.lognormvariate(0, 0.1)))
        text = f"write a story about the {rng.choice(['moon', 'sea'])} {number}"
        row = {"prompt": text, "response_tokens": length, "max_tokens": cap, "model": "tiny"}
        rows.append({**row, "finish_reason": "length" if length == cap else "stop"})
    return rows


def test_where_caps_are_read_answers_end_at_them(make_table: MakeTable) -> None:
    def row(prompt: str, length: int, cap: int | None, end: str | None) -> dict[str, Any]:
        row = {"prompt": prompt, "response_tokens": length, "max_tokens": cap}
        return {**row, "finish_reason": end}

    rows = [
        *(row("at its cap", 16, 16, end) for end in ("length", None, "stop")),
        row("cut off before", 12, 16, "length"),
        row("no cap", 40, None, "length"),
        row("none, in logs", 40, 0, "length"),
        *(row("two caps", length, cap, "length") for length, cap in ((16, 16), (300, 300))),
        *(row("about one cap", length, length, "length") for length in (100, 101, 102)),
    ]
    path = make_table(rows)
    bounds = [True, True, True, True, True, True, True]
    assert read_lengths(path).censored.tolist() == bounds
    assert read_lengths(path, ["prompt_tokens", "reasoning"]).censored.tolist() == bounds
    table = read_lengths(path, ["prompt_tokens", "max_tokens"])
    assert table.censored.tolist() == [False, True, True, True, False, False, False]
    assert table.sample_censored.tolist() == [False] * 3 + [True] * 3 + [False] * 5
    assert table.length.tolist() == [16, 12, 40, 40, 16, 300, 101]
    assert np.isnan(table.facts["max_tokens"]).tolist() == [False] * 2 + [True] * 2 + [False] * 3
    (note,) = table.notes
    assert "7 of 11 answers reached their max_tokens, which the ranker reads" in note


def test_a_smaller_cap_makes_an_answer_shorter(
    encoder: Path, make_table: MakeTable, tmp_path: Path
) -> None:
    table = make_table(capped(200))
    more = ("--model.facts", "[max_tokens]", "--trainer.max_epochs", 3, "--data.val_fraction", 0.3)
    ranker = fit(encoder, table, tmp_path / "run", *more)
    texts = ["write a story about the sea 3"] * 2
    small, large = ranker.score(texts, [Facts(max_tokens=16), Facts(max_tokens=2048)])
    assert small < large
    judged: dict[str, Any] = evaluate(ranker, table, "test", resamples=5)
    assert judged["cells"][0]["cut_off"] == 0
    assert judged["cells"][0]["pair_accuracy"]["value"] > 0.7
    assert any("count as ended there" in note for note in judged["notes"])
    expected = Calibration.from_json(ranker.calibration).expected_tokens([small, large])
    assert expected[0] < 300 < expected[1]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_list_of_tools_written_as_text_may_be_empty(tmp_path: Path, suffix: str) -> None:
    offered = [json.dumps([{"name": "f"}]), "[]", " [ ] ", None]
    rows = [
        {"prompt": f"p{number}", "response_tokens": 5 + number, "tools": tools}
        for number, tools in enumerate(offered)
    ]
    path = tmp_path / f"lengths.{suffix}"
    writer_of(path)(path, rows)
    assert read_lengths(path).facts["tools"].tolist() == [1, 0, 0, 0]


def fit(encoder: Path, table: Path, root: Path, *more: object) -> ResponseLengthRanker:
    arguments: list[object] = ["fit", "--config", CONFIG, "--data.path", table]
    arguments += ["--model.encoder", encoder, "--trainer.default_root_dir", root]
    arguments += ["--trainer.accelerator", "cpu", "--model.max_length", 32]
    arguments += ["--trainer.max_epochs", 8, "--data.batch_size", 16, "--model.head_lr", 1e-2]
    arguments += ["--model.prior", "none"]  # these lengths hang on facts and made-up words
    assert main([str(each) for each in (*arguments, *more)]) == 0
    return load_ranker(root / "best.ckpt")


def test_facts_go_all_the_way(
    encoder: Path, make_table: MakeTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(told_by_tokens(160))
    blind = fit(encoder, table, tmp_path / "blind")
    ranker = fit(encoder, table, tmp_path / "run", "--model.facts", "[prompt_tokens, tools]")
    assert ranker.reads == ("prompt_tokens", "tools")
    assert ranker.fact_spec is not None
    usual = np.log1p([10, 40, 160, 640]).mean()
    assert ranker.fact_spec.facts[0].mean == pytest.approx(usual, abs=0.3)
    assert ranker.fact_spec.facts[1].scale == 0, "the table tells nothing of tools"
    judged: dict[str, Any] = evaluate(ranker, table, "test", resamples=5)
    assert judged["tau"] > 0.6
    without: dict[str, Any] = evaluate(blind, table, "test", resamples=5)
    assert without["tau"] < judged["tau"] - 0.15

    export_checkpoint(tmp_path / "run" / "best.ckpt", tmp_path / "predictor")
    predictor = Predictor.load(tmp_path / "predictor")
    assert predictor.reads == ranker.reads
    texts = ["write a story about the sea 1"] * 4
    facts = [Facts(prompt_tokens=n) for n in (10, 40, 160)]
    scores = predictor.score(texts, [*facts, Facts()])
    assert scores[0] < scores[1] < scores[2], "more tokens, longer answers"
    assert scores[0] < scores[3] < scores[2], "unknown stands between"
    np.testing.assert_allclose(ranker.score(texts, [*facts, Facts()]), scores, atol=1e-4)
    assert evaluate(predictor, table, "test", resamples=5)["tau"] == pytest.approx(judged["tau"])

    capsys.readouterr()
    best = str(tmp_path / "run" / "best.ckpt")
    root = ["--trainer.default_root_dir", str(tmp_path / "predict")]
    arguments = ["predict", "--config", str(CONFIG), "--data.path", str(table), *root]
    model = ["--model.encoder", str(encoder), "--model.facts", "[prompt_tokens, tools]"]
    model += ["--model.max_length", "32"]
    assert main([*arguments, *model, "--ckpt_path", best]) == 0
    predicted = (tmp_path / "predict" / "predictions.jsonl").read_text().splitlines()
    assert len(predicted) == 160


def test_some_facts_are_unknown_in_training_and_none_in_evaluation(encoder: Path) -> None:
    ranker = ResponseLengthRanker(str(encoder), facts=["prompt_tokens"], fact_dropout=0.5)
    torch.manual_seed(0)
    facts = torch.tensor([[1.5, 0.0]]).repeat(400, 1)
    found = ranker.train()._some_unknown(facts)
    gone = found[:, 1] == 1
    assert 150 < int(gone.sum()) < 250
    assert found[gone].unique().tolist() == [0, 1]
    assert torch.equal(found[~gone], facts[~gone])
    assert torch.equal(ranker.eval()._some_unknown(facts), facts)


def test_a_ranker_without_facts_has_the_weights_it_had(encoder: Path) -> None:
    plain = ResponseLengthRanker(str(encoder))
    assert not any("fact" in name for name in plain.state_dict())
    assert plain.reads == ()
    told = ResponseLengthRanker(str(encoder), facts=["tools", "prompt_tokens"])
    assert told.reads == ("prompt_tokens", "tools"), "in a fixed order"
    assert {n for n in told.state_dict() if "fact" in n} == {
        f"fact_head.{name}" for name in ("text.weight", "text.bias", "facts.weight", "out.weight")
    }
    with pytest.raises(ConfigError, match=r"model\.facts names 'length'"):
        ResponseLengthRanker(str(encoder), facts=["length"])
    with pytest.raises(ConfigError, match=r"model\.fact_dropout is 1"):
        ResponseLengthRanker(str(encoder), fact_dropout=1.0)


def test_one_prompt_of_several_llms_has_its_own_facts_and_scores(
    encoder: Path, make_table: MakeTable
) -> None:
    ranker = ResponseLengthRanker(str(encoder), facts=["prompt_tokens"]).eval()
    assert ranker.fact_head is not None
    torch.nn.init.ones_(ranker.fact_head.facts.weight)
    rows = [
        {"prompt": f"one {n}", "response_tokens": 9 + n, "model": llm, "prompt_tokens": tokens}
        for n in range(3)
        for llm, tokens in (("first", 5), ("second", 500))
    ]
    table = read_lengths(make_table(rows))
    ranker.fact_spec = standardise(["prompt_tokens"], table.facts)
    from pars_model.evaluate import scores_of

    scores = scores_of(ranker, table)
    assert len(set(scores.round(5).tolist())) == 6
    alone = ranker.score(["one 1"], [Facts(prompt_tokens=500)])
    item = (table.prompt == table.prompts.index("one 1")) & (table.facts["prompt_tokens"] == 500)
    np.testing.assert_allclose(scores[item], alone, atol=1e-5)
