"""Tau against microseconds: what scores a prompt how well, and what that costs end to end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pars_export.files import atomic_folder, sha256_file
from pars_model.experiments import fine_tuning
from pars_model.experiments.fine_tuning import CORES, NETWORK_ALONE, WHOLE_ALPACA
from pars_model.experiments.frontier_page import (
    BURST,
    HEAD,
    OTHERS,
    TEACHER,
    Leads,
    Place,
    goals,
    picture,
)
from pars_model.experiments.held_out import gain_of, judged_items, ridge_of, tau_of
from pars_model.experiments.hollow import hollow_out
from pars_model.experiments.linear_folder import write_linear
from pars_model.experiments.matrix import RIDGE, RIDGE_CODE
from pars_model.experiments.objectives import CELLS
from pars_model.experiments.page import Section, table
from pars_model.experiments.workbench import LeftOutError, Result, Workbench
from pars_model.lengths import LengthTable, read_lengths
from pars_model.metrics import Estimate

if TYPE_CHECKING:
    from pars_model.evaluate import Scorer

CELL = CELLS[0]
"""Whose lengths."""
MORE = WHOLE_ALPACA
"""Whose other prompts the teacher scores for the students; its lengths are not read."""
SPLICED = 360_000
"""Prompts that are made up of parts of these, for the same."""
EPOCHS = 4
"""Of a student, on so many texts: on validation six were no better, and half the splices worse."""
LAYERS = (2, 3)
"""First layers of MiniLM that are fine-tuned beside all of it, which teaches the students."""
STUDENTS: Mapping[str, tuple[int, int]] = {
    "student, 64 channels": (64, 1),
    "student, 128 channels": (128, 1),
    "two students, 64 channels": (64, 2),
}
"""Channels of each, and how many are trained apart to score as one."""
HOLLOW = "student, hollow"
DEFAULT = "default predictor"
LINEAR, LENGTH = "n-gram student", "prompt length"
STUDENT_CODE = (
    "pars_export.network",
    "pars_export.remembered",
    "pars_export.runtimes.arrays",
    "pars_export.words",
    *(
        f"pars_model.{name}"
        for name in (
            *("batches", "checkpoint", "checkpoint_content", "course", "distil", "losses"),
            *("module", "optim", "pairs", "reading", "splice", "student", "student_fit"),
            "student_folder",
        )
    ),
)
SPEED_CODE = (
    *(f"pars_export.{name}" for name in ("batches", "inputs", "remembered", "words")),
    *(f"pars_export.runtimes.{name}" for name in ("arrays", "blas", "encoded")),
    *(f"pars_export.runtimes.{name}" for name in ("ngrams", "student")),
)
ROUNDS, ALONE = 5, 64
INTRODUCTION = f"""\
{CELL.title}: all learn from the same prompts with lengths; a tenth of the table's prompts, by a
hash of the text, chooses epochs (the ridge learns from it too) and another tenth judges. Encoders
are the first layers of MiniLM, fine-tuned by `configs/default.yaml`, but with no n-gram half, and
run as `pars export` writes them (ONNX, float32). Students are distilled from all six layers (scores
and vectors), which also read for them the prompts of Alpaca that the table has no lengths of and up
to {SPLICED:,} spliced ones (what the hash keeps for choosing and judging is left out of both); two
of them are trained apart, from seeds of their own, and score by their mean. The n-gram student is a
ridge on subwords like the default predictor's linear half, its penalty chosen on the tenth that
chooses. The default predictor knows neither this LLM nor these prompts. Everything has one seed.
Microseconds are CPU time on one core of this machine, tokenising included: the median of {ROUNDS}
rounds in which all take turns, on judged prompts, one by one and {BURST} in a call."""
TIMES = """\
*Minutes* are those of training, of six layers with {cores} threads and of the rest with {threads},
for a student without the teacher's reading where what it said was kept."""


