"""The default recipe in full: what it reaches, what it costs, and the ceilings that remain."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from pars_export.errors import InputError
from pars_export.files import atomic_file, sha256_file
from pars_model.experiments.cells import Cell
from pars_model.experiments.judging import RESAMPLES
from pars_model.experiments.matrix import RIDGE, shown
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section, table, word
from pars_model.experiments.workbench import Result, Workbench, source_digest
from pars_model.lengths import LengthTable, read_lengths, split_prompts, text_fraction
from pars_model.metrics import (
    Estimate,
    estimates,
    kendall_tau,
    noise_ceiling,
    tau_and_accuracy,
)
from pars_model.ngrams import NgramRidge, rank_targets
from pars_model.reliability import INTERVALS

Ints = NDArray[np.int64]
Ends = list[float | None]
"""A value and the low and high end of its interval."""
Fits = dict[int, tuple[Path, Result]]
"""Predictor folder and result of each fit of a cell, by its number of prompts, 0 for all."""

CONFIG = Path("configs/default.yaml")
TARGET = 0.70
CODE = tuple(
    f"pars_model.{name}"
    for name in ("batches", "datamodule", "evidence", "losses", "module", "optim", "pairs")
)
"""Modules that a fine-tuning's scores depend on."""
WHOLE_ALPACA = Cell("alpaca_52k", "text-davinci-003", "Alpaca, text-davinci-003")
FITS = {CELLS[0]: (0, 8_000, 4_000), WHOLE_ALPACA: (0, 8_000)}
"""Numbers of training prompts by cell, 0 for all; 8,000 are those of a table of 10,000."""
OVER = 0.03
"""Least that was wanted over the ridge, in every cell."""
MINUTES, CORES = {CELLS[0]: 10.0, WHOLE_ALPACA: 30.0}, 2
"""In which `TARGET` was wanted with so many cores: fits on all prompts of these cells have as many
threads, however many the rest has."""
PAIRED, FEW = CELLS[0], 4_000
"""Where the ways to form pairs are compared: a cell, and prompts to learn from."""
RANDOM = ("--data.pairing", "random", "--data.partners", "1")
HEAD = (
    "cell",
    "prompts learned from",
    "threads",
    "training, minutes",
    "export, minutes",
    "tau [95 %]",
    RIDGE,
    "gain",
    "prompt length",
)
INTRODUCTION = f"""\
`pars fit --config configs/default.yaml` on tables of real lengths, one seed. A tenth of the
prompts, by a hash of the text, chooses the epoch (the ridge learns from it too) and another tenth
is judged on. *Training* is the time of `pars fit`, validation included; *export* that of
`pars export` to ONNX, parity included. Fits on all prompts have {CORES} threads, whatever the rest
has, for their minutes are wanted of so many cores. Other cells stand elsewhere on this page: one
fine-tuned, most with frozen features alone."""
PAIRS = f"""\
What pairs cost, on {FEW:,} prompts of the first cell: *of a batch*, each prompt is encoded once an
epoch and all pairs of a batch teach; with *random partners*, as in the paper but one a prompt in
place of its ten, each pair is encoded by itself. All else is alike; the loss of the same pairs is
the same (tested)."""
TOKENS = """\
Scores as tokens, on the same judged prompts, which the calibration has not seen: expected over
true tokens; the mean distance of the two over ten bins, as a share of the mean; and the share of
responses inside the central intervals of the forecast."""
TOKENS_HEAD = (
    "cell",
    "expected over true [95 %]",
    "distance",
    *(f"inside {each:.0%} [95 %]" for each in INTERVALS),
)


