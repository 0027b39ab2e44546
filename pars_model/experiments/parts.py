"""The default recipe with one part after the other changed, and on prompts of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pars_export.files import sha256_file
from pars_model.experiments.fine_tuning import NETWORK_ALONE, fit, predictor_folder
from pars_model.experiments.held_out import Fits, curve, gain_of, in_full, judged_items, part_of
from pars_model.experiments.matrix import RIDGE, shown
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section, table
from pars_model.experiments.recipe import FEW, PAIRED, goal
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import read_lengths
from pars_model.metrics import Estimate

CELL, OTHER = PAIRED, replace(CELLS[2], prompts=0)
SIZES = (0, 3_500)
"""Numbers of training prompts of the other cell, 0 for all."""
CHANGES: Mapping[str, tuple[str, ...]] = {
    "batches sorted by length": ("--data.pool", "32"),
    "one learning rate for all layers": ("--model.layer_decay", "1.0"),
    "no n-gram half": NETWORK_ALONE,
    "float32 throughout": ("--trainer.precision", "32-true"),
}
"""Further arguments of `pars fit`, by what they change."""
CHANGED = f"""\
`pars fit --config configs/default.yaml` on {FEW:,} prompts of {CELL.title}, one seed, judged on a
tenth of all; a change is one argument, all else alike, and its difference has the interval of the
same draws of prompts. *Validation tau* is of another tenth, which chooses the epoch, and the n-gram
half's share where there is one. Mixed batches were chosen by it on the exam questions below; here
sorted ones are no worse, and quicker. What pairs of a batch are worth beside random partners stands
under *The default recipe*."""
ELSEWHERE = """\
The recipe as it is, on exam questions: on all of the data set but two tenths, and on half as many.
That an earlier one, with batches of 32 sorted by length, was behind the ridge here was seen on the
judged prompts; that larger mixed ones do better was found by validation tau, in trials that no
command repeats and that do not tell the two changes apart."""
HEAD = (
    "cell",
    "prompts learned from",
    "training, minutes",
    "validation tau",
    "tau [95 %]",
    RIDGE,
    "prompt length",
)
CHANGED_HEAD = (
    "changed",
    "training, minutes",
    "validation tau",
    "tau [95 %]",
    "difference [95 %]",
)


def run(bench: Workbench) -> Section:
    """Fit with and without each change, and in the other cell."""
    fits: Fits = {}
    rows = []
    for prompts in SIZES:
        path = part_of(bench, OTHER, prompts)
        found = fit(bench, OTHER, prompts, path)
        fits[prompts] = predictor_folder(bench, path), found
        taus = [shown(Estimate(*found[name])) for name in ("tau", "ridge", "length")]
        row = [OTHER.title, f"{found['train']:,}", f"{found['minutes']:.1f}", f"{found['val']:.3f}"]
        rows.append([*row, *taus])
    folder, whole = fits[0]
    gain = Estimate(*in_full(bench, OTHER, folder)["gain"])
    return Section(
        "Parts of the recipe",
        [
            CHANGED,
            table(CHANGED_HEAD, _rows(bench)),
            ELSEWHERE,
            table(HEAD, rows),
            goal(OTHER, whole, gain),
            curve(bench, OTHER, fits, over_ridge=True),
        ],
        short=f"Fine-tuned on {OTHER.title}: {gain.value:+.3f} over the {RIDGE}.",
    )


def _rows(bench: Workbench) -> list[list[str]]:
    """Lines of the recipe and of each change."""
    path = part_of(bench, CELL, FEW)
    unchanged = predictor_folder(bench, path)
    rows = []
    for name, more in {"the recipe": (), **CHANGES}.items():
        found = fit(bench, CELL, FEW, path, more)
        row = [name, f"{found['minutes']:.1f}", f"{found['val']:.3f}"]
        row += [shown(Estimate(*found["tau"])), ""]
        if more:
            change = _over(bench, path, predictor_folder(bench, path, more), unchanged)
            row[-1] = shown(change, signed=True)
        rows.append(row)
    return rows


def _over(bench: Workbench, path: Path, folder: Path, unchanged: Path) -> Estimate:
    """Tau of a predictor less that of the recipe's on a table's test split, with its interval."""
    from pars_export import Predictor
    from pars_export.artifact import folder_sha256

    folders = (folder, unchanged)

    def compute() -> Result:
        lengths = read_lengths(path)
        test, texts = judged_items(lengths)
        ours, theirs = (Predictor.load(f, threads=bench.threads).score(texts) for f in folders)
        return {"gain": gain_of(ours, theirs, lengths, test)}

    settings = {"predictors": [folder_sha256(each) for each in folders]}
    label = f"judge {folder.parent.name} beside the recipe"
    found = bench.kept(label, settings, compute, ("pars_model.metrics",), sha256_file(path))
    return Estimate(*found["gain"])
