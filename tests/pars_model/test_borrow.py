from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_model.__main__ import main
from pars_model.borrow import SHARED, Floats, Ints, answers_to, borrowed, lenders
from pars_model.lengths import LengthTable, read_lengths, split_prompts, text_fraction
from pars_model.metrics import kendall_tau
from pars_model.writing import writer_of

TRUE = np.random.default_rng(0).permutation(200) / 20.0
"""How long an answer each of 200 prompts asks for, in log tokens."""
WHOLE = np.zeros(len(TRUE), dtype=np.bool_)


def noisy(seed: int, noise: float = 1.5) -> Floats:
    rng = np.random.default_rng(seed)
    lengths: Floats = np.ceil(np.exp(TRUE / 3 + noise * rng.standard_normal(len(TRUE))) * 20)
    return lengths


def tau(whose: Ints, own: Floats) -> float:
    """How well the lengths that were given order what the prompts ask for."""
    return kendall_tau(own[whose], TRUE, WHOLE)


def test_others_take_noise_out_of_an_order() -> None:
    own, others = noisy(1), np.array([noisy(seed) for seed in range(2, 12)])
    taus = [tau(borrowed(own, WHOLE, others, weight), own) for weight in (1.0, 0.5, 0.0)]
    assert taus[0] == pytest.approx(kendall_tau(own, TRUE, WHOLE))
    assert taus[0] + 0.1 < taus[1] < taus[2]


def test_a_whole_weight_changes_nothing() -> None:
    own = noisy(1)
    cut_off = own > np.quantile(own, 0.9)
    whose = borrowed(own, cut_off, noisy(2)[None], 1.0)
    np.testing.assert_array_equal(whose, np.arange(len(own)))


def test_units_and_scales_of_others_mean_nothing() -> None:
    own, others = noisy(1), np.array([noisy(2), noisy(3)])
    found = borrowed(own, WHOLE, others)
    np.testing.assert_array_equal(found, borrowed(own, WHOLE, others**2 + 5))


def test_equal_places_get_one_length() -> None:
    own, other = noisy(1), np.floor(TRUE)
    found = own[borrowed(own, WHOLE, other[None], 0.0)]
    assert all(len(set(found[other == value])) == 1 for value in set(other))


def test_what_fewer_others_tell_goes_to_the_middle_and_by_how_far_they_agree() -> None:
    own = noisy(1)

    def spread(noise: float) -> float:
        """Of lengths of prompts that no other knows, as a share of that of the others' prompts."""
        others = np.array([noisy(seed, noise) for seed in range(2, 12)])
        others[:, :100] = np.nan
        found = np.log(own[borrowed(own, WHOLE, others, 0.0)])
        return float(np.std(found[:100]) / np.std(found[100:]))

    assert spread(50.0) < spread(0.5) < 1


def test_a_weight_near_one_changes_hardly_anything() -> None:
    own, others = noisy(1), np.array([noisy(seed) for seed in range(2, 7)])
    others[:, :100] = np.nan
    found = own[borrowed(own, WHOLE, others, 1 - 1e-9)]
    np.testing.assert_array_equal(found, own)


def test_of_equal_lengths_one_that_was_cut_off_is_the_longer() -> None:
    own, other = noisy(1), noisy(2)
    top = np.sort(own)[-40]
    own[own > top] = top
    cut_off = np.zeros(len(own), dtype=np.bool_)
    cut_off[np.flatnonzero(own == top)[::2]] = True
    found = borrowed(own, cut_off, other[None], 1 - 1e-9)
    np.testing.assert_array_equal(cut_off[found], cut_off)


def test_too_few_or_equal_answers_lend_nothing() -> None:
    own, few, same = noisy(1), noisy(2), np.full(len(TRUE), 225.0)
    few[SHARED - 1 :] = np.nan
    same[:50] = np.nan
    others = np.array([few, same])
    assert lenders(others).shape == (0, len(own))
    np.testing.assert_array_equal(borrowed(own, WHOLE, others, 0.0), np.arange(len(own)))
    assert len(lenders(np.vstack([others, noisy(3)]))) == 1


def test_equal_lengths_stay() -> None:
    own = np.full(len(TRUE), 7.0)
    found = borrowed(own, WHOLE, noisy(2)[None], 0.0)
    np.testing.assert_array_equal(found, np.arange(len(own)))


Rows = list[dict[str, object]]


def rows(llms: int = 6, **more: object) -> Rows:
    return [
        {
            "prompt": f"question {number}",
            "response_tokens": int(length),
            "model": f"llm-{llm}",
            "dataset": "exam",
            **more,
        }
        for llm in range(llms)
        for number, length in enumerate(noisy(llm))
    ]


def written(path: Path, found: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(found), path)
    return path