def run(bench: Workbench) -> Section:
    """Fine-tune in full, on fewer and on all prompts."""
    if not CONFIG.is_file():
        raise InputError(f"{CONFIG} does not exist: run this from the root of the repository.")
    rows, ceilings, goals, tokens = [], [], [], []
    for cell, sizes in FITS.items():
        fits: Fits = {}
        for prompts in sizes:
            with _threads(bench, cell, prompts):
                path = part_of(bench, cell, prompts)
                found = fit(bench, cell, prompts, path)
                fits[prompts] = predictor_folder(bench, path), found
                row = [cell.title, f"{found['train']:,}", str(bench.threads)]
            tau, ridge, length = (Estimate(*found[name]) for name in ("tau", "ridge", "length"))
            row += [f"{found[time]:.1f}" for time in ("minutes", "export_minutes")]
            gain = f"{tau.value - ridge.value:+.3f}"
            rows.append([*row, shown(tau), shown(ridge), gain, shown(length)])
        ceilings.append(_ceiling(cell, read_lengths(bench.table(cell))))
        if len(fits) > 1:
            ceilings.append(curve(bench, cell, fits))
        folder, whole = fits[0]
        judged = in_full(bench, cell, folder)
        goals.append(goal(cell, whole, Estimate(*judged["gain"])))
        tokens.append([cell.title, *_tokens(judged["reliability"])])
    parts = [
        INTRODUCTION,
        table(HEAD, rows),
        f"Wanted: {OVER} over the ridge, and tau {TARGET:.2f} in few minutes:",
        "\n".join(goals),
        *ceilings,
        PAIRS,
        _pairings(bench),
        TOKENS,
        table(TOKENS_HEAD, tokens),
    ]
    return Section("The default recipe", parts)


def whole_fit(bench: Workbench, cell: Cell) -> tuple[Path, Result]:
    """Predictor folder and result of the fit on all prompts of a cell."""
    with _threads(bench, cell, 0):
        path = bench.table(cell)
        return predictor_folder(bench, path), fit(bench, cell, 0, path)


@contextmanager
def _threads(bench: Workbench, cell: Cell, prompts: int) -> Iterator[None]:
    """Give the bench the threads of a fit."""
    import torch

    before = bench.threads
    bench.threads = CORES if cell in MINUTES and not prompts else before
    torch.set_num_threads(bench.threads)
    try:
        yield
    finally:
        bench.threads = before
        torch.set_num_threads(before)


def part_of(bench: Workbench, cell: Cell, prompts: int) -> Path:
    """The cell's table; with fewer prompts to learn from, the same ones for val and test."""
    whole = bench.table(cell)
    if not prompts:
        return whole
    path = whole.with_name(f"{whole.stem}-train{prompts}.parquet")
    if path.is_file():
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    lengths = pq.read_table(whole)
    texts = lengths["prompt"].to_pylist()
    split = {text: _split(text) for text in texts}
    train = [text for text, part in split.items() if part == "train"]
    order = np.random.default_rng(0).permutation(len(train))
    dropped = {train[number] for number in order[prompts:]}
    rows = lengths.append_column("split", pa.array([split[text] for text in texts]))
    with atomic_file(path) as temporary:
        pq.write_table(rows.filter(pa.array([text not in dropped for text in texts])), temporary)
    return path


def _split(text: str) -> str:
    """The part that `pars fit` gives a text by its hash."""
    fraction = text_fraction(text)
    return "test" if fraction < 0.1 else "val" if fraction < 0.2 else "train"


def fit_folder(folder: Path, path: Path, more: Sequence[str] = ()) -> Path:
    """Where a fit by the default recipe on the table ``path`` has its files.

    Another recipe, table or training code has another folder, and never goes on from this one's
    checkpoint.
    """
    asked = json.dumps([_config(), *more, source_digest(CODE)], sort_keys=True).encode()
    digest = hashlib.sha256(asked + path.read_bytes()).hexdigest()
    return folder / f"{path.stem}-{digest[:12]}"


def _config() -> object:
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def predictor_folder(bench: Workbench, path: Path, more: Sequence[str] = ()) -> Path:
    """Where :func:`fit` leaves the predictor that learned from the table ``path``."""
    return fit_folder(bench.out / "recipe" / f"threads{bench.threads}", path, more) / "predictor"


