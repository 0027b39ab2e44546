"""A mix of traffic: several traces and length tables that share one server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pars_bench.replay.lengthtable import Choice
from pars_bench.replay.profile import profile
from pars_bench.replay.reading import pace, read_one, window
from pars_bench.replay.stream import Merged, Source, Tagged, Traffic
from pars_bench.replay.textrows import open_text
from pars_export.errors import ConfigError, InputError, ParsError

_KEYS = {"name", "trace", "share", "arrivals", "requests", "model", "config", "dataset", "split"}


@dataclass(frozen=True)
class Part:
    """One part of a mix file."""

    name: str
    trace: Path
    share: float | None
    """Of the mix's rate, in the unit of the other shares; None for a burst."""
    arrivals: str | None
    requests: int | None
    choice: Choice


@dataclass(frozen=True)
class Mix:
    """A mix file."""

    rate: float | None
    parts: tuple[Part, ...]


def read_mix(path: Path, *, rate: float | None, limit: int | None, seed: int) -> Traffic:
    """Read a mix and merge its parts in time.

    A part with a share arrives at its share of the mix's rate. The mix ends with the part with a
    share that ends first, so that it is the same mix from its start to its end.

    Args:
        path: The mix file; its traces stand relative to it.
        rate: Mean requests per second of all parts with a share; None: the mix file's.
        limit: Most requests: one contiguous window, drawn by ``seed``.
        seed: Of everything that is drawn; each part has its own.

    Raises:
        InputError: the mix file or one of its traces cannot be used.
        ConfigError: rate, limit or a part's settings cannot be met.
    """
    mix = parse_mix(path)
    rate = mix.rate if rate is None else rate
    shares = sum(part.share or 0.0 for part in mix.parts)
    traffics = []
    for number, part in enumerate(mix.parts):
        part_rate = None
        if part.share is not None:
            if rate is None:
                raise ConfigError(f"{path} gives shares but no rate: add rate, or give one.")
            part_rate = rate * part.share / shares
        part_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        try:
            when = pace(part.arrivals, part_rate)
            traffics.append(read_one(part.trace, part.choice, when, part.requests, part_seed))
        except ParsError as error:
            raise type(error)(f"{path}, part {part.name}: {error}") from error
    return _merged(path, mix, traffics, limit, seed)


def _merged(path: Path, mix: Mix, traffics: list[Traffic], limit: int | None, seed: int) -> Traffic:
    blocks = {traffic.block_tokens for traffic in traffics} - {0}
    if len(blocks) > 1:
        raise InputError(f"{path}: parts have prefix blocks of different sizes {sorted(blocks)}.")
    ends = [
        _duration(traffic)
        for part, traffic in zip(mix.parts, traffics, strict=True)
        if part.share is not None
    ]
    named = zip(mix.parts, traffics, strict=True)
    source: Source = Merged(
        tuple(
            Tagged(traffic.source, part.name, number, len(traffics))
            for number, (part, traffic) in enumerate(named)
        ),
        min(ends, default=math.inf),
    )
    kept = None
    if limit is not None:
        source, kept = window(source, limit, seed)
    found = profile(source())
    ending = "the whole parts" if not ends else "until the first part with a share ends"
    return Traffic(
        name=path.name,
        facts={
            "source": path.name,
            "format": "mix",
            "kept": kept or f"{ending}, {found.requests} requests",
            **found.facts(),
            "parts": {
                part.name: dict(traffic.facts)
                for part, traffic in zip(mix.parts, traffics, strict=True)
            },
        },
        block_tokens=max(blocks, default=0),
        source=source,
    )


def _duration(traffic: Traffic) -> float:
    duration = traffic.facts.get("duration_s", 0.0)
    assert isinstance(duration, float)
    return duration


def parse_mix(path: Path) -> Mix:
    """Read and check a mix file, without its traces.

    Raises:
        InputError: it is no YAML or JSON, or a key is missing, unknown or of the wrong kind.
    """
    with open_text(path) as text:
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            problem = " ".join(str(error).split())
            raise InputError(f"{path} is neither YAML nor JSON: {problem}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no mapping: expected the keys parts and perhaps rate.")
    unknown = set(content) - {"rate", "parts"}
    if unknown:
        raise InputError(
            f"{path} has the unknown keys {', '.join(sorted(map(str, unknown)))}: expected parts "
            "and perhaps rate."
        )
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise InputError(f"{path}: parts is {parts!r}; expected a list with at least one part.")
    read = tuple(_part(path, number, part) for number, part in enumerate(parts, start=1))
    names = [part.name for part in read]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two parts have one name; found {', '.join(names)}.")
    return Mix(_positive(f"{path}: rate", content.get("rate")), read)


def _part(path: Path, number: int, part: object) -> Part:
    where = f"{path}, part {number}"
    if not isinstance(part, Mapping):
        raise InputError(f"{where} is {part!r}; expected a mapping with trace and share.")
    unknown = set(part) - _KEYS
    if unknown:
        raise InputError(
            f"{where} has the unknown keys {', '.join(sorted(map(str, unknown)))}; expected "
            f"{', '.join(sorted(_KEYS))}."
        )
    texts = {key: _text(where, key, part.get(key)) for key in sorted(_KEYS - {"share", "requests"})}
    trace = texts["trace"]
    if trace is None:
        raise InputError(
            f"{where} has no trace; expected the path of one, relative to {path.name}."
        )
    share = _positive(f"{where}: share", part.get("share"))
    burst = texts["arrivals"] == "burst"
    if burst == (share is not None):
        raise InputError(
            f"{where} has {'a share and arrives in a burst' if burst else 'no share'}; expected a "
            "share of the mix's rate, or arrivals: burst."
        )
    requests = part.get("requests")
    if requests is not None and (isinstance(requests, bool) or not isinstance(requests, int)):
        raise InputError(f"{where}: requests is {requests!r}; expected a whole number.")
    return Part(
        name=texts["name"] or f"{number}",
        trace=path.parent / trace,
        share=share,
        arrivals=texts["arrivals"],
        requests=requests,
        choice=Choice(texts["model"], texts["config"], texts["dataset"], texts["split"]),
    )


def _text(where: str, key: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {key} is {value!r}; expected a text.")
    return value


def _positive(where: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{where} is {value!r}; expected a positive number.")
    return float(value)
