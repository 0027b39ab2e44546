"""The shape of study.json, which the page and its pictures are made from."""

from __future__ import annotations

from typing import TypedDict

from pars_bench.replay.schema import ReplayReport
from pars_bench.study.speed import Cost


class Part(TypedDict):
    """One comparison with its runs."""

    section: str
    traffic: str
    """One of ``design.TRAFFIC``."""
    engine: str
    """One of ``design.ENGINES``."""
    burst: bool
    size: int
    """Requests of a run."""
    score_rate: float
    """Prompts scored per second."""
    report: ReplayReport


class StudyFile(TypedDict):
    """The whole file."""

    seeds: list[int]
    predictor: str | None
    """Name of the predictor's folder; None: the default predictor."""
    kept: dict[str, str]
    """By traffic file, what was kept of its source."""
    parts: list[Part]
    speed: list[Cost]
