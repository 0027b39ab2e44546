"""Experiments made of cells: each is computed once, kept, and found again after an interruption."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pars_bench.progress import Progress
from pars_export.files import atomic_file

Facts = dict[str, object]


def add_arguments(parser: argparse.ArgumentParser, requests: int) -> None:
    """Arguments that every experiment has; ``requests`` is the default of ``--requests``."""
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--page", type=Path, help="write the tables as a Markdown page, too")
    parser.add_argument("--requests", type=int, default=requests, help=f"in each run ({requests})")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each setting (5)")


def compute(
    folder: Path,
    cells: Mapping[str, Facts],
    measure: Callable[[Facts], Facts],
    modules: Sequence[str],
    progress: Progress,
) -> dict[str, Facts]:
    """Result of each cell, computed or read from ``folder``.

    A stored result counts only for the same parameters and the same source of ``modules``.

    Args:
        folder: Holds one JSON file a cell.
        cells: Name of a cell -> its parameters (plain JSON).
        measure: Parameters -> result (plain JSON).
        modules: Modules whose code decides the results.
        progress: Told of each cell.
    """
    code = source_digest(modules)
    results = {}
    for index, (name, parameters) in enumerate(cells.items(), start=1):
        path = folder / f"{name}.json"
        wanted: Facts = {"code": code, "parameters": parameters}
        result = _stored(path, wanted)
        if result is None:
            result = measure(parameters)
            with atomic_file(path) as temporary:
                text = json.dumps(wanted | {"result": result}, indent=1)
                temporary.write_text(text, encoding="utf-8")
        results[name] = result
        progress.say(f"{name}: {index} of {len(cells)} cells are there")
    return results


def source_digest(modules: Sequence[str]) -> str:
    """Digest of the source files of modules, which are not imported."""
    digest = hashlib.sha256()
    for name in modules:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"the module {name} is not installed", name=name)
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width of its 95 % interval by Student's t); no width of fewer than two."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    from scipy.stats import t

    quantile = float(t.ppf(0.975, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def interval_text(values: Sequence[float], digits: int = 2) -> str:
    """``1.23 ± 0.04``; of one value, that value."""
    mean, half = mean_interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _stored(path: Path, wanted: Facts) -> Facts | None:
    """The result of a stored cell; None where there is none, or one of something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or {key: value.get(key) for key in wanted} != wanted:
        return None
    result = value.get("result")
    return result if isinstance(result, dict) else None
