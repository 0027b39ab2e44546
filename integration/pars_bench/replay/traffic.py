"""Traffic to replay, from a trace, a length table or a mix of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pars_bench.replay.lengthtable import Choice
from pars_bench.replay.mix import parse_mix, read_mix
from pars_bench.replay.reading import ARRIVALS, FASTEST, pace, read_one
from pars_bench.replay.stream import LONGEST_S, Denser, Traffic, TrafficRequest
from pars_bench.replay.traces import MIX, recognise
from pars_export.errors import ConfigError

__all__ = ["ARRIVALS", "Traffic", "TrafficRequest", "read_traffic", "scaled", "traces_named"]


def read_traffic(
    path: Path, *, arrivals: str | None, rate: float | None, limit: int | None, seed: int
) -> Traffic:
    """Read and check a whole trace once, so that no bad row ends a replay half-way.

    Args:
        path: A trace (Azure, Mooncake, one's own CSV or JSONL), a length table or a mix.
        arrivals: One of ``ARRIVALS``. None: the trace's own times; where it has none, a Poisson
            process at ``rate``, and a burst where there is no rate either.
        rate: Mean requests per second; None keeps the trace's own. The trace's own times are
            stretched, so that its bursts stay bursts.
        limit: Most requests. Of a trace one contiguous window is kept, drawn by ``seed``; of a
            length table that many items.
        seed: Of everything that is drawn.

    Raises:
        InputError: the file cannot be used; names the file and the line or row.
        ConfigError: ``arrivals``, ``rate`` or ``limit`` cannot be met.
    """
    when = pace(arrivals, rate)
    kind, _ = recognise(path)
    if kind is MIX:
        if arrivals is not None:
            raise ConfigError(f"{path} is a mix, whose parts say how they arrive: drop arrivals.")
        return read_mix(path, rate=rate, limit=limit, seed=seed)
    return read_one(path, Choice(), when, limit, seed)


def traces_named(path: Path) -> list[Path]:
    """The files that a mix is made of; nothing where ``path`` is no mix.

    Raises:
        InputError: the file cannot be used.
    """
    return [part.trace for part in parse_mix(path).parts] if recognise(path)[0] is MIX else []


def scaled(traffic: Traffic, load: float) -> Traffic:
    """The same requests in the same order, arriving ``load`` times as densely.

    Raises:
        ConfigError: ``load`` is not a positive number, or so small that the traffic hardly ends.
    """
    if not 1 / FASTEST <= load <= FASTEST:
        raise ConfigError(
            f"load is {load}; expected a positive number, {1 / FASTEST:g} to {FASTEST:g}."
        )
    facts = dict(traffic.facts)
    duration = facts.get("duration_s")
    if isinstance(duration, float) and duration / load > LONGEST_S:
        raise ConfigError(
            f"load is {load}: the last request arrives after {duration / load:g} s; expected at "
            f"most {LONGEST_S:g}: give a higher load."
        )
    for name, factor in (("rate", load), ("duration_s", 1 / load)):
        value = facts.get(name)
        if isinstance(value, float):
            facts[name] = value * factor
    return replace(
        traffic, facts={**facts, "times_as_dense": load}, source=Denser(traffic.source, load)
    )