def borrow(path: Path, *more: str) -> LengthTable:
    out = path.with_name(f"labelled{path.suffix}")
    assert main(["borrow", str(path), "--llm", "llm-0", "--out", str(out), *more]) == 0
    return read_lengths(out)


def lengths_of(table: LengthTable, group: int = 0) -> dict[tuple[str, str], float]:
    return {
        (table.prompts[prompt], table.datasets[dataset]): length
        for prompt, dataset, mine, length in zip(
            table.prompt.tolist(),
            table.dataset.tolist(),
            table.group.tolist(),
            table.length.tolist(),
            strict=True,
        )
        if mine == group
    }


def test_a_table_is_labelled_where_it_is_learned_from_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant: Rows = [{**row, "model": "null", "response_tokens": 225} for row in rows(1)]
    path = written(tmp_path / "all.parquet", [*rows(), *constant])
    before, after = read_lengths(path), borrow(path)
    assert [str(group) for group in after.groups] == ["llm-0"]
    split = dict(zip(before.prompts, split_prompts(before).tolist(), strict=True))
    assert split == dict(zip(after.prompts, after.split.tolist(), strict=True))
    own, new = lengths_of(before), lengths_of(after)
    assert new.keys() == own.keys()
    held_back = {key for key in own if split[key[0]] != "train"}
    assert held_back
    assert all(new[key] == own[key] for key in held_back)
    learned = [key for key in own if key not in held_back]
    assert {new[key] for key in learned} <= {own[key] for key in learned}
    true = np.array([TRUE[int(text.split()[1])] for text, _ in learned])
    was, became = (
        kendall_tau(np.array([each[key] for key in learned]), true, WHOLE[: len(true)])
        for each in (own, new)
    )
    assert was + 0.1 < became
    said = capsys.readouterr().out
    assert f"{len(learned)} training lengths of llm-0; others under 5 names lent theirs to" in said


def test_what_others_answered_to_held_back_prompts_is_not_looked_at(tmp_path: Path) -> None:
    path = written(tmp_path / "all.parquet", rows())
    table = read_lengths(path)
    split = dict(zip(table.prompts, split_prompts(table).tolist(), strict=True))
    found = lengths_of(borrow(path))
    changed: Rows = [
        {**row, "response_tokens": 1}
        if row["model"] != "llm-0" and split[str(row["prompt"])] != "train"
        else row
        for row in rows()
    ]
    assert lengths_of(borrow(written(path, changed))) == found


def test_data_sets_samples_and_other_columns_stay(tmp_path: Path) -> None:
    twice: Rows = [
        {**row, "dataset": name, "unit": "tokens of its own", "note": "kept"}
        for name in ("exam", "exam again")
        for row in [*rows(), *rows(1)]
    ]
    path = written(tmp_path / "all.parquet", twice)
    before, after = read_lengths(path), borrow(path)
    assert lengths_of(after).keys() == lengths_of(before).keys()
    counts = np.diff(after.sample_start)
    train = (after.split == "train")[after.prompt]
    assert set(counts[train]) == {1}
    assert set(counts[~train]) == {2}
    raw = pq.read_table(tmp_path / "labelled.parquet").to_pylist()
    assert {row["note"] for row in raw} == {"kept"}
    assert {row["unit"] for row in raw} == {"tokens of its own"}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_what_is_written_can_be_fitted_on_whatever_was_known(tmp_path: Path, suffix: str) -> None:
    # A prompt that is held back stands first, and the table says nothing of how answers ended.
    known: dict[str, object] = {
        "prompt_tokens": 7,
        "max_tokens": 300,
        "structured": True,
        "reasoning": False,
        "reasoning_tokens": None,
        "tools": None if suffix == ".csv" else json.dumps([{"type": "function"}]),
    }
    found = rows(3, **known)
    for row in found[::2]:
        row["reasoning_tokens"] = row["response_tokens"]  # more than most labels
    if suffix == ".jsonl":
        found = [{**row, "tools": [{"type": "function"}]} for row in found]
    found.sort(key=lambda row: text_fraction(str(row["prompt"])))
    path = tmp_path / f"all{suffix}"
    writer_of(path)(path, found)
    before, after = read_lengths(path), borrow(path)
    for name in ("prompt_tokens", "max_tokens", "structured", "reasoning", "tools"):
        assert set(after.facts[name]) == set(before.facts[name]), name
    train = (after.split == "train")[after.prompt]
    beyond = train & (after.length >= 300)
    assert after.censored[beyond].all(), "a cap cuts off labels too"
    own = lengths_of(before)
    for (text, dataset), length in lengths_of(after).items():
        assert length <= 300 or length == own[text, dataset], "but for those that stay"


