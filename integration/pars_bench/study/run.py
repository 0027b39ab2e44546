"""Runs the study's replays: first bursts, which tell how fast each engine is, then the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pars_bench.progress import Progress, TerminalProgress
from pars_bench.replay.cells import Cell
from pars_bench.replay.plan import ReplayConfig, make_sweep
from pars_bench.replay.results import report_of
from pars_bench.replay.schema import ReplayReport
from pars_bench.replay.sweep import run_cells
from pars_bench.study.capacity import capacity, read_burst
from pars_bench.study.design import ENGINES, LLM, STUDENT_RATE, TRAFFIC, Comparison
from pars_bench.study.lengths import write_requests
from pars_bench.study.schema import StudyFile
from pars_bench.study.speed import measure
from pars_bench.study.windows import write_window
from pars_export.artifact import DEFAULT_PREDICTOR, read_manifest
from pars_export.files import atomic_file

Place = tuple[str, str, int, int]
"""Traffic, engine, requests and seed."""


@dataclass
class Study:
    """The files and cells of one study."""

    out: Path
    data: Path
    """Folder with length tables, and traces under ``traces``."""
    seeds: tuple[int, ...]
    jobs: int
    progress: Progress
    predictor: Path = DEFAULT_PREDICTOR
    """Folder of the predictor that reads prompts."""
    kept: dict[str, str] = field(default_factory=dict)
    """By traffic file, what was kept of its source."""
    _rates: dict[Place, float] = field(default_factory=dict)
    _files: dict[tuple[str, int, int], Path] = field(default_factory=dict)

    def run(self, comparisons: Sequence[Comparison]) -> list[ReplayReport]:
        """One report for each comparison, its runs over all seeds.

        Cells that are there already are not run again.
        """
        places = [
            (each.traffic, each.engine, each.size, seed)
            for each in comparisons
            if each.loads
            for seed in self.seeds
        ]
        bursts = {place: self._cells(self._burst(place))[0] for place in dict.fromkeys(places)}
        self._run(list(bursts.values()))
        for place, cell in bursts.items():
            self._rates[place] = capacity(read_burst(cell.path(self.out)))
        cells = [
            [cell for seed in self.seeds for cell in self._compared(each, seed)]
            for each in comparisons
        ]
        self._run([cell for group in cells for cell in group])
        return [self._report(group) for group in cells]

    def _run(self, cells: Sequence[Cell]) -> None:
        # Comparisons share cells: arrival order of one traffic stands in several tables.
        unique = {cell.digest: cell for cell in cells}
        run_cells(list(unique.values()), self.out, self.jobs, self.progress)

    def _cells(self, config: ReplayConfig) -> list[Cell]:
        return make_sweep(config).cells()

    def _compared(self, comparison: Comparison, seed: int) -> list[Cell]:
        config = self._config(comparison, seed)
        cells = self._cells(config)
        if comparison.predictor:
            real = replace(config, orders=("pars",), tau=(), predictor=self.predictor)
            if self.predictor == DEFAULT_PREDICTOR:
                real = replace(real, score_rate=STUDENT_RATE)
            cells += self._cells(real)
        return cells

    def _report(self, cells: Sequence[Cell]) -> ReplayReport:
        traffics = {cell.seed: cell.traffic for cell in cells if cell.load == cells[0].load}
        return report_of(self.out, cells, traffics, cells[0].setting.facts(), {})

    def _burst(self, place: Place) -> ReplayConfig:
        traffic, engine, size, seed = place
        return ReplayConfig(
            self.file(traffic, size, seed),
            llm=LLM,
            gpu=ENGINES[engine].gpu,
            max_num_seqs=ENGINES[engine].max_num_seqs,
            orders=("fcfs",),
            seed=(seed,),
            arrivals="burst",
        )

    def _config(self, comparison: Comparison, seed: int) -> ReplayConfig:
        engine = ENGINES[comparison.engine]
        place = (comparison.traffic, comparison.engine, comparison.size, seed)
        timed = bool(TRAFFIC[comparison.traffic].trace)
        swept = bool(comparison.loads)
        return ReplayConfig(
            self.file(comparison.traffic, comparison.size, seed),
            llm=LLM,
            gpu=engine.gpu,
            max_num_seqs=engine.max_num_seqs,
            orders=comparison.orders,
            tau=comparison.taus,
            load=comparison.loads or (1.0,),
            seed=(seed,),
            arrivals=("trace" if timed else "poisson") if swept else "burst",
            rate=self._rates[place] if swept else None,
            score_rate=comparison.score_rate,
        )

    def file(self, traffic: str, requests: int, seed: int) -> Path:
        """The traffic's file, written on the first call."""
        key = (traffic, requests, seed)
        if key not in self._files:
            self._files[key] = self._write(traffic, requests, seed)
        return self._files[key]

    def _write(self, traffic: str, requests: int, seed: int) -> Path:
        kind = TRAFFIC[traffic]
        suffix = ".jsonl" if ".jsonl" in kind.trace else ".csv"
        path = self.out / "traffic" / f"{traffic}-{requests}-seed-{seed}{suffix}"
        if kind.lengths is None:
            trace = self.data / "traces" / kind.trace
            start, total = write_window(trace, requests, seed, path)
            words = f"requests {start + 1} to {start + requests} of {total}"
        else:
            drawn, count = write_requests(self.data, kind.lengths, requests, seed, path)
            how = "without" if drawn <= count else "with"
            words = f"{drawn} drawn {how} replacement from {count} prompts"
        self.kept[path.name] = words
        return path


def run_study(
    out: Path,
    data: Path,
    seeds: tuple[int, ...],
    jobs: int,
    comparisons: Sequence[Comparison],
    windows: tuple[int | None, ...],
    progress: Progress | None = None,
    predictor: Path | None = None,
) -> StudyFile:
    """Run what is missing and write ``out/study.json``.

    Args:
        out: Folder of the results.
        data: Folder with length tables, and traces under ``traces``.
        seeds: Of everything that is drawn.
        jobs: Processes.
        comparisons: What to compare.
        windows: See :func:`pars_bench.study.speed.measure`.
        progress: Where to say how far it is; the terminal by default.
        predictor: Folder of the predictor that reads prompts; None: the default predictor.

    Raises:
        PredictorError: the predictor's folder is none.
        InputError: a table or trace cannot be used.
    """
    folder = predictor or DEFAULT_PREDICTOR
    read_manifest(folder)  # an hour later would be a poor time to complain
    study = Study(out, data, seeds, jobs, progress or TerminalProgress(), folder)
    reports = study.run(comparisons)
    trace = data / "traces" / TRAFFIC["azure-conv"].trace
    found: StudyFile = {
        "seeds": list(seeds),
        "predictor": None if predictor is None else predictor.name,
        "speed": measure(trace, windows, out, study.progress),
        "kept": study.kept,
        "parts": [
            {
                "section": each.section,
                "traffic": each.traffic,
                "engine": each.engine,
                "burst": not each.loads,
                "size": each.size,
                "score_rate": each.score_rate,
                "report": report,
            }
            for each, report in zip(comparisons, reports, strict=True)
        ],
    }
    with atomic_file(out / "study.json") as temporary:
        temporary.write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")
    return found
