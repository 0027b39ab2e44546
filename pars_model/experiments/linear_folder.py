"""A linear student of one LLM's lengths: what lies below the convolutions on the frontier."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pars_export.artifact import Manifest, write_predictor
from pars_export.inputs import InputSpec
from pars_export.runtimes.arrays import arrays_bytes
from pars_export.runtimes.student import TOKENIZER, WEIGHTS
from pars_export.words import WordTokenizer, train_tokenizer
from pars_model.lengths import LengthTable, split_prompts
from pars_model.linear import Design, LinearShape
from pars_model.metrics import kendall_tau
from pars_model.ngrams import PENALTIES
from pars_model.ranks import rank_targets

VOCABULARY = 12_000
"""Most subwords."""


def write_linear(folder: Path, lengths: LengthTable) -> Path:
    """Fit on the training prompts of one LLM, write the predictor folder; return its path.

    Of `PENALTIES` the one is taken that orders the validation prompts best.

    Raises:
        PredictorError: ``folder`` is something else than a predictor.
    """
    split = split_prompts(lengths)
    learned, chosen = (np.flatnonzero(split == part) for part in ("train", "val"))
    target, _ = rank_targets(lengths, (split == "train")[lengths.prompt])
    wanted, _ = rank_targets(lengths, (split == "val")[lengths.prompt])
    spec = InputSpec(max_length=128, truncation="head_tail")
    content = train_tokenizer((lengths.prompts[number] for number in learned), VOCABULARY)
    tokenizer = WordTokenizer(content, spec)
    ids, features = tokenizer.read_all(lengths.prompts)
    best, arrays = -2.0, None
    for penalty in PENALTIES:
        shape = LinearShape(penalty=penalty)
        design = Design(ids, features, learned, tokenizer.vocab_size, shape)
        found = design.fit(learned, target[learned], np.ones(len(learned)))
        tau = kendall_tau(design.matrix[chosen] @ found, wanted[chosen])
        if arrays is None or tau > best:
            best, arrays = tau, design.arrays(found)
    assert arrays is not None
    manifest = Manifest(kind="student", input=spec, engines={"student": {"file": WEIGHTS}})
    write_predictor(folder, manifest, {TOKENIZER: content, WEIGHTS: arrays_bytes(arrays)})
    return folder
