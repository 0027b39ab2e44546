"""One trace or length table as traffic: what is kept of it, and when it arrives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pars_bench.replay.lengthtable import Choice, read_items
from pars_bench.replay.profile import Profile, profile
from pars_bench.replay.stream import LONGEST_S, AtOnce, Denser, Retimed, Source, Traffic, Window
from pars_bench.replay.traces import LENGTHS, MIX, Format, TraceFile, recognise
from pars_export.errors import ConfigError, InputError

ARRIVALS = "trace, burst, poisson, gamma or gamma:CV"
"""What ``arrivals`` may be; CV is the coefficient of variation of the gaps, 2 where not given."""

_CV = {"poisson": 1.0, "gamma": 2.0}
_MOST_CV = 1000.0
FASTEST = 1e9
"""The most that a rate or a load can be; the least is one over it."""


@dataclass(frozen=True)
class Pace:
    """When requests arrive; None leaves the choice to what the file holds."""

    pattern: str | None
    """``trace``, ``burst`` or ``random``."""
    cv: float = 1.0
    rate: float | None = None
    """Mean requests per second; None: the trace's own."""


def pace(arrivals: str | None, rate: float | None) -> Pace:
    """Read ``arrivals``, one of ``ARRIVALS``.

    Raises:
        ConfigError: it is another word, the rate is no positive number, or a burst is given one.
    """
    if rate is not None and not 1 / FASTEST <= rate <= FASTEST:
        raise ConfigError(
            f"rate is {rate}; expected a positive number of requests per second, "
            f"{1 / FASTEST:g} to {FASTEST:g}."
        )
    name, colon, number = (arrivals or "").partition(":")
    if arrivals in (None, "trace", "burst"):
        if arrivals == "burst" and rate is not None:
            raise ConfigError("a burst arrives at once and has no rate: drop one of the two.")
        return Pace(arrivals, rate=rate)
    if name not in _CV or (colon and name != "gamma"):
        raise ConfigError(f"arrivals is {arrivals!r}; expected {ARRIVALS}.")
    try:
        cv = float(number) if colon else _CV[name]
    except ValueError:
        cv = math.nan
    if not 1 / _MOST_CV <= cv <= _MOST_CV:
        raise ConfigError(
            f"arrivals is {arrivals!r}; expected a positive number after the colon, "
            f"{1 / _MOST_CV:g} to {_MOST_CV:g}: the coefficient of variation of the gaps."
        )
    return Pace("random", cv, rate)


def read_one(path: Path, choice: Choice, when: Pace, limit: int | None, seed: int) -> Traffic:
    """Read one trace or length table; see :func:`pars_bench.replay.traffic.read_traffic`."""
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; expected a whole number of requests, 1 or more.")
    kind, names = recognise(path)
    if kind is LENGTHS:
        items = read_items(path, choice, limit, seed)
        return _traffic(path, kind, items, items.facts, _Arriving(False, when, seed), items.kept)
    if kind is MIX:
        raise ConfigError(
            f"{path} is a mix, which cannot be a part of one: name its parts instead."
        )
    if choice != Choice():
        raise ConfigError(
            f"{path} is of the format {kind.name}: model, config, dataset and split choose from a "
            "length table only."
        )
    trace = TraceFile(path, kind)
    source, kept = (trace, None) if limit is None else window(trace, limit, seed)
    facts = {"prompt_tokens_from": trace.prompt_tokens_from(names)}
    arriving = _Arriving(kind.is_timed(names), when, seed)
    return _traffic(path, kind, source, facts, arriving, kept)


def window(source: Source, limit: int, seed: int) -> tuple[Source, str | None]:
    """A contiguous window of ``limit`` requests at a drawn place, and the sentence that says so.

    Neighbours stay neighbours: rate, bursts and shared prefixes inside the window are the trace's
    own. None in place of the sentence where nothing is left out.
    """
    total = sum(1 for _ in source())
    if total <= limit:
        return source, None
    start = int(np.random.default_rng([seed, 2]).integers(total - limit + 1))
    return Window(source, start, start + limit), (
        f"one contiguous window, requests {start + 1} to {start + limit} of {total}, drawn with "
        f"seed {seed}; its rate, bursts and shared prefixes are the trace's own, but it starts "
        "with an idle server and an empty prefix cache"
    )


@dataclass(frozen=True)
class _Arriving:
    """When requests arrive, once it is known whether the file has times."""

    timed: bool
    pace: Pace
    seed: int

    def apply(self, path: Path, source: Source) -> tuple[Source, Profile, str]:
        """The stream in its times, its profile, and how it arrives in words."""
        rate, pattern = self.pace.rate, self.pace.pattern
        if pattern is None:
            pattern = "trace" if self.timed else "burst" if rate is None else "random"
        found = profile(source())
        if not found.requests:
            raise InputError(f"{path} holds no requests: give a trace with at least one.")
        if pattern == "burst":
            source = AtOnce(source)
            return source, replace(found, duration_s=0.0, gap_cv=None), "all at once"
        if pattern == "trace":
            if not self.timed:
                raise ConfigError(
                    f"{path} has no times of arrival: choose burst, or poisson or gamma and a rate."
                )
            return _stretched(path, source, found, rate)
        rate = found.rate if rate is None else rate
        if rate is None:
            raise ConfigError(f"{path} has no rate of its own: give the mean requests per second.")
        source = Retimed(source, rate, self.pace.cv, self.seed)
        process = (
            "Poisson process"
            if self.pace.cv == 1
            else f"gamma gaps with a coefficient of variation of {self.pace.cv:g}"
        )
        how = f"{process}, {rate:.4g} requests per second, drawn with seed {self.seed}"
        return source, profile(source()), how


def _stretched(
    path: Path, source: Source, found: Profile, rate: float | None
) -> tuple[Source, Profile, str]:
    if rate is None:
        return source, found, "the trace's own times"
    if found.rate is None:
        raise ConfigError(f"{path}: all requests arrive at once, so no rate can be given to them.")
    factor = rate / found.rate
    return (
        Denser(source, factor),
        replace(found, duration_s=found.duration_s / factor),
        f"the trace's own times, {factor:.4g} times as dense",
    )


def _traffic(
    path: Path,
    kind: Format,
    source: Source,
    facts: Mapping[str, object],
    arriving: _Arriving,
    kept: str | None,
) -> Traffic:
    source, found, how = arriving.apply(path, source)
    if found.duration_s > LONGEST_S:
        raise ConfigError(
            f"{path}: at this rate the last request arrives after {found.duration_s:g} s; expected "
            f"at most {LONGEST_S:g}: give a higher rate."
        )
    return Traffic(
        name=path.name,
        facts={
            "source": path.name,
            "format": kind.name,
            "kept": kept or f"all {found.requests} requests",
            "arrivals": how,
            **found.facts(),
            **facts,
        },
        block_tokens=kind.block_tokens,
        source=source,
    )