def fit(bench: Workbench, cell: Cell, prompts: int, path: Path, more: Sequence[str] = ()) -> Result:
    """Train by the default recipe, export and judge.

    Args:
        bench: where results are kept.
        cell: of the lengths.
        prompts: number of prompts to learn from, 0 for all.
        path: their table, of :func:`part_of`.
        more: further arguments of `pars fit`.

    Returns:
        ``minutes`` and ``export_minutes``; ``train``, the number of prompts; ``val``, validation
        tau; and on the test split ``tau``, that of the ``ridge`` and that of prompt ``length``.
    """
    from pars_export.export import export_checkpoint
    from pars_model.callbacks import BEST

    folder = predictor_folder(bench, path, more)

    def compute() -> Result:
        minutes = train(folder.parent, path, more)
        start = time.monotonic()
        export_checkpoint(folder.parent / BEST, folder)
        exported = {"minutes": minutes, "export_minutes": (time.monotonic() - start) / 60}
        return {**exported, **_judged(folder.parent, path)}

    settings = {"config": _config(), "prompts": prompts, "folder": folder.parent.name}
    settings["threads"] = bench.threads
    if more:
        settings["more"] = list(more)
    label = f"fine-tune on {cell.title}, {' '.join((str(prompts or 'all'), 'prompts', *more))}"
    found = bench.kept(label, settings, compute, CODE, sha256_file(path), shelf="recipe")
    there(folder)
    return found


def there(folder: Path) -> Path:
    """The folder, which kept results speak of.

    Raises:
        InputError: it is gone.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is gone, though its results are kept: remove the results folder beside it, "
            "and all is trained again."
        )
    return folder


def train(root: Path, path: Path, more: Sequence[str] = ()) -> float:
    """Run `pars fit`, or go on with it; return its minutes, those before interruptions included.

    Args:
        root: folder of the fit.
        path: length table.
        more: further arguments of `pars fit`.
    """
    from pars_model.callbacks import LAST
    from pars_model.cli import main

    clock = root / "minutes.json"
    before = json.loads(clock.read_text()) if clock.is_file() else 0.0
    arguments = ["fit", "--config", str(CONFIG), "--data.path", str(path)]
    arguments += ["--trainer.default_root_dir", str(root), *more]
    if (root / LAST).is_file():
        arguments += ["--ckpt_path", str(root / LAST)]
    start = time.monotonic()
    try:
        status = main(arguments)
    finally:
        minutes = before + (time.monotonic() - start) / 60
        with atomic_file(clock) as temporary:
            temporary.write_text(json.dumps(minutes), encoding="utf-8")
    if status:
        raise KeyboardInterrupt
    return minutes


def _pairings(bench: Workbench) -> str:
    """One recipe and the same prompts, with the pairs of each batch and with random partners."""
    path = part_of(bench, PAIRED, FEW)
    rows = []
    for name, more, encoded in (("of a batch", (), 1), ("random partners", RANDOM, 2)):
        found = fit(bench, PAIRED, FEW, path, more)
        texts = f"{encoded * found['train']:,}"
        rows.append([name, texts, f"{found['minutes']:.1f}", shown(Estimate(*found["tau"]))])
    return table(("pairs", "texts encoded an epoch", "training, minutes", "tau [95 %]"), rows)


def gain_of(ours: ArrayLike, theirs: ArrayLike, lengths: LengthTable, items: Ints) -> Ends:
    """Tau of scores (n,) of items (n,) less that of others (n,), and the ends of its interval."""
    length, censored = lengths.length[items], lengths.censored[items]
    scores = (np.asarray(ours), np.asarray(theirs))

    def gain(drawn: Ints) -> NDArray[np.float64]:
        first, second = (kendall_tau(s[drawn], length[drawn], censored[drawn]) for s in scores)
        return np.array([first - second])

    (found,) = estimates(gain, lengths.prompt[items], RESAMPLES)
    return [found.value, found.low, found.high]


def _judged(root: Path, path: Path) -> Result:
    """Taus on the test split of the ranker, the ridge on the same rows, and prompt length."""
    from pars_model.callbacks import BEST
    from pars_model.checkpoint import load_ranker

    ranker = load_ranker(root / BEST)
    lengths = read_lengths(path)
    test, judged, ridge = _test_and_ridge(lengths)
    return {
        "train": int((split_prompts(lengths) == "train").sum()),
        "val": ranker.metrics["tau"],
        "tau": tau_of(ranker.score(judged), lengths, test),
        "ridge": tau_of(ridge.score(judged), lengths, test),
        "length": tau_of(np.array([len(text) for text in judged]), lengths, test),
    }


def _ridge_scores(path: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Scores of texts (n,) by the ridge on a table's prompts, those of its test split left out."""
    return _test_and_ridge(read_lengths(path))[2].score(texts)