def run(bench: Workbench) -> Section:
    """Train what is missing, then judge and time all of it."""
    path = bench.table(CELL)
    lengths = read_lengths(path)
    minutes: dict[str, float | None] = dict.fromkeys((DEFAULT, RIDGE, LENGTH, LINEAR))
    folders: dict[str, Path] = {}
    folders[TEACHER], found = fine_tuning.whole_fit(bench, CELL, NETWORK_ALONE)
    minutes[TEACHER] = float(found["minutes"])
    folders[LINEAR] = write_linear(bench.out / "frontier" / "linear", lengths)
    left_out = ["12 layers, which stand under *Encoders*: they learned there from fewer prompts"]
    for layers in LAYERS:
        name = f"MiniLM, {layers} layers"
        try:
            folders[name], minutes[name] = _encoder(bench, path, layers)
        except LeftOutError:
            left_out.append(name)
    for name in STUDENTS:
        folders[name], minutes[name] = _student(bench, path, folders[TEACHER], name)
    calls = hollow_out(folders[next(iter(STUDENTS))], bench.out / "frontier" / "hollow")
    places, leads, least = _places(bench, path, lengths, folders, calls, minutes)
    return Section(
        "The frontier",
        [
            INTRODUCTION,
            TIMES.format(cores=CORES, threads=bench.threads),
            table(HEAD, [each.row() for each in places]),
            goals(places, leads, least),
            f"Not run: {'; '.join(left_out)}.",
        ],
        {"frontier.png": picture([place for place in places if place.name != LENGTH])},
        {"frontier.png": "Tau against microseconds a prompt, alone and in a burst"},
    )


def _encoder(bench: Workbench, path: Path, layers: int) -> tuple[Path, float]:
    """The predictor folder of a fine-tuned encoder of so many layers, and its minutes."""
    from pars_export.export import export_checkpoint
    from pars_model.callbacks import BEST

    place = bench.out / "frontier" / f"layers{layers}-threads{bench.threads}"
    root = fine_tuning.fit_folder(place, path, NETWORK_ALONE)
    encoder, folder = root / "encoder", root / "predictor"

    def compute() -> Result:
        if not encoder.is_dir():
            shallow(encoder, layers)
        more = ["--model.encoder", str(encoder), *NETWORK_ALONE]
        minutes = fine_tuning.train(root, path, more)
        export_checkpoint(root / BEST, folder)
        return {"minutes": minutes}

    settings = {"config": fine_tuning.config(), "layers": layers, "threads": bench.threads}
    found = bench.kept(
        f"fine-tune {layers} layers", settings, compute, fine_tuning.CODE, sha256_file(path)
    )
    return fine_tuning.there(folder), float(found["minutes"])


def shallow(folder: Path, layers: int) -> None:
    """Write the first layers of MiniLM as a model folder, whole or not at all.

    Raises:
        InputError: MiniLM is not installed.
    """
    import json

    from safetensors.torch import save_file

    from pars_model.encoder import find_encoder, pretrained_weights

    files = find_encoder("embedded:minilm")
    config = {**files.config, "num_hidden_layers": layers}
    weights = {
        name: weight.contiguous()
        for name, weight in pretrained_weights(files).items()
        if not (parts := name.split("layer.")[1:]) or int(parts[0].split(".")[0]) < layers
    }
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (temporary / "tokenizer.json").write_text(files.tokenizer_json, encoding="utf-8")
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})


