"""The default recipe in full: what it reaches, what it costs, and the ceilings that remain."""

from __future__ import annotations

from pars_export.errors import InputError
from pars_model.experiments import fine_tuning
from pars_model.experiments.cells import Cell
from pars_model.experiments.fine_tuning import CORES, WHOLE_ALPACA
from pars_model.experiments.held_out import TARGET, Fits, curve, in_full, part_of
from pars_model.experiments.matrix import OVER_RIDGE, RIDGE, shown
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section, table, word
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import LengthTable, read_lengths
from pars_model.metrics import Estimate, noise_ceiling
from pars_model.reliability import INTERVALS

FITS = {CELLS[0]: (0, 8_000, 4_000), WHOLE_ALPACA: (0, 8_000)}
"""Numbers of training prompts by cell, 0 for all; 8,000 are those of a table of 10,000."""
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
prompts, by a hash of the text, chooses the epoch and the n-gram half's share (the ridge learns from
it too) and another tenth is judged on. *Training* is the time of `pars fit`, validation included;
*export* that of `pars export` to ONNX, parity included. Fits on all prompts have {CORES} threads,
whatever the rest has, for their minutes are wanted of so many cores. Other cells stand elsewhere on
this page: one fine-tuned, most with frozen features alone."""
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
    config = fine_tuning.CONFIG
    if not config.is_file():
        raise InputError(f"{config} does not exist: run this from the root of the repository.")
    rows, ceilings, goals, tokens = [], [], [], []
    for cell, sizes in FITS.items():
        fits: Fits = {}
        for prompts in sizes:
            with fine_tuning.threads_of(bench, cell, prompts):
                path = part_of(bench, cell, prompts)
                found = fine_tuning.fit(bench, cell, prompts, path)
                fits[prompts] = fine_tuning.predictor_folder(bench, path), found
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
        f"Wanted: {OVER_RIDGE} over the ridge, and tau {TARGET:.2f} in few minutes:",
        "\n".join(goals),
        *ceilings,
        PAIRS,
        _pairings(bench),
        TOKENS,
        table(TOKENS_HEAD, tokens),
    ]
    return Section("The default recipe", parts)


def _pairings(bench: Workbench) -> str:
    """One recipe and the same prompts, with the pairs of each batch and with random partners."""
    path = part_of(bench, PAIRED, FEW)
    rows = []
    for name, more, encoded in (("of a batch", (), 1), ("random partners", RANDOM, 2)):
        found = fine_tuning.fit(bench, PAIRED, FEW, path, more)
        texts = f"{encoded * found['train']:,}"
        rows.append([name, texts, f"{found['minutes']:.1f}", shown(Estimate(*found["tau"]))])
    return table(("pairs", "texts encoded an epoch", "training, minutes", "tau [95 %]"), rows)


def goal(cell: Cell, found: Result, gain: Estimate) -> str:
    """What was wanted in a cell, and what came of it."""
    told = [f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over the ridge"]
    told[0] += f" ({word(gain.value >= OVER_RIDGE)})"
    if cell in fine_tuning.MINUTES:
        told.append(f"tau {found['tau'][0]:.3f} ({word(found['tau'][0] >= TARGET)})")
        minutes, most = found["minutes"], fine_tuning.MINUTES[cell]
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