def _test_and_ridge(lengths: LengthTable) -> tuple[Ints, list[str], NgramRidge]:
    """Items of the test split, their texts, and the ridge fitted on all other prompts."""
    split = split_prompts(lengths)
    test = np.flatnonzero((split == "test")[lengths.prompt])
    learned = split != "test"
    texts = np.array(lengths.prompts, dtype=object)
    target, _ = rank_targets(lengths, learned[lengths.prompt])
    ridge = NgramRidge(list(texts[learned]), target[learned])
    return test, list(texts[lengths.prompt[test]]), ridge


def tau_of(scores: ArrayLike, lengths: LengthTable, items: Ints) -> Ends:
    """Tau of the scores (n,) of items (n,) of a table, and the ends of its interval."""
    found, _ = tau_and_accuracy(
        np.asarray(scores, dtype=np.float64),
        lengths.length[items],
        lengths.censored[items],
        lengths.prompt[items],
    )
    return [found.value, found.low, found.high]


def in_full(bench: Workbench, cell: Cell, folder: Path) -> Result:
    """More of a fit on all prompts of a cell.

    Args:
        bench: where results are kept.
        cell: of the lengths.
        folder: of the predictor.

    Returns:
        ``gain``, tau less that of the ridge, with the interval of the difference on the same
        draws; and ``reliability``, what `pars_model.reliability.reliability` found.
    """
    from pars_export import Predictor
    from pars_export.artifact import folder_sha256
    from pars_model.evaluate import evaluate

    path = bench.table(cell)

    def compute() -> Result:
        predictor, lengths = Predictor.load(folder, threads=bench.threads), read_lengths(path)
        test, texts, ridge = _test_and_ridge(lengths)
        gain = gain_of(predictor.score(texts), ridge.score(texts), lengths, test)
        (mixed,) = cast("list[Result]", evaluate(predictor, path, "test", RESAMPLES)["mixed"])
        return {"gain": gain, "reliability": mixed["reliability"]}

    code = ("pars_model.metrics", "pars_model.ngrams", "pars_model.reliability")
    settings = {"predictor": folder_sha256(folder)}
    return bench.kept(f"judge {cell.title}", settings, compute, code, sha256_file(path))


