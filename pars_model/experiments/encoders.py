"""Encoders of six and of twelve layers: from a table of lengths to an exported predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pars_export.errors import InputError
from pars_export.files import sha256_file
from pars_model.experiments import fine_tuning
from pars_model.experiments.fine_tuning import CORES
from pars_model.experiments.frontier import SPEED_CODE, microseconds
from pars_model.experiments.held_out import gain_of, judged_items, part_of
from pars_model.experiments.matrix import LENGTH, RIDGE, shown
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section, table, word
from pars_model.experiments.workbench import Result, Workbench
from pars_model.lengths import read_lengths
from pars_model.metrics import Estimate

if TYPE_CHECKING:
    from pars_model.evaluate import Scorer


@dataclass(frozen=True)
class Encoder:
    """An encoder that the default recipe fine-tunes.

    Attributes:
        parameters: its number, in words.
        more: what `pars fit` is told beyond the recipe.
        folder: where it must be, "" for one that a package brings.
    """

    parameters: str
    more: tuple[str, ...] = ()
    folder: str = ""


CELL, PROMPTS = CELLS[0], 8_000
"""Whose lengths, and how many prompts to learn from: those of a table of 10,000."""
MOST = 10.0
"""Minutes from the table to the exported predictor that were wanted of MiniLM."""
MINILM = "MiniLM, 6 layers of 384"
MPNET, RATE = "encoders/all-mpnet-base-v2", "6e-5"
"""As `make mpnet` writes it, and the learning rate of its last layer."""
ENCODERS: Mapping[str, Encoder] = {
    MINILM: Encoder("22 million"),
    "MPNet, 12 layers of 768": Encoder(
        "109 million",
        ("--model.encoder", MPNET, "--model.lr", RATE, "--trainer.max_epochs", "2"),
        MPNET,
    ),
}
COLUMNS = (
    "encoder",
    "parameters",
    "training, minutes",
    "export, minutes",
    "us a prompt, alone",
    "us a prompt, 256 at once",
    "tau [95 %]",
    f"less {MINILM} [95 %]",
)
INTRODUCTION = f"""\
From a table to an exported predictor with {CORES} threads, by `configs/default.yaml`, one seed:
{CELL.title}, {PROMPTS:,} prompts to learn from, as a table of 10,000 has them. The data set's
validation prompts choose the epoch and the n-gram half's share, its test prompts judge.
All-mpnet-base-v2 is as large as BERT-base; it has two epochs at the learning rate {RATE}, the usual
one for its size, and no search. Export is to ONNX in float32, its comparison on held-out prompts
included; microseconds are CPU time of that engine on one core, tokenising included."""


def run(bench: Workbench) -> Section:
    """Fine-tune each that is there, export, judge and time."""
    if not fine_tuning.CONFIG.is_file():
        raise InputError(
            f"{fine_tuning.CONFIG} does not exist: run this from the root of the repository."
        )
    there = {
        name: each
        for name, each in ENCODERS.items()
        if not each.folder or Path(each.folder, "config.json").is_file()
    }
    path = part_of(bench, CELL, PROMPTS)
    fits = {}
    with fine_tuning.threads_of(bench, CELL, 0):
        for name, each in there.items():
            found = fine_tuning.fit(bench, CELL, PROMPTS, path, each.more)
            fits[name] = found, fine_tuning.predictor_folder(bench, path, each.more)
    beside = _beside(bench, path, {name: folder for name, (_, folder) in fits.items()})
    rows = []
    for name, (found, _) in fits.items():
        lead = beside["leads"].get(name)
        rows.append(
            [
                name,
                there[name].parameters,
                *(f"{found[time]:.1f}" for time in ("minutes", "export_minutes")),
                *(f"{us:,.0f}" for us in beside["us"][name]),
                shown(Estimate(*found["tau"])),
                shown(lead and Estimate(*lead), signed=True),
            ]
        )
    first = fits[MINILM][0]
    minutes = first["minutes"] + first["export_minutes"]
    ridge, length = (shown(Estimate(*first[name])) for name in ("ridge", "length"))
    missing = [f"{name} (`make mpnet` brings it)" for name in ENCODERS if name not in there]
    short = ", ".join(
        f"{found['tau'][0]:.3f} in {found['minutes']:.1f} minutes ({name})"
        for name, (found, _) in fits.items()
    )
    return Section(
        "Encoders",
        [
            INTRODUCTION,
            table(COLUMNS, rows),
            f"On the same prompts the {RIDGE} has {ridge}, {LENGTH} {length}.",
            f"Wanted: a predictor of {MINILM} in less than {MOST:.0f} minutes: {minutes:.1f} "
            f"({word(minutes < MOST)}).",
            *([f"Not run: {'; '.join(missing)}."] if missing else []),
        ],
        short=f"By encoder, from {PROMPTS:,} prompts: tau {short}.",
    )


def _beside(bench: Workbench, path: Path, folders: Mapping[str, Path]) -> Result:
    """Microseconds of each, alone and in a burst, and its lead over the first."""
    from pars_export import Predictor
    from pars_export.artifact import folder_sha256

    def compute() -> Result:
        lengths = read_lengths(path)
        test, texts = judged_items(lengths)
        scorers: dict[str, Scorer] = {
            name: Predictor.load(folder) for name, folder in folders.items()
        }
        scores = {name: each.score(texts) for name, each in scorers.items()}
        leads = {
            name: gain_of(each, scores[MINILM], lengths, test)
            for name, each in scores.items()
            if name != MINILM
        }
        return {"us": microseconds(scorers, texts), "leads": leads}

    settings = {name: folder_sha256(folder) for name, folder in folders.items()}
    return bench.kept("judge and time", settings, compute, SPEED_CODE, sha256_file(path))
