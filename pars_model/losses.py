"""What a ranker minimises: objectives by name, over plain outputs of the head.

Each objective turns the head's outputs (n, ``outputs``) into one score per item (higher means
longer) and into a loss. The functions work on plain tensors, so they are tested without a model.

Example:
    >>> objective = build_objective("margin", margin=1.0)
    >>> loss = objective.loss(outputs, labels)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pars_export.errors import ConfigError


class Labels(NamedTuple):
    """What is known about the items of a batch.

    Attributes:
        target: standardised log length inside the group, (n,); a lower bound where censored.
        quantile: place among the group's training lengths in [0, 1), (n,); same bound.
        censored: which are lower bounds, (n,).
        longer: the longer item of each pair, (m,).
        shorter: its shorter item, (m,).
        evidence: how sure the order of each pair is, in [0, 1], (m,).
    """

    target: Tensor
    quantile: Tensor
    censored: Tensor
    longer: Tensor
    shorter: Tensor
    evidence: Tensor


class Objective(Protocol):
    """Outputs of the head in, score and loss out."""

    @property
    def outputs(self) -> int:
        """How many numbers the head gives per prompt."""

    def score(self, outputs: Tensor) -> Tensor:
        """Scores (n,), higher meaning longer, of outputs (n, ``outputs``)."""

    def loss(self, outputs: Tensor, labels: Labels) -> Tensor:
        """Mean loss, a scalar that is zero (with a gradient of zero) where nothing teaches."""


def margin_loss(
    scores: Tensor,
    longer: Tensor,
    shorter: Tensor,
    margin: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Margin ranking loss, mean over pairs of max(0, margin - (s_longer - s_shorter)).

    PARS, arXiv 2510.03243, with y = 1 for the longer one first.

    Args:
        scores: (n,).
        longer: indices (m,).
        shorter: indices (m,).
        margin: wanted distance of scores; one for all pairs, or one each, (m,).
        weight: how much each pair counts in the mean, (m,); all alike by default.
    """
    if not len(longer):
        return scores.sum() * 0.0
    return _mean(F.relu(margin - (scores[longer] - scores[shorter])), weight)


