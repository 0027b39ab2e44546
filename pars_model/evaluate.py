"""How well a predictor orders responses: tau-b and pair accuracy, with 95 % intervals.

For each data set and LLM, and for each LLM over all its data sets (the traffic that one queue
mixes). Beside each tau stands its ceiling where the table has several samples per prompt: how
well another run of the same LLM orders the same prompts. Where the predictor tells tokens, how true
they are: the error of expected tokens, and the coverage of the intervals forecast for a response.
Intervals are bootstraps over prompts. For a predictor that reads `max_tokens`, an answer that
reached its own cap counts as ended there.

Without --split, a table with a column split is judged on its test prompts. Any other is judged,
where the predictor was trained, on the prompts whose hash keeps them out of a fit, else on all; one
that was fitted by a column split refuses a table without it, but for --split all. Of a table with
the column, a predictor whose fit split by the hash is judged on what that kept out as well; what is
left out is counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_export.threads import check_threads
from pars_model.evaluation_text import render

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pars_export.calibration import Calibration
    from pars_export.facts import Facts
    from pars_model.lengths import LengthTable

FEW_PROMPTS = 30
"""Below it a bootstrap interval covers less often than it says."""
SPLITS = ("train", "val", "test", "all")


class Scorer(Protocol):
    """A predictor, or a ranker."""

    def score(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Scores of texts; NaN where a text is unknown."""


