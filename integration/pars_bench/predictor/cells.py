"""The cells of a run, the processes that measure them, and the report that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from pars_bench.experiment import Facts
from pars_bench.predictor.contestants import Contestant
from pars_bench.predictor.grid import FEW, PROFILED_ROUNDS, START_PROMPTS, TOKENS, Grid
from pars_bench.predictor.processes import Child, measure_memory, measure_start, start_speeds
from pars_bench.predictor.report import Order, Parity, PredictorReport, SpeedCell
from pars_bench.predictor.texts import makers_of, repeated
from pars_bench.promptfile import read_prompts
from pars_export.artifact import folder_sha256, read_manifest
from pars_export.runtimes.encoded import TOKENIZER, load_tokenizer
from pars_export.words import read_tokenizer

DEMO_SOURCE = "pars-demo"
"""What `pars_model/universal/sources.json` calls the demonstration's length table."""


class Cells:
    """All that a run measures; processes are started when the first cell needs them."""

    def __init__(
        self, stack: ExitStack, contestants: Sequence[Contestant], grid: Grid, prompts: Path
    ) -> None:
        self._stack = stack
        self._contestants = {_slug(each.name): each for each in contestants}
        self._grid = grid
        self._path = prompts
        self._prompts = [prompt.text for prompt in read_prompts(prompts)]
        self._children: dict[int, Child] = {}

    def named(self) -> dict[str, Facts]:
        """Name -> what is measured, in the order in which it is."""
        grid = self._grid
        found: dict[str, Facts] = {}
        for turn in range(max(grid.starts, grid.slow_starts)):
            for slug in self._contestants:
                if turn < self._starts(slug):
                    found[f"start-{slug}-{turn}"] = {"kind": "start", "who": slug}
        for slug, each in self._contestants.items():
            if not each.baseline or each.what == "ngram-ridge":
                found[f"order-{slug}"] = {"kind": "order", "who": slug}
        for threads in grid.threads:
            for slug in self._contestants:
                found[f"memory-{threads}-{slug}"] = {
                    "kind": "memory",
                    "who": slug,
                    "threads": threads,
                    "shapes": [list(shape) for shape in self._sizes(slug)],
                }
        for threads in grid.threads:
            for length, batch in grid.shapes():
                found[f"speed-{threads}-{length}-{batch}"] = {
                    "kind": "speed",
                    "threads": threads,
                    "length": length,
                    "batch": batch,
                    "rounds": grid.rounds_of(length, batch),
                }
                if length * batch <= TOKENS:
                    found[f"parts-{threads}-{length}-{batch}"] = {
                        "kind": "parts",
                        "threads": threads,
                        "length": length,
                        "batch": batch,
                        "rounds": PROFILED_ROUNDS * grid.rounds,
                    }
            for turn in range(grid.burst_rounds):
                found[f"burst-{threads}-{turn}"] = {
                    "kind": "burst",
                    "threads": threads,
                    "turn": turn,
                    "names": self._bursting(),
                    "count": grid.burst,
                    "few": min(FEW, grid.burst),
                }
        return found

    def measure(self, cell: Facts) -> Facts:
        """One cell."""
        given: dict[str, Any] = {k: v for k, v in cell.items() if k not in ("kind", "of")}
        if cell["kind"] == "start":
            return measure_start(
                self._contestants[given["who"]],
                max(self._grid.lengths),
                self._prompts[:START_PROMPTS],
            )
        if cell["kind"] == "memory":
            return {"peak_mib": self._memory(**given)}
        if cell["kind"] == "order":
            name = self._contestants[given.pop("who")].name
            found = self._child(self._grid.threads[0]).ask(do="order", name=name)
        else:
            do = "cell" if cell["kind"] == "speed" else cell["kind"]
            found = self._child(given.pop("threads")).ask(do=do, **given)
        return cast("Facts", found)

    def report(self, results: dict[str, Facts]) -> PredictorReport:
        """All results in one."""
        report: PredictorReport = {
            "environment": {},
            "settings": {},
            "predictors": {},
            "contestants": {},
            "speed": [],
            "starts": {},
            "memory": [],
            "bursts": [],
            "burst_lengths": {},
            "orders": {},
        }
        found = cast("dict[str, Any]", results)
        grid = self._grid
        for slug, each in self._contestants.items():
            folder, work = Path(each.folder), each.work()
            report["contestants"][each.name] = {
                "what": each.what,
                "folder": None if each.baseline else folder.name,
                "auto": each.auto,
                "large": each.large,
                "work": None if work is None else asdict(work),
                "parity": None if each.baseline else _parity(folder, each.what),
            }
            if not each.baseline and folder.name not in report["burst_lengths"]:
                report["predictors"][folder.name] = folder_sha256(folder)
                report["burst_lengths"][folder.name] = self._tokens(folder)
            starts = [found[f"start-{slug}-{turn}"] for turn in range(self._starts(slug))]
            report["starts"][each.name] = {
                "seconds": [start["seconds"] for start in starts],
                "cpu_seconds": [start["cpu_seconds"] for start in starts],
                "resident_mib": [start["resident_mib"] for start in starts],
                "peak_mib": [start["peak_mib"] for start in starts],
                "imported": starts[0]["imported"],
            }
            if f"order-{slug}" in found:
                seen = not each.baseline and _learned_from_the_test(folder)
                report["orders"][each.name] = cast("Order", found[f"order-{slug}"] | {"seen": seen})
        for threads in grid.threads:
            for length, batch in grid.shapes():
                shape = f"{threads}-{length}-{batch}"
                measured: SpeedCell = {
                    "threads": threads,
                    "length": length,
                    "batch": batch,
                    "speeds": found[f"speed-{shape}"],
                }
                if f"parts-{shape}" in found:
                    measured["parts"] = found[f"parts-{shape}"]
                report["speed"].append(measured)
            peaks = {
                slug: dict(
                    zip(
                        self._sizes(slug),
                        found[f"memory-{threads}-{slug}"]["peak_mib"],
                        strict=True,
                    )
                )
                for slug in self._contestants
            }
            report["memory"] += [
                {
                    "threads": threads,
                    "length": length,
                    "batch": batch,
                    "peak_mib": {
                        self._contestants[slug].name: known[length, batch]
                        for slug, known in peaks.items()
                        if (length, batch) in known
                    },
                }
                for length, batch in grid.shapes_by_size()
            ]
            turns = [found[f"burst-{threads}-{turn}"] for turn in range(grid.burst_rounds)]
            seconds = {
                part: {name: [turn[name][part] for turn in turns] for name in self._bursting()}
                for part in ("all", "together", "alone")
            }
            report["bursts"].append(
                {
                    "threads": threads,
                    "prompts": grid.burst,
                    "seconds": seconds["all"],
                    "few": {
                        "prompts": min(FEW, grid.burst),
                        "together": seconds["together"],
                        "alone": seconds["alone"],
                    },
                }
            )
        return report

    def _sizes(self, slug: str) -> list[tuple[int, int]]:
        """(length, batch) of the calls in which a contestant takes part, small ones first."""
        each = self._contestants[slug]
        return [shape for shape in self._grid.shapes_by_size() if each.takes(shape[0] * shape[1])]

    def _memory(
        self, who: str, threads: int, shapes: Sequence[tuple[int, int]]
    ) -> list[float | None]:
        """MiB of a process of its own, in calls of these shapes."""
        each, longest = self._contestants[who], max(self._grid.lengths)
        # New ones for each: texts are the same wherever a run goes on.
        makers = makers_of(list(self._contestants.values()), longest, self._prompts)
        maker = makers.get(each.folder, next(iter(makers.values())))
        return measure_memory(each, threads, longest, (maker.draw(*shape) for shape in shapes))

    def _starts(self, slug: str) -> int:
        each = self._contestants[slug]
        slow = each.baseline or each.what == "torch"
        return self._grid.slow_starts if slow else self._grid.starts

    def _child(self, threads: int) -> Child:
        if threads not in self._children:
            everyone = list(self._contestants.values())
            child = start_speeds(everyone, threads, max(self._grid.lengths), self._path)
            self._children[threads] = self._stack.enter_context(child)
        return self._children[threads]

    def _bursting(self) -> list[str]:
        """Who ranks a burst: what a folder is loaded with where no runtime is named, and int8."""
        return [
            each.name
            for each in self._contestants.values()
            if each.auto or each.what == "onnx-int8"
        ]

    def _tokens(self, folder: Path) -> list[int]:
        """Tokens of each prompt of the burst, as the folder cuts them."""
        manifest = read_manifest(folder, check_hashes=False)
        texts = repeated(self._prompts, self._grid.burst)
        if manifest.kind == "student":
            ids = read_tokenizer(folder / TOKENIZER, manifest.input).read_all(texts)[0]
        elif manifest.kind == "encoder":
            ids = load_tokenizer(folder, manifest).encode(texts)
        else:
            return []
        return [len(each) for each in ids]


def _parity(folder: Path, runtime: str) -> Parity | None:
    """How an engine compared with the network that it was exported from, by its manifest."""
    engines = read_manifest(folder, check_hashes=False).engines
    return cast("Parity | None", engines.get(runtime, {}).get("parity"))


def _learned_from_the_test(folder: Path) -> bool:
    """Whether a predictor learned from all prompts of the demonstration, its test included.

    What was fitted to a table kept to its training prompts; a predictor of several sources, as the
    one inside the package, used them whole.
    """
    sources = read_manifest(folder, check_hashes=False).training.get("sources")
    return isinstance(sources, dict) and DEMO_SOURCE in sources


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
