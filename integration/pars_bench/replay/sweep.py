"""All cells of a sweep: those that are not there yet are run, in as many processes as wished."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import active_children, get_context
from pathlib import Path

from pars_bench.progress import Progress
from pars_bench.provenance import DISTRIBUTIONS, sources_digest
from pars_bench.replay.cells import Cell, Setting, digest_of, load_facts, run_cell
from pars_bench.replay.columns import read_columns
from pars_bench.replay.policies import Order, Scores, check_order
from pars_bench.replay.traffic import Traffic, scaled
from pars_export.errors import ParsError
from pars_export.files import sha256_file


class ReplayStoppedError(ParsError):
    """A sweep could not go on."""


_MADE_OF_CELLS = ("cli.py", "page", "results.py", "schema.py", "validate.py")
"""Code that no cell hangs on."""
_MODULES = ("pars_bench.arrivals", "pars_bench.modelless")
"""What the replay runs of the package around it."""


@dataclass(frozen=True)
class Sweep:
    """Every order at every load with every seed."""

    setting: Setting
    read: Callable[[int], Traffic]
    """The traffic of a seed."""
    identity: list[object]
    """Of the trace file's content and how it is read."""
    orders: tuple[Order, ...]
    loads: tuple[float, ...]
    seeds: tuple[int, ...]

    def cells(self) -> list[Cell]:
        """The cells, those that are compared with each other side by side.

        Raises:
            InputError: a seed's traffic does not fit the engine or an order.
        """
        code = _code()
        found = []
        for seed in self.seeds:
            traffic = self.read(seed)
            columns = read_columns(traffic, self.setting.engine)
            for order in self.orders:
                check_order(order, columns)
            for load in self.loads:
                denser = scaled(traffic, load)
                for order in self.orders:
                    facts = {
                        "setting": self.setting.facts(),
                        "traffic": self.identity,
                        "order": [order.name, order.kind, _scores_identity(order.scores)],
                        "load": load,
                        "seed": seed,
                        "code": code,
                    }
                    digest = digest_of(facts)
                    found.append(Cell(self.setting, denser, order, load, seed, digest))
        return found


def run_sweep(sweep: Sweep, out: Path, jobs: int, progress: Progress) -> list[Cell]:
    """Run what is missing; a sweep that was interrupted goes on where it was.

    Args:
        sweep: What to run.
        out: Folder of the results; finished cells are kept in ``out/cells``.
        jobs: Processes to run cells in.
        progress: Where to say how far it is.

    Returns:
        All cells, each with its file.
    """
    cells = sweep.cells()
    run_cells(cells, out, jobs, progress)
    return cells


def run_cells(cells: Sequence[Cell], out: Path, jobs: int, progress: Progress) -> None:
    """Run those of the cells that are not in ``out/cells``; see :func:`run_sweep`."""
    missing = [cell for cell in cells if load_facts(cell.path(out), cell.digest) is None]
    if len(missing) < len(cells):
        progress.say(f"{len(cells) - len(missing)} of {len(cells)} cells were run before")
    if jobs == 1 or len(missing) < 2:
        quiet_vllm()
        for cell in missing:
            run_cell(cell, out, partial(progress.count, cell.name))
    else:
        _run_beside(missing, out, min(jobs, len(missing)), progress)


def _run_beside(cells: Sequence[Cell], out: Path, jobs: int, progress: Progress) -> None:
    # Spawned, not forked: what the parent has loaded may not survive a fork.
    context = get_context("spawn")
    before = set(active_children())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        futures = {pool.submit(_run_one, cell, out): cell for cell in cells}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress.say(f"{done} of {len(cells)} cells: {futures[future].name}")
        except BrokenProcessPool as error:
            raise ReplayStoppedError(
                "a process of the sweep was killed, perhaps for lack of memory: run the same "
                "command again with fewer --jobs; finished cells are kept."
            ) from error
        except BaseException:
            # A cell takes minutes: nobody who interrupts waits for the end of those at work.
            for process in set(active_children()) - before:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    # Ctrl-C reaches every process of a terminal; a worker's end is the parent's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_vllm()


def _run_one(cell: Cell, out: Path) -> None:
    run_cell(cell, out, lambda _done, _total: None)


def quiet_vllm() -> None:
    """Before vLLM's import: no network, and only errors on the terminal."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _scores_identity(scores: Scores | None) -> object:
    if scores is None:
        return None
    if scores.predictor is not None:
        from pars_export.artifact import folder_sha256

        return [
            folder_sha256(scores.predictor),
            sources_digest("pars_export"),
            _versions(("onnxruntime", "tokenizers")),
        ]
    return [scores.tau, scores.noise]


def _code() -> dict[str, object]:
    return {
        "pars_vllm": sources_digest("pars_vllm"),
        "pars_bench.replay": sources_digest("pars_bench.replay", without=_MADE_OF_CELLS),
        **{name: _module_digest(name) for name in _MODULES},
        **_versions((*DISTRIBUTIONS, "numpy")),
    }


def _module_digest(name: str) -> str:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return sha256_file(Path(spec.origin))


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
