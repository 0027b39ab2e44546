from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_model.__main__ import main
from pars_model.borrow import SHARED, Floats, borrow, borrowed_places, same_rank
from pars_model.lengths import read_lengths, split_prompts
from pars_model.metrics import kendall_tau

TRUE = np.random.default_rng(0).permutation(200) / 20.0
"""How long an answer each of 200 prompts asks for, in log tokens."""


def noisy(seed: int, noise: float = 1.5) -> Floats:
    rng = np.random.default_rng(seed)
    lengths: Floats = np.ceil(np.exp(TRUE / 3 + noise * rng.standard_normal(len(TRUE))) * 20)
    return lengths


def test_places_of_others_take_noise_out_of_an_order() -> None:
    own = noisy(1)
    others = np.array([noisy(seed) for seed in range(2, 12)])
    nowhere = np.zeros(len(TRUE), dtype=np.bool_)
    taus = [
        kendall_tau(borrowed_places(own, others, weight), TRUE, nowhere)
        for weight in (1.0, 0.5, 0.0)
    ]
    assert taus[0] == pytest.approx(kendall_tau(own, TRUE, nowhere))
    assert taus[0] + 0.1 < taus[1] < taus[2]


def test_units_and_scales_of_others_mean_nothing() -> None:
    own, others = noisy(1), np.array([noisy(2), noisy(3)])
    found = borrowed_places(own, others)
    np.testing.assert_allclose(found, borrowed_places(own * 7, others**2 + 5))


def test_a_prompt_is_placed_by_whoever_answered_it() -> None:
    own, others = noisy(1), np.array([noisy(2), noisy(3)])
    own[:40], others[:, 40:60], others[0, :20] = np.nan, np.nan, np.nan
    others[:, 0], own[199] = np.nan, np.nan
    found = borrowed_places(own, others)
    alone = borrowed_places(own, others, weight=1.0)
    assert np.isnan(found[0])
    assert not np.isnan(found[1:]).any()
    np.testing.assert_allclose(found[40:60], alone[40:60])
    assert np.abs(found[60:199] - alone[60:199]).max() > 0.1


def test_an_llm_with_few_prompts_in_common_counts_for_nothing() -> None:
    own, few = noisy(1), noisy(2)
    few[SHARED - 1 :] = np.nan
    np.testing.assert_array_equal(
        borrowed_places(own, few[None], 0.0), borrowed_places(own, np.empty((0, len(own))))
    )


def test_places_become_lengths_of_the_same_rank() -> None:
    lengths, cut_off = np.array([30.0, 10.0, 40.0, 40.0]), np.array([False, False, True, False])
    assert same_rank(np.array([0.5, -2.0, 0.7, 9.0]), lengths, cut_off).tolist() == [0, 1, 3, 2]
    eight = same_rank(np.array(range(8), dtype=np.float64), lengths, cut_off)
    assert eight.tolist() == [1, 1, 0, 0, 3, 3, 2, 2]


def rows(llms: int = 6, **more: object) -> list[dict[str, object]]:
    return [
        {
            "prompt": f"question {number}",
            "response_tokens": int(length),
            "model": f"llm-{llm}",
            "dataset": "exam",
            "prompt_tokens": 5 + number if llm == 0 else None,
            **more,
        }
        for llm in range(llms)
        for number, length in enumerate(noisy(llm))
        if llm or number >= 50  # the first LLM has not answered the first fifty
    ]


def written(path: Path, found: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(found), path)
    return path


