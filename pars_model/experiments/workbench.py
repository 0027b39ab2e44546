"""What every experiment works with: data by name, results that are kept, the time they took."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_model.experiments.cells import Cell, write_table
from pars_model.experiments.code_digest import source_digest

Result = dict[str, Any]


class LeftOutError(InputError):
    """A part of an experiment that was not asked for."""


@dataclass
class Workbench:
    """The place of one experiment.

    Attributes:
        experiment: its name.
        data_root: folder of ``prompts.parquet`` and ``lengths.parquet``.
        out: folder of everything that is kept.
        seeds: number of repetitions.
        threads: cores to use.
        leave_out: pattern of the labels of parts that are not computed.
        minutes: what the results took to compute, each once, earlier runs included.
        machines: what computed them, in words.
    """

    experiment: str
    data_root: Path
    out: Path
    seeds: int = 3
    threads: int = 1
    leave_out: str = ""
    minutes: float = field(default=0.0, init=False)
    machines: set[str] = field(default_factory=set, init=False)
    _counted: set[Path] = field(default_factory=set, init=False, repr=False)

    def table(self, cell: Cell) -> Path:
        """The cell's length table, a file as any other command takes; written once for its data.

        Raises:
            InputError: there is no such data.
        """
        return write_table(cell, self.data_root, self.out / "tables")

    def kept(
        self,
        label: str,
        settings: Mapping[str, object],
        compute: Callable[[], Result],
        code: Sequence[str] = (),
        data: str = "",
        shelf: str = "",
    ) -> Result:
        """The result of ``compute``, from an earlier run where nothing it depends on has changed.

        Args:
            label: shown while it runs; no part of the key.
            settings: what was asked for, plain values.
            compute: makes the result, plain values.
            code: names of the modules whose source the result depends on; the experiment's own
                settings belong into ``settings``.
            data: digest of the data.
            shelf: where results lie that several experiments use; the experiment's own by default.

        Raises:
            LeftOutError: there is no such result yet, and it is not to be computed.
        """
        asked = {"settings": settings, "code": source_digest(code), "data": data}
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
        path = self.out / "results" / (shelf or self.experiment) / f"{key}.json"
        found = _read(path)
        if found is None:
            if self.leave_out and re.search(self.leave_out, label):
                raise LeftOutError(f"{self.experiment} needs {label}, which is left out.")
            print(f"{self.experiment}: {label}", file=sys.stderr, flush=True)
            start = time.monotonic()
            result = compute()
            seconds = time.monotonic() - start
            machine = f"{_processor()}, {self.threads} used"
            found = {**asked, "result": result, "seconds": seconds, "machine": machine}
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
        if path not in self._counted:
            self._counted.add(path)
            self.minutes += found["seconds"] / 60
            self.machines |= {found["machine"]} if "machine" in found else set()
        kept: Result = found["result"]
        return kept


@functools.cache
def _processor() -> str:
    """The processor and the number of its cores, in words."""
    from pars_bench.environment import describe_machine

    machine = describe_machine()
    return f"{machine['cpu']}, {machine['cores']} cores"


def _read(path: Path) -> Result | None:
    if not path.is_file():
        return None
    try:
        found: Result = json.loads(path.read_text(encoding="utf-8"))
        if {"result", "seconds"} <= found.keys():
            return found
    except (ValueError, AttributeError):
        pass
    raise InputError(f"{path} is no result of an experiment: remove it, and it is computed again.")
