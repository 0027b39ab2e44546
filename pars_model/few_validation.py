"""What a fit says of few validation prompts: how little their tau tells of its weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_model.checkpoint import load_ranker
from pars_model.evaluate import FEW_PROMPTS, scores_of
from pars_model.metrics import Estimate, estimates
from pars_model.validation import metrics_of

if TYPE_CHECKING:
    import torch

    from pars_model.datamodule import PromptLengthDataModule
    from pars_model.module import ResponseLengthRanker

log = logging.getLogger("pars")


def warn_of_few(ckpt: Path, data: PromptLengthDataModule, device: torch.device) -> None:
    """Warn where fewer than `FEW_PROMPTS` prompts validated what a checkpoint holds.

    Where a fine-tuned one had none to compare, the data module has said so already.

    Args:
        ckpt: the ranker's.
        data: of its fit, set up.
        device: where the network reads the validation prompts.
    """
    validated = data.comparable("val")
    prompts = int((data.split == ("val" if validated else "train")).sum())
    if prompts >= FEW_PROMPTS:
        return
    ranker = load_ranker(ckpt).to(device)
    if not validated and ranker.hparams.fine_tune:
        return
    if not validated:
        log.warning(
            "%s: only %d prompts taught the ranker and, each by fits to the others, judged it, "
            "fewer than %d: its tau of %.2f may be far off; collect more prompts.",
            data.path,
            prompts,
            FEW_PROMPTS,
            ranker.metrics["tau"],
        )
        return
    chosen = "weights" if ranker.hparams.fine_tune else "n-gram half's share"
    if not ranker.hparams.fine_tune and ranker.ngrams is None:
        return  # they chose nothing
    tau = _tau(ranker, data)
    table = data.table
    assert table is not None
    more = "mark more rows with split val" if table.has_split else "raise data.val_fraction"
    log.warning(
        "%s: only %d validation prompts chose the %s, fewer than %d: their tau is "
        "%.2f%s; collect more prompts or %s.",
        data.path,
        prompts,
        chosen,
        FEW_PROMPTS,
        tau.value,
        _interval(tau),
        more,
    )


def _tau(ranker: ResponseLengthRanker, data: PromptLengthDataModule) -> Estimate:
    """Validation tau in the mean over groups, and its interval over prompts."""
    table = data.table
    assert table is not None
    part = table.select((data.split == "val")[table.prompt])
    scores = scores_of(ranker, part)

    def statistic(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        found = metrics_of(
            scores[drawn], part.length[drawn], part.censored[drawn], part.group[drawn]
        )
        return np.array([found["tau"]])

    (tau,) = estimates(statistic, part.prompt)
    return tau


def _interval(tau: Estimate) -> str:
    """The interval in words; one without width says that there are too few draws that differ."""
    if tau.low is None or tau.high is None or tau.low == tau.high:
        return ", and they are too few for an interval"
    return f", its 95 % interval [{tau.low:.2f}, {tau.high:.2f}], which is rough itself"