def test_a_table_is_labelled_where_it_is_learned_from_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = written(tmp_path / "all.parquet", rows()), tmp_path / "labelled.parquet"
    assert main(["borrow", str(path), "--llm", "llm-0", "--out", str(out)]) == 0
    before, after = read_lengths(path), read_lengths(out)
    assert [str(group) for group in after.groups] == ["llm-0"]
    split = dict(zip(before.prompts, split_prompts(before), strict=True))
    assert {text: split[text] for text in after.prompts} == dict(
        zip(after.prompts, after.split, strict=True)
    )
    mine = before.select(before.group == 0)
    own = {before.prompts[p]: n for p, n in zip(mine.prompt, mine.length, strict=True)}
    new = {after.prompts[p]: n for p, n in zip(after.prompt, after.length, strict=True)}
    held_back = [text for text in own if split[text] != "train"]
    assert held_back
    assert all(new[text] == own[text] for text in held_back)
    learned = {text for text, part in split.items() if part == "train"}
    assert set(new) == learned | set(held_back), "others' test prompts are nobody's"
    assert set(new.values()) <= set(own.values()), "its own lengths, in another order"
    true = {f"question {number}": value for number, value in enumerate(TRUE)}
    both = sorted(learned & set(own))
    nowhere = np.zeros(len(both), dtype=np.bool_)
    was, became = (
        kendall_tau(
            np.array([lengths[text] for text in both]),
            np.array([true[text] for text in both]),
            nowhere,
        )
        for lengths in (own, new)
    )
    assert was + 0.1 < became
    tokens = dict(zip(after.prompt.tolist(), after.facts["prompt_tokens"].tolist(), strict=True))
    place = {text: number for number, text in enumerate(after.prompts)}
    assert tokens[place["question 60"]] == 65
    said = capsys.readouterr().out
    assert f"{len(learned):,} training prompts of llm-0" in said
    assert f"{len(learned - set(own)):,} by others alone" in said


def test_the_lengths_of_held_back_prompts_are_never_lent(tmp_path: Path) -> None:
    table = read_lengths(written(tmp_path / "all.parquet", rows()))
    learned = split_prompts(table) == "train"
    found = borrow(table, 0, learned)
    assert learned[found.prompts].all()
    table.length[~learned[table.prompt]] = 10**6
    again = borrow(table, 0, learned)
    np.testing.assert_array_equal(found.items, again.items)


def test_cut_off_lengths_stay_cut_off_and_samples_of_held_back_prompts_stay_apart(
    tmp_path: Path,
) -> None:
    found = rows()
    longest = sorted(int(str(row["response_tokens"])) for row in found)[-100]
    for row in found:
        row["finish_reason"] = "length" if int(str(row["response_tokens"])) >= longest else "stop"
    path = written(tmp_path / "all.parquet", [*found, *found])
    out = tmp_path / "labelled.jsonl"
    assert main(["borrow", str(path), "--llm", "llm-0", "--out", str(out)]) == 0
    after = read_lengths(out)
    assert after.length[after.censored].min() >= longest > after.length[~after.censored].max()
    counts = np.diff(after.sample_start)
    train = (after.split == "train")[after.prompt]
    assert set(counts[train]) == {1}
    assert set(counts[~train]) == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--llm", "gpt"], "has no lengths of gpt: --llm is a name of its column model"),
        (["--llm", "llm-0", "--config", "hot"], "no lengths of llm-0 under the config 'hot'"),
        (["--llm", "llm-1"], "under several configs: say which by --config ('', 'cold')"),
        (["--llm", "llm-0", "--weight", "1.5"], "--weight is 1.5: expected 0 to 1"),
        (["--llm", "llm-0", "--weight", "nan"], "--weight is nan: expected 0 to 1"),
        (["--llm", "llm-0", "--out", "table.xlsx"], "ends in .xlsx"),
        (["--llm", "other"], "no other LLM has 30 training prompts in common with other"),
    ],
)
def test_what_cannot_be_labelled_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    lone = {"prompt": "a question of its own", "response_tokens": 5, "model": "other"}
    cold = {"prompt": "question 1", "response_tokens": 5, "model": "llm-1", "config": "cold"}
    path = written(tmp_path / "all.parquet", [*rows(2, config=""), lone, cold])
    out = tmp_path / "labelled.parquet"
    assert main(["borrow", str(path), "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