def test_lengths_that_others_were_cut_off_at_are_unknown(tmp_path: Path) -> None:
    capped: Rows = [
        {**row, "finish_reason": "length" if row["model"] == "llm-1" and number % 2 else "stop"}
        for number, row in enumerate(rows(3))
    ]
    table = read_lengths(written(tmp_path / "all.parquet", capped))
    found = answers_to(table.prompts, table)
    assert np.isnan(found).sum(axis=1).tolist() == [0, 100, 0]
    assert found[2].tolist() == noisy(2).tolist()


def test_an_llm_that_answered_in_several_data_sets_lends_its_median(tmp_path: Path) -> None:
    several: Rows = [
        {
            **row,
            "dataset": f"exam {place}",
            "response_tokens": place * int(str(row["response_tokens"])),
        }
        for place in (1, 2, 9)
        for row in rows(2)
        if row["model"] == "llm-1" or place == 1
    ]
    table = read_lengths(written(tmp_path / "all.parquet", several))
    asked = [*reversed(table.prompts), "a question of nobody", table.prompts[0]]
    own, other = answers_to(asked, table.select(table.group != 0))
    assert np.isnan(own).all(), "those that were left out tell nothing"
    assert np.isnan(other[-2])
    assert np.delete(other, -2).tolist() == (2 * np.append(noisy(1)[::-1], noisy(1)[0])).tolist()


def test_facts_of_any_sample_are_kept_and_cap_a_label(tmp_path: Path) -> None:
    first: Rows = [{**row, "max_tokens": None} for row in rows(3)]
    second: Rows = [{**row, "max_tokens": 300} for row in rows(3)]
    after = borrow(written(tmp_path / "all.parquet", [*first, *second]))
    train = (after.split == "train")[after.prompt]
    assert set(after.facts["max_tokens"][train]) == {300.0}
    assert after.censored[train & (after.length >= 300)].all()


def test_prompts_answered_under_several_values_of_a_fact_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Rows = [
        {**row, "reasoning": thinks, "structured": None}
        for row in rows(3)
        for thinks in ((False, True) if row["model"] == "llm-0" else (False,))
    ]
    path = written(tmp_path / "all.parquet", found)
    out = tmp_path / "labelled.parquet"
    assert main(["borrow", str(path), "--llm", "llm-0", "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "training prompts of llm-0 were answered under several values of reasoning, and" in told
    assert not out.exists()
    alone = [row for row in found if not row["reasoning"]]
    assert len(borrow(written(path, alone))) == len(TRUE)


def test_what_parquet_cannot_hold_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.Table.from_pylist(rows(3))
    large = pa.array([2**63 + number for number in range(len(table))], pa.uint64())
    path, out = tmp_path / "all.parquet", tmp_path / "labelled.parquet"
    pq.write_table(table.append_column("hash", large), path)
    assert main(["borrow", str(path), "--llm", "llm-0", "--out", str(out)]) == 2
    assert "A column cannot be written as Parquet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_a_lone_surrogate_is_written_and_read(tmp_path: Path) -> None:
    found = rows(3)
    for row in found:
        row["prompt"] = f"{row['prompt']} \ud800 \N{SNOWMAN}"
    path = tmp_path / "all.jsonl"
    writer_of(path)(path, found)
    assert read_lengths(path).prompts == borrow(path).prompts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--llm", "gpt"], "has no lengths of gpt: --llm is a name of its column model"),
        (["--llm", "llm-0", "--config", "hot"], "no lengths of llm-0 under the config 'hot'"),
        (["--llm", "llm-1"], "under several configs: say which by --config ('', 'cold')"),
        (["--llm", "llm-0", "--weight", "1.5"], "--weight is 1.5: expected 0 to 1"),
        (["--llm", "llm-0", "--weight", "nan"], "--weight is nan: expected 0 to 1"),
        (["--llm", "llm-0", "--out", "table.xlsx"], "ends in .xlsx"),
        (["--llm", "llm-0", "--out", "table.csv"], "expected another .parquet file than"),
        (["--llm", "lonely"], "no other LLM has 30 training prompts in common with lonely"),
        (["--llm", "other"], "has no training or no validation prompts of other, and borrowed"),
    ],
)
def test_what_cannot_be_labelled_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    lone = {"prompt": "a question of its own", "response_tokens": 5, "model": "other"}
    cold = {"prompt": "question 1", "response_tokens": 5, "model": "llm-1", "config": "cold"}
    lonely: Rows = [
        {**row, "model": "lonely", "prompt": f"{row['prompt']}, alone"} for row in rows(1)
    ]
    path = written(tmp_path / "all.parquet", [*rows(2, config=""), *lonely, lone, cold])
    out = tmp_path / "labelled.parquet"
    assert main(["borrow", str(path), "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_table_is_not_replaced_by_what_it_lends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "all.parquet", rows())
    before = path.read_bytes()
    assert main(["borrow", str(path), "--llm", "llm-0", "--out", str(path)]) == 2
    assert "expected another .parquet file than the table" in capsys.readouterr().err
    assert path.read_bytes() == before
