"""Each objective against plain Python over the definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from pars_export.errors import ConfigError
from pars_model.losses import (
    OBJECTIVES,
    Labels,
    bucket_loss,
    build_objective,
    listmle_loss,
    logistic_loss,
    margin_loss,
    pointwise_loss,
)

SCORES = st.lists(st.floats(-5, 5), min_size=2, max_size=7)


def pairs_of(lengths: Sequence[int]) -> list[tuple[int, int]]:
    return [(i, j) for i, a in enumerate(lengths) for j, b in enumerate(lengths) if a > b]


def tensors(
    scores: Sequence[float], pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    longer = torch.tensor([i for i, _ in pairs], dtype=torch.int64)
    shorter = torch.tensor([j for _, j in pairs], dtype=torch.int64)
    return torch.tensor(scores, dtype=torch.float64), longer, shorter


@given(SCORES, st.floats(0.1, 3), st.data())
def test_pair_losses(scores: list[float], margin: float, data: st.DataObject) -> None:
    lengths = [data.draw(st.integers(0, 4)) for _ in scores]
    pairs = pairs_of(lengths)
    arguments = tensors(scores, pairs)
    gaps = [scores[i] - scores[j] for i, j in pairs]
    hinge = [max(0.0, margin - gap) for gap in gaps]
    logistic = [math.log1p(math.exp(-gap)) for gap in gaps]
    count = max(len(pairs), 1)
    assert float(margin_loss(*arguments, margin)) == pytest.approx(sum(hinge) / count)
    assert float(logistic_loss(*arguments)) == pytest.approx(sum(logistic) / count)


@given(SCORES, st.floats(0.1, 3), st.data())
def test_evidence_weighs_pairs_or_sets_their_margin(
    scores: list[float], margin: float, data: st.DataObject
) -> None:
    pairs = pairs_of([data.draw(st.integers(0, 4)) for _ in scores])
    sure = [data.draw(st.floats(0.1, 1)) for _ in pairs]
    values, longer, shorter = tensors(scores, pairs)
    none = torch.zeros(len(scores))
    labels = Labels(
        none, none, none.bool(), longer, shorter, torch.tensor(sure, dtype=torch.float64)
    )
    gaps = [scores[i] - scores[j] for i, j in pairs]
    total = sum(sure) or 1.0
    hinge = sum(w * max(0.0, margin - gap) for w, gap in zip(sure, gaps, strict=True)) / total
    logistic = sum(w * math.log1p(math.exp(-gap)) for w, gap in zip(sure, gaps, strict=True))
    grown = [max(0.0, margin * w - gap) for w, gap in zip(sure, gaps, strict=True)]
    lists = []
    for i in sorted({i for i, _ in pairs}):
        rivals = sum(
            w * math.exp(scores[j]) for w, (k, j) in zip(sure, pairs, strict=True) if k == i
        )
        lists.append(math.log(math.exp(scores[i]) + rivals) - scores[i])
    for name, evidence, wanted in (
        ("margin", "weight", hinge),
        ("logistic", "weight", logistic / total),
        ("margin", "margin", sum(grown) / max(len(pairs), 1)),
        ("listmle", "weight", sum(lists) / max(len(lists), 1)),
    ):
        objective = build_objective(name, margin=margin, evidence=evidence)
        assert float(objective.loss(values[:, None], labels)) == pytest.approx(wanted)


@given(SCORES)
def test_listmle_is_the_likelihood_of_the_order(scores: list[float]) -> None:
    lengths = range(len(scores), 0, -1)  # the first item is the longest
    loss = listmle_loss(*tensors(scores, pairs_of(lengths)))
    likelihood = math.prod(
        math.exp(s) / sum(map(math.exp, scores[place:])) for place, s in enumerate(scores)
    )
    assert float(loss) * (len(scores) - 1) == pytest.approx(-math.log(likelihood), abs=1e-9)


@given(SCORES, st.data())
def test_listmle_with_a_partial_order(scores: list[float], data: st.DataObject) -> None:
    chosen = [
        pair
        for pair in itertools.permutations(range(len(scores)), 2)
        if pair[0] < pair[1] and data.draw(st.booleans())
    ]
    losses = []
    for i in sorted({i for i, _ in chosen}):
        rivals = [j for lead, j in chosen if lead == i]
        total = math.exp(scores[i]) + sum(math.exp(scores[j]) for j in rivals)
        losses.append(math.log(total) - scores[i])
    wanted = sum(losses) / max(len(losses), 1)
    assert float(listmle_loss(*tensors(scores, chosen))) == pytest.approx(wanted, abs=1e-9)


def test_listmle_survives_large_scores_and_its_gradient_is_right() -> None:
    scores, longer, shorter = tensors([900.0, -900.0, 3.0], [(1, 0), (2, 1), (2, 0)])
    assert float(listmle_loss(scores, longer, shorter)) == pytest.approx((1800 + 897) / 2)
    small = torch.randn(4, dtype=torch.float64, requires_grad=True)
    index = tensors([0] * 4, [(0, 1), (0, 2), (1, 2), (3, 2)])[1:]
    assert torch.autograd.gradcheck(lambda s: listmle_loss(s, *index), small)


@given(SCORES, st.data())
def test_pointwise_counts_cut_off_lengths_from_below(
    scores: list[float], data: st.DataObject
) -> None:
    target = [data.draw(st.floats(-3, 3)) for _ in scores]
    censored = [data.draw(st.booleans()) for _ in scores]
    errors = [
        max(0.0, t - s) if c else t - s for s, t, c in zip(scores, target, censored, strict=True)
    ]
    wanted = sum(e * e for e in errors) / len(errors)
    found = pointwise_loss(
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(target, dtype=torch.float64),
        torch.tensor(censored),
    )
    assert float(found) == pytest.approx(wanted)


def test_bucket_loss_lets_a_cut_off_length_lie_above() -> None:
    logits = torch.tensor([[0.1, 0.7, -0.4], [0.1, 0.7, -0.4], [2.0, 0.0, 1.0]])
    bucket, censored = torch.tensor([1, 1, 2]), torch.tensor([False, True, True])
    p = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits.tolist()]
    wanted = -(math.log(p[0][1]) + math.log(p[1][1] + p[1][2]) + math.log(p[2][2])) / 3
    assert float(bucket_loss(logits, bucket, censored)) == pytest.approx(wanted, rel=1e-5)


def test_bucket_scores_are_expected_buckets() -> None:
    objective = build_objective("bucket", buckets=3)
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log()
    assert_close(objective.score(logits), torch.tensor([1.3]))
    labels = Labels(
        torch.zeros(4),
        torch.tensor([0.0, 0.34, 0.67, 0.999]),
        torch.zeros(4, dtype=torch.bool),
        *(torch.zeros(0, dtype=torch.int64),) * 2,
        torch.zeros(0),
    )
    sure = torch.eye(3)[torch.tensor([0, 1, 2, 2])] * 50
    assert float(objective.loss(sure, labels)) < 1e-6
    assert float(objective.loss(-sure, labels)) > 10


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_an_order(name: str) -> None:
    torch.manual_seed(0)
    lengths = torch.arange(12.0)
    objective = build_objective(name, buckets=6)
    outputs = torch.zeros(12, objective.outputs, requires_grad=True)
    longer, shorter = torch.nonzero(lengths[:, None] > lengths[None, :]).T
    target = (lengths - lengths.mean()) / lengths.std()
    sure = torch.ones(len(longer))
    labels = Labels(target, lengths / 12, torch.zeros(12, dtype=torch.bool), longer, shorter, sure)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    first = objective.loss(outputs, labels).detach()
    for _ in range(150):
        optimizer.zero_grad()
        objective.loss(outputs, labels).backward()
        optimizer.step()
    assert objective.loss(outputs, labels) < first / 2 or name == "listmle"
    scores = objective.score(outputs.detach())
    if name == "bucket":  # two lengths share a bucket
        scores = scores.reshape(6, 2).mean(dim=1)
    assert (scores.diff() > 0).all()


@pytest.mark.parametrize("name", ["margin", "logistic", "listmle"])
def test_a_batch_without_pairs_teaches_nothing(name: str) -> None:
    outputs = torch.ones(3, 1, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    zeros = torch.zeros(3)
    labels = Labels(zeros, zeros, zeros.bool(), nothing, nothing, torch.zeros(0))
    loss = build_objective(name).loss(outputs, labels)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"name": "best"}, "objective"),
        ({"margin": 0.0}, "margin"),
        ({"buckets": 1}, "buckets"),
        ({"evidence": "much"}, "evidence"),
        ({"name": "logistic", "evidence": "margin"}, "evidence"),
        ({"name": "pointwise", "evidence": "weight"}, "evidence"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"model.{key}"):
        build_objective(**{"name": "margin", **arguments})