def goal(cell: Cell, found: Result, gain: Estimate) -> str:
    """What was wanted in a cell, and what came of it."""
    told = [f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over the ridge"]
    told[0] += f" ({word(gain.value >= OVER)})"
    if cell in MINUTES:
        told.append(f"tau {found['tau'][0]:.3f} ({word(found['tau'][0] >= TARGET)})")
        minutes, most = found["minutes"], MINUTES[cell]
        told.append(f"{minutes:.1f} minutes of at most {most:.0f} ({word(minutes <= most)})")
    return f"- {cell.title}: {', '.join(told)}."


def _tokens(found: Result) -> list[str]:
    """Columns after the first of the table of tokens."""
    ratio, *inside = (Estimate(**e) for e in (found["tokens_ratio"], *found["coverage"].values()))
    return [shown(ratio), f"{found['tokens_error']:.2f}", *map(shown, inside)]


def _ceiling(cell: Cell, lengths: LengthTable) -> str:
    """What rerun noise leaves to predict: shares of the samples against the others."""
    found = noise_ceiling(lengths)
    if found is None:
        return f"{cell.title}: one sample per prompt, so there is no ceiling."
    rerun, median = found
    versus = f", and against the median of the others {shown(median)}" if median else ""
    return (
        f"{cell.title}: one run of the LLM orders the prompts of another at {shown(rerun)}{versus}."
    )


def curve(bench: Workbench, cell: Cell, fits: Fits, over_ridge: bool = False) -> str:
    """What twice the prompts are worth, by the least-squares line through tau and log prompts.

    Args:
        bench: where results are kept.
        cell: of the lengths.
        fits: two or more.
        over_ridge: ask for the lead over the ridge that learned from the same prompts, and for
            what reaches `OVER`, instead of tau and `TARGET`.
    """
    from pars_export import Predictor
    from pars_export.artifact import folder_sha256

    path = bench.table(cell)
    folders, results = zip(*fits.values(), strict=True)
    sizes = [found["train"] for found in results]
    wanted_of, target = (f"lead over the {RIDGE}", OVER) if over_ridge else ("tau", TARGET)

    def compute() -> Result:
        lengths = read_lengths(path)
        test = np.flatnonzero((split_prompts(lengths) == "test")[lengths.prompt])
        texts = [lengths.prompts[number] for number in lengths.prompt[test]]
        ours = [Predictor.load(each, threads=bench.threads).score(texts) for each in folders]
        theirs = [_ridge_scores(part_of(bench, cell, each), texts) for each in fits if over_ridge]
        length, censored = lengths.length[test], lengths.censored[test]

        def taus(scores: Sequence[NDArray[np.float32]], drawn: Ints) -> NDArray[np.float64]:
            found = [kendall_tau(each[drawn], length[drawn], censored[drawn]) for each in scores]
            return np.array(found)

        def line(drawn: Ints) -> NDArray[np.float64]:
            """What twice the prompts add, and log2 of the prompts that the target would take."""
            reached = taus(ours, drawn) - (taus(theirs, drawn) if over_ridge else 0.0)
            slope, at = np.polyfit(np.log2(sizes), reached, 1)
            return np.array([slope, (target - at) / slope if slope > 0 else np.inf])

        found = estimates(line, lengths.prompt[test], RESAMPLES)
        return {
            name: [each.value, each.low, each.high]
            for name, each in zip(("slope", "wanted"), found, strict=True)
        }

    settings = {"predictors": [folder_sha256(folder) for folder in folders], "target": target}
    code = ("pars_model.metrics", *(["pars_model.ngrams"] if over_ridge else []))
    found = bench.kept(f"curve of {cell.title}", settings, compute, code, sha256_file(path))
    slope, slope_low, slope_high = found["slope"]
    wanted, low, high = (_power_of_two(each) for each in found["wanted"])
    largest = max(results, key=lambda fit: float(fit["train"]))
    minutes = wanted * largest["minutes"] / largest["train"]
    ahead = largest["tau"][0] - (largest["ridge"][0] if over_ridge else 0.0)
    reached = f"no number of prompts reaches {target:.2f}"
    if ahead >= target:
        reached = f"{target:.2f} is reached"
    elif math.isfinite(wanted):
        most = f"{high:,.0f}" if math.isfinite(high) else "no end"
        reached = (
            f"{target:.2f} takes {wanted:,.0f} prompts [{low:,.0f}, {most}] and, at the pace of "
            f"the largest of these fits, {minutes:,.0f} minutes"
        )
    return (
        f"{cell.title}: twice as many prompts to learn from are worth {slope:+.3f} "
        f"[{slope_low:+.3f}, {slope_high:+.3f}] of {wanted_of} between {min(sizes):,} and "
        f"{max(sizes):,}; on that line {reached}."
    )


def _power_of_two(power: float | None) -> float:
    """Infinity where there is none, or where it is beyond all numbers."""
    return 2**power if power is not None and power < 1000 else math.inf