class VectorScorer(Protocol):
    """One that shows what it reads of a text, too."""

    def scores_and_vectors(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Rows (n, 1 + width): a score, and the vector that it was made of."""


class FactScorer(Protocol):
    """One that reads facts known at arrival beside the text."""

    reads: tuple[str, ...]
    """Their names."""

    def score(self, texts: Sequence[str], facts: Sequence[Facts], /) -> NDArray[np.float32]:
        """Scores of texts with what is known of each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars evaluate``."""
    parser.add_argument("predictor", type=Path, help="predictor folder, or checkpoint of a fit")
    parser.add_argument("--data", type=Path, required=True, metavar="TABLE", help="length table")
    parser.add_argument("--split", choices=SPLITS, help="prompts to judge on (see above)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers to this file")
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="draw expected tokens and intervals against truth"
    )
    parser.add_argument("--resamples", type=int, default=500, help="bootstrap draws (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="cores to score with (default 1)")


def run(args: argparse.Namespace) -> int:
    """Entry of ``pars evaluate``."""
    for name in ("resamples", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: expected 1 or more.")
    scorer = load_scorer(args.predictor, args.threads)
    result = evaluate(scorer, args.data, args.split, args.resamples, args.seed)
    result = {"predictor": str(args.predictor), **result}
    if args.json:
        with atomic_file(args.json) as path:
            path.write_text(json.dumps(result, indent=2, allow_nan=False), encoding="utf-8")
    print(render(result))
    if args.plots:
        from pars_model.evaluation_text import reliabilities
        from pars_model.reliability import write_plots

        if not (found := reliabilities(result)):
            raise InputError(
                f"--plots {args.plots}: {args.predictor} tells no quantiles of tokens, so there is "
                "nothing to draw; train and export it again."
            )
        print(*write_plots(args.plots, found), sep="\n")
    return 0


def load_scorer(path: Path, threads: int = 1) -> Scorer:
    """A predictor from its folder, or a ranker from its checkpoint.

    Raises:
        InputError: there is neither.
        ConfigError: a number of threads below 1.
        PredictorError: the folder is no sound predictor.
    """
    check_threads(threads)
    if path.is_dir():
        from pars_export import Predictor

        return Predictor.load(path, threads=threads)
    if not path.exists():
        raise InputError(
            f"{path} does not exist: give a predictor folder or the checkpoint of a fit."
        )
    import torch

    from pars_model.checkpoint import load_ranker

    torch.set_num_threads(threads)
    ranker: Scorer = load_ranker(path)
    return ranker


def evaluate(
    scorer: Scorer,
    data: str | Path,
    split: str | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, object]:
    """Judge a predictor on a length table.

    Args:
        scorer: a predictor or ranker.
        data: the length table.
        split: train, val, test or all. By default test: as the table says, otherwise by the hash
            of the prompt that also kept them out of the fit; all for what was never trained.
        resamples: bootstrap draws per interval.
        seed: of the draws.

    Returns:
        Plain values: ``data``, ``split``, ``split_from`` (table, hash or none), ``prompts``,
        ``unknown`` (prompts that the predictor does not know, left out), ``cells`` (one per data
        set, LLM and config) and ``mixed`` (one per LLM and config); on top ``tau``, ``interval``,
        ``of`` (which LLM and config) of the mixed cell with most prompts, and the same LLM's
        ``ceiling``, ``ceiling_interval`` and ``ceiling_config``: its own config's, or another's
        where its own has no repeated samples, as greedy answers have none. A cell has
        ``prompts``, ``known`` (answers not cut off), ``cut_off``, ``tau``, ``pair_accuracy``,
        ``ceiling_rerun`` (one run against another) and ``ceiling_median`` (one run against the
        median of the others), the last four each None or
        ``{"value", "low", "high"}``; a mixed one also ``reliability``, None or what
        `pars_model.reliability.reliability` found.

    Raises:
        InputError: the table cannot be used, or the split has nothing to compare.
    """
    import numpy as np

    from pars_model.fit_split import FitSplit, origin_notes
    from pars_model.lengths import read_lengths, require_pairs, silent_groups

    table = read_lengths(data, getattr(scorer, "reads", ()))
    require_pairs(table, data)
    training = training_of(scorer)
    fit = FitSplit.of(training.get("data", {}))
    split = split or ("test" if table.has_split or fit.by else "all")
    notes = list(table.notes)
    chosen = np.ones(len(table), dtype=bool)
    if split == "all":
        notes += fit.of_all(table)
    else:
        prompts, said = fit.judged(table, data, split)
        notes += said
        chosen = prompts[table.prompt]
        if not chosen.any():
            raise InputError(f"{data} has no prompts of split {split}: choose another --split.")
    part = table.select(chosen)
    numbers = np.unique(part.prompt)
    scores = scores_of(scorer, part)
    unknown = np.isnan(scores)
    part, scores = part.select(~unknown), scores[~unknown]
    if not len(part):
        raise InputError(f"The predictor knows none of the prompts of {data} (split {split}).")
    require_pairs(part, f"{data} (split {split})")
    notes += origin_notes(training, part, learns(scorer))
    silent = silent_groups(part)
    if silent:
        notes.append(f"Of the prompts judged: {silent}")
    cells, mixed = _cells(part, scores, calibration_of(scorer), resamples, seed)
    return {
        "data": str(data),
        "split": split,
        "split_from": "none" if split == "all" else "table" if table.has_split else "hash",
        "notes": [*notes, *_small(cells)],
        "prompts": len(np.unique(part.prompt)),
        "unknown": int(len(numbers) - len(np.unique(part.prompt))),
        **_headline(mixed),
        "cells": cells,
        "mixed": mixed,
    }


def scores_of(scorer: Scorer, part: LengthTable) -> NDArray[np.float64]:
    """Scores of the items of a table (n,); one that reads facts is told each item's own."""
    import numpy as np

    from pars_export.facts import Facts, rows

    facts = rows(part.facts, len(part)) if getattr(scorer, "reads", ()) else None
    # One LLM's tokens are not another's: the same prompt may have other facts there.
    asked = list(zip(part.prompt.tolist(), facts or [Facts()] * len(part), strict=True))
    different = {key: place for place, key in enumerate(dict.fromkeys(asked))}
    texts = [part.prompts[number] for number, _ in different]
    if facts is None:
        found = scorer.score(texts)
    else:
        found = cast("FactScorer", scorer).score(texts, [known for _, known in different])
    return found.astype(np.float64)[[different[key] for key in asked]]


def training_of(scorer: Scorer) -> Mapping[str, Any]:
    """What is known of a scorer's training, `data` of its fit's table; empty where nothing is."""
    from pars_export import Predictor

    if isinstance(scorer, Predictor):
        return scorer.manifest.training
    return cast("Mapping[str, Any]", vars(scorer).get("training_summary", {}))


def learns(scorer: Scorer) -> bool:
    """Whether a scorer may have been trained; the length of a prompt needs no training."""
    from pars_export import Predictor

    return not (isinstance(scorer, Predictor) and scorer.manifest.kind == "length")


def calibration_of(scorer: Scorer) -> Calibration | None:
    """The distribution of lengths that a scorer forecasts; None where it has none."""
    from pars_export import Predictor
    from pars_export.calibration import Calibration

    if isinstance(scorer, Predictor):
        found = scorer.manifest.calibration
    else:
        fitted = vars(scorer).get("calibration")
        found = None if fitted is None else Calibration.from_json(fitted)
    return found if found is not None and found.spread is not None else None


def _cells(
    part: LengthTable,
    scores: NDArray[np.float64],
    calibration: Calibration | None,
    resamples: int,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    import numpy as np

    from pars_model.reliability import reliability

    cells, mixed = [], []
    for group in np.unique(part.group):
        of_group = part.group == group
        inside = np.unique(part.dataset[of_group])
        for dataset in inside:
            mine = of_group & (part.dataset == dataset)
            cell = _cell(part.select(mine), scores[mine], resamples, seed)
            cells.append({"dataset": part.datasets[dataset], **cell})
        whole, of_whole = part.select(of_group), scores[of_group]
        if len(inside) > 1:
            cell = _cell(whole, of_whole, resamples, seed)
        found = None
        if calibration is not None:
            prompt, lengths, censored = whole.responses()
            each = np.repeat(of_whole, np.diff(whole.sample_start))
            found = reliability(calibration, each, lengths, censored, prompt, resamples, seed)
        names = [part.datasets[dataset] for dataset in inside]
        mixed.append({**cell, "dataset": names, "reliability": found})
    return cells, mixed


def _cell(
    part: LengthTable, scores: NDArray[np.float64], resamples: int, seed: int
) -> dict[str, object]:
    from dataclasses import asdict

    import numpy as np

    from pars_model.lengths import has_pair
    from pars_model.metrics import noise_ceiling, tau_and_accuracy

    group = part.groups[part.group[0]]
    cell: dict[str, object] = {
        "llm": group.model,
        "config": group.config,
        "prompts": len(np.unique(part.prompt)),
        "known": int((~part.censored).sum()),
        "cut_off": int(part.censored.sum()),
        **dict.fromkeys(("tau", "pair_accuracy", "ceiling_rerun", "ceiling_median")),
    }
    if has_pair(part):
        tau, accuracy = tau_and_accuracy(
            scores, part.length, part.censored, part.prompt, resamples, seed
        )
        cell |= {"tau": asdict(tau), "pair_accuracy": asdict(accuracy)}
    ceiling = noise_ceiling(part, seed=seed)
    if ceiling is not None:
        rerun, median = ceiling
        cell |= {"ceiling_rerun": asdict(rerun), "ceiling_median": median and asdict(median)}
    return cell


def _small(cells: list[dict[str, Any]]) -> list[str]:
    from pars_model.lengths import Group

    small = [
        cell for cell in cells if cell["tau"] and min(cell["prompts"], cell["known"]) < FEW_PROMPTS
    ]
    if not small:
        return []
    names = [
        " on ".join(filter(None, (str(Group(cell["llm"], cell["config"])), cell["dataset"])))
        or "one without a name"
        for cell in small[:3]
    ]
    more = f" and {len(small) - 3} more" if len(small) > 3 else ""
    return [
        f"{len(small)} of {len(cells)} rows ({', '.join(names)}{more}) rest on fewer than "
        f"{FEW_PROMPTS} prompts whose lengths are known: their intervals, where there is one, are "
        "themselves rough."
    ]


def _headline(mixed: list[dict[str, object]]) -> dict[str, object]:
    def size(cell: dict[str, object]) -> int:
        return int(str(cell["prompts"])) if cell["tau"] else -1

    best = max(mixed, key=size)
    tau = best["tau"]
    # Greedy answers have one sample: their LLM's reruns are in the rows of another config.
    same_llm = [best, *(cell for cell in mixed if cell["llm"] == best["llm"])]
    rerun = next((cell for cell in same_llm if cell["ceiling_rerun"]), None)
    ceiling = rerun["ceiling_rerun"] if rerun else None
    return {
        "of": {"llm": best["llm"], "config": best["config"]},
        "tau": tau["value"] if isinstance(tau, dict) else None,
        "interval": [tau["low"], tau["high"]] if isinstance(tau, dict) else None,
        "ceiling": ceiling["value"] if isinstance(ceiling, dict) else None,
        "ceiling_interval": (
            [ceiling["low"], ceiling["high"]] if isinstance(ceiling, dict) else None
        ),
        "ceiling_config": rerun["config"] if rerun else None,
    }
