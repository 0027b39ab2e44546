from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from pars_model.lengths import read_lengths
from pars_model.metrics import kendall_tau
from pars_model.ngrams import NgramRidge, Terms, _ridge, ends_of, fit_ridge, ngrams_of
from pars_model.ranks import rank_targets

Table = Callable[..., Path]
Rows = Callable[..., list[dict[str, object]]]


def test_terms() -> None:
    words = ["write", "a", "list"]
    assert ngrams_of(words) == ["write", "a", "list", "write a", "a list"]
    assert "first write a" in ends_of(words)
    assert "last a list" in ends_of(words)
    assert "2 list" in ends_of(words)
    terms = Terms(ngrams_of, [words, ["write", "a", "story"]])
    assert sorted(terms.column) == ["a", "write", "write a"]
    counts = terms.count([["write", "write", "moon"], []]).toarray()
    assert counts[:, terms.column["write"]].tolist() == [2, 0]
    assert counts.sum() == 2


def test_ridge_is_the_closed_form() -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(60, 5)), rng.normal(size=60), rng.uniform(1, 3, 60)
    wanted = np.linalg.solve(x.T @ (w[:, None] * x) + 2 * np.eye(5), x.T @ (w * y))
    assert_allclose(_ridge(csr_matrix(x), y, np.sqrt(w), 2.0), wanted, rtol=0.01, atol=1e-3)


def test_it_ranks_prompts_that_it_has_not_seen(make_table: Table, make_rows: Rows) -> None:
    table = read_lengths(make_table(make_rows(300)))
    seen = np.arange(len(table)) < 200
    target, count = rank_targets(table, seen)
    known = count > 0
    texts = [table.prompts[i] for i in np.flatnonzero(known)]
    ridge = NgramRidge(texts, target[known], count[known])
    scores = ridge.score([table.prompts[i] for i in table.prompt[~seen]])
    assert kendall_tau(scores, table.length[~seen]) > 0.6
    assert np.isfinite(ridge.score(["", "\ud800", "x" * 100_000])).all()


def test_targets_are_ranks_inside_each_llm(make_table: Table) -> None:
    def row(prompt: str, model: str, length: int) -> dict[str, object]:
        return {"prompt": prompt, "model": model, "response_tokens": length}

    rows = [row("a", "m", 1), row("b", "m", 9), row("a", "n", 1000), row("b", "n", 100)]
    table = read_lengths(make_table([*rows, row("c", "n", 5)]))
    target, count = rank_targets(table, np.array([True, True, True, True, False]))
    assert_allclose(target, 0, atol=1e-12)
    assert count.tolist() == [2, 2, 0]


def test_the_penalty_follows_the_noise() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(40)])
    drawn = rng.integers(len(words), size=(600, 6))
    texts = [" ".join(words[row]) for row in drawn]
    told, noise = rng.normal(size=len(words))[drawn].sum(axis=1), rng.normal(size=600)
    clean, noisy = (NgramRidge(texts, target) for target in (told, 0.3 * told / told.std() + noise))
    assert clean.penalty < noisy.penalty


def test_a_ridge_learns_from_no_other_prompts(make_table: Table, make_rows: Rows) -> None:
    table = read_lengths(make_table(make_rows(60)))
    learned = np.arange(len(table.prompts)) < 40
    first = fit_ridge(table, learned).score(table.prompts)
    of_others = ~learned[table.prompt]
    length = np.where(of_others, table.length[::-1], table.length)
    assert_array_equal(
        fit_ridge(replace(table, length=length), learned).score(table.prompts), first
    )
