"""Rows of requests.parquet, one run at a time: never more than a run in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pars_bench.replay.schema import ReplayReport, ReplayRun
from pars_export.errors import InputError

Array = NDArray[np.float64]

_KEY = ("policy", "load", "seed")
_VALUES = ("request", "arrival_s", "output_tokens", "ttft_s", "ttlt_s", "queued_s")


@dataclass(frozen=True)
class RunRows:
    """One run's requests, in the order of their numbers; seconds."""

    arrival: Array
    tokens: Array
    ttft: Array
    ttlt: Array
    queued: Array
    """From the arrival to the first admission."""

    @property
    def per_token(self) -> Array:
        """Time to last token over response tokens."""
        return self.ttlt / self.tokens


@dataclass(frozen=True)
class Requests:
    """requests.parquet beside its report."""

    path: Path

    def check(self, report: ReplayReport) -> None:
        """Compare the number of rows of every run.

        Raises:
            InputError: the file is missing, is no Parquet, lacks a column, or is of another replay.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.path.is_file():
            raise InputError(f"{self.path} does not exist: run `pars replay` first")
        try:
            missing = {*_KEY, *_VALUES} - set(pq.read_schema(self.path).names)
            if missing:
                raise InputError(f"{self.path} lacks the columns {', '.join(sorted(missing))}")
            counts = pq.read_table(self.path, columns=list(_KEY)).group_by(list(_KEY))
            rows = counts.aggregate([([], "count_all")]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{self.path} cannot be read as Parquet ({error}): run `pars replay` again"
            ) from error
        found = {tuple(row[name] for name in _KEY): row["count_all"] for row in rows}
        for run in report["runs"]:
            held = found.get((run["policy"], run["load"], run["seed"]), 0)
            if held != run["requests"]:
                raise InputError(
                    f"{self.path} holds {held} requests of {run['policy']}, load {run['load']:g}, "
                    f"seed {run['seed']}, and report.json {run['requests']}: they are not of one "
                    "replay; run `pars replay` again"
                )

    def read(self, run: ReplayRun) -> RunRows:
        """The requests of one run."""
        import pyarrow.parquet as pq

        chosen = [("policy", "==", run["policy"]), ("load", "==", run["load"])]
        chosen.append(("seed", "==", run["seed"]))
        table = pq.read_table(self.path, columns=list(_VALUES), filters=chosen)
        order = np.argsort(table["request"].to_numpy(), kind="stable")
        _, *columns = (
            np.asarray(table[name].to_numpy(), dtype=np.float64)[order] for name in _VALUES
        )
        return RunRows(*columns)