def logistic_loss(
    scores: Tensor, longer: Tensor, shorter: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Logistic pairwise loss (RankNet), mean of log(1 + exp(-(s_longer - s_shorter))).

    The same arguments as :func:`margin_loss`.
    """
    if not len(longer):
        return scores.sum() * 0.0
    return _mean(F.softplus(scores[shorter] - scores[longer]), weight)


def _mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return losses.mean()
    return (losses * weight).sum() / weight.sum().clamp(min=1e-6)


def listmle_loss(
    scores: Tensor, longer: Tensor, shorter: Tensor, weight: Tensor | None = None
) -> Tensor:
    """ListMLE over what is known: mean of log(sum of exp(s) of i and all shorter) - s_i.

    With a complete order this is the likelihood of the permutation from longest to shortest
    (Xia et al. 2008, as in vllm-ltr) divided by the number of items that have a shorter one;
    with ties, cut-off lengths or a filter each item competes only with those known to be
    shorter. The same arguments as :func:`margin_loss`; a weight is the share of a rival's mass
    that competes.
    """
    if not len(longer):
        return scores.sum() * 0.0
    rivals = scores[shorter]
    top = scores.detach().scatter_reduce(0, longer, rivals.detach(), "amax", include_self=True)
    masses = torch.exp(rivals - top[longer])
    mass = torch.exp(scores - top).index_add(
        0, longer, masses if weight is None else weight * masses
    )
    leads = torch.unique(longer)
    return (top + torch.log(mass) - scores)[leads].mean()


def pointwise_loss(scores: Tensor, target: Tensor, censored: Tensor) -> Tensor:
    """Squared error on (standardised) log length; cut-off lengths count only from below.

    Args:
        scores: (n,).
        target: log lengths (n,).
        censored: (n,) which targets are lower bounds: no error above them.
    """
    error = target - scores
    return torch.where(censored, F.relu(error), error).square().mean()


def bucket_loss(logits: Tensor, bucket: Tensor, censored: Tensor) -> Tensor:
    """Cross entropy over length buckets; a cut-off length may lie in its bucket or any above.

    Args:
        logits: (n, k).
        bucket: (n,) the bucket of each length.
        censored: (n,) which are lower bounds.
    """
    log_p = F.log_softmax(logits, dim=1)
    buckets = torch.arange(logits.shape[1], device=logits.device)
    above = censored[:, None] & (buckets > bucket[:, None])
    allowed = above | (buckets == bucket[:, None])
    return -torch.logsumexp(log_p.masked_fill(~allowed, -torch.inf), dim=1).mean()


@dataclass(frozen=True)
class PairObjective:
    """An objective over pairs of scores: ``pair_loss(scores, longer, shorter, evidence)``."""

    pair_loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    outputs: int = 1

    def score(self, outputs: Tensor) -> Tensor:
        """The one output itself."""
        return outputs[:, 0]

    def loss(self, outputs: Tensor, labels: Labels) -> Tensor:
        """The pair loss of the scores."""
        return self.pair_loss(self.score(outputs), labels.longer, labels.shorter, labels.evidence)


@dataclass(frozen=True)
class Pointwise:
    """Regression on log length (standardised per group, so that LLMs can be mixed)."""

    outputs: int = 1

    def score(self, outputs: Tensor) -> Tensor:
        """The predicted log length."""
        return outputs[:, 0]

    def loss(self, outputs: Tensor, labels: Labels) -> Tensor:
        """Squared error of the log length."""
        return pointwise_loss(self.score(outputs), labels.target, labels.censored)


@dataclass(frozen=True)
class Bucket:
    """Classification into ``outputs`` equally filled length buckets of the group."""

    outputs: int = 10

    def score(self, outputs: Tensor) -> Tensor:
        """The expected bucket."""
        buckets = torch.arange(self.outputs, device=outputs.device, dtype=outputs.dtype)
        # No matrix product: under autocast that would round scores to bfloat16.
        return (torch.softmax(outputs, dim=1) * buckets).sum(dim=1)

    def loss(self, outputs: Tensor, labels: Labels) -> Tensor:
        """Cross entropy of the bucket."""
        bucket = (labels.quantile * self.outputs).long().clamp(0, self.outputs - 1)
        return bucket_loss(outputs, bucket, labels.censored)


OBJECTIVES = ("margin", "logistic", "listmle", "pointwise", "bucket")
EVIDENCES = ("none", "weight", "margin")


def build_objective(
    name: str, margin: float = 1.0, buckets: int = 10, evidence: str = "none"
) -> Objective:
    """The objective of that name.

    Args:
        name: one of :data:`OBJECTIVES`.
        margin: wanted distance of scores, for ``margin``.
        buckets: number of length buckets, for ``bucket``.
        evidence: what a pair's evidence does: ``none``, it is its ``weight``, or the ``margin``
            grows with it (for the margin objective).

    Raises:
        ConfigError: unknown name, margin not positive, fewer than two buckets, evidence that the
            objective has no use for.
    """
    if margin <= 0:
        raise ConfigError(f"model.margin is {margin}; expected a number above 0 (the paper: 1.0).")
    if buckets < 2:
        raise ConfigError(f"model.buckets is {buckets}; expected at least 2.")
    weighted, growing = evidence == "weight", evidence == "margin"

    def margin_pairs(scores: Tensor, longer: Tensor, shorter: Tensor, sure: Tensor) -> Tensor:
        wanted = margin * sure if growing else margin
        return margin_loss(scores, longer, shorter, wanted, sure if weighted else None)

    def logistic_pairs(scores: Tensor, longer: Tensor, shorter: Tensor, sure: Tensor) -> Tensor:
        return logistic_loss(scores, longer, shorter, sure if weighted else None)

    def listmle_pairs(scores: Tensor, longer: Tensor, shorter: Tensor, sure: Tensor) -> Tensor:
        return listmle_loss(scores, longer, shorter, sure if weighted else None)

    objectives: dict[str, Objective] = {
        "margin": PairObjective(margin_pairs),
        "logistic": PairObjective(logistic_pairs),
        "listmle": PairObjective(listmle_pairs),
        "pointwise": Pointwise(),
        "bucket": Bucket(buckets),
    }
    if name not in objectives:
        raise ConfigError(f"model.objective is {name!r}; expected one of {', '.join(OBJECTIVES)}.")
    usable = EVIDENCES if name == "margin" else ("none", "weight")
    allowed = usable if isinstance(objectives[name], PairObjective) else ("none",)
    if evidence not in allowed:
        raise ConfigError(
            f"model.evidence is {evidence!r}; with the objective {name} expected "
            f"{' or '.join(allowed)}."
        )
    return objectives[name]