def _student(bench: Workbench, path: Path, teacher: Path, name: str) -> tuple[Path, float]:
    """The predictor folder of a student, and the minutes that it took."""
    from pars_export.artifact import folder_sha256
    from pars_model.callbacks import BEST
    from pars_model.checkpoint import load_ranker
    from pars_model.distil import distil
    from pars_model.student import StudentShape
    from pars_model.student_fit import Recipe

    channels, members = STUDENTS[name]
    folder = bench.out / "frontier" / f"student{channels}x{members}-threads{bench.threads}"
    more = bench.table(MORE)
    recipe = Recipe(shape=StudentShape(channels=channels), members=members)
    recipe = replace(recipe, course=replace(recipe.course, epochs=EPOCHS))

    def compute() -> Result:
        start = time.monotonic()
        kept = bench.out / "frontier" / f"vectors-{folder_sha256(teacher)[:16]}.npz"
        texts = read_lengths(more).prompts
        distil(load_ranker(teacher.parent / BEST), path, folder, recipe, texts, kept, SPLICED)
        return {"minutes": (time.monotonic() - start) / 60}

    asked = {"recipe": repr(recipe), "spliced": SPLICED, "threads": bench.threads}
    settings = {**asked, "teacher": folder_sha256(teacher)}
    label = f"distil {name}"
    data = sha256_file(path) + sha256_file(more)
    found = bench.kept(label, settings, compute, STUDENT_CODE, data)
    return fine_tuning.there(folder), float(found["minutes"])


def _places(
    bench: Workbench,
    path: Path,
    lengths: LengthTable,
    folders: Mapping[str, Path],
    calls: Path,
    minutes: Mapping[str, float | None],
) -> tuple[list[Place], Leads, float]:
    """All places, the students' leads, and the microseconds of a hollow student alone."""
    from pars_export import Predictor
    from pars_export.artifact import DEFAULT_PREDICTOR, folder_sha256

    test, texts = judged_items(lengths)

    def compute() -> Result:
        scorers: dict[str, Scorer] = {RIDGE: ridge_of(lengths), LENGTH: _Characters()}
        scorers[DEFAULT] = Predictor.default()
        scorers |= {name: Predictor.load(folder) for name, folder in folders.items()}
        scores = {name: each.score(texts) for name, each in scorers.items()}
        taus = {name: tau_of(each, lengths, test) for name, each in scores.items()}
        leads = {
            student: {
                other: gain_of(scores[student], scores[other], lengths, test) for other in OTHERS
            }
            for student in STUDENTS
        }
        scorers[HOLLOW] = Predictor.load(calls)
        return {"tau": taus, "leads": leads, "us": microseconds(scorers, texts)}

    shas = {name: folder_sha256(folder) for name, folder in folders.items()}
    settings = {"folders": {**shas, DEFAULT: folder_sha256(DEFAULT_PREDICTOR)}}
    code = ("pars_model.linear", "pars_model.experiments.hollow", *RIDGE_CODE, *SPEED_CODE)
    found = bench.kept("judge and time", settings, compute, code, sha256_file(path))
    places = [
        Place(name, Estimate(*tau), found["us"][name][0], found["us"][name][1], minutes[name])
        for name, tau in found["tau"].items()
    ]
    leads = {
        student: {other: Estimate(*lead) for other, lead in each.items()}
        for student, each in found["leads"].items()
    }
    return sorted(places, key=lambda place: place.burst), leads, found["us"][HOLLOW][0]


class _Characters:
    """Orders by the length of the prompt."""

    def score(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        return np.array([len(text) for text in texts], dtype=np.float32)


def microseconds(scorers: Mapping[str, Scorer], texts: Sequence[str]) -> dict[str, list[float]]:
    """Of each, the median microseconds of a prompt alone and among many."""
    from pars_bench.predictor.speed import take_turns

    def one_by_one(score: Callable[[list[str]], object], some: Sequence[str]) -> None:
        for text in some:
            score([text])

    alone, burst = list(texts[:ALONE]), (list(texts) * BURST)[:BURST]
    with _on_one_core():
        found = [
            take_turns({name: partial(call, each) for name, each in scorers.items()}, ROUNDS, 1)
            for call in (
                lambda each: one_by_one(each.score, alone),
                lambda each: each.score(burst),
            )
        ]
    return {
        name: [
            float(np.median(times[name]["seconds"])) * 1e6 / count
            for times, count in zip(found, (len(alone), BURST), strict=True)
        ]
        for name in scorers
    }


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep this thread on one core, so that no library's threads can help."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
