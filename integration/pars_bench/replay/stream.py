"""Requests as a stream that can be started again: made by a reader, cut and timed by stages."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile

from pars_bench.arrivals import renewal

LONGEST_S = 1e9
"""Seconds that a traffic may last, some thirty years: times beyond lose the length of a step."""


@dataclass(frozen=True, slots=True)
class TrafficRequest:
    """One request as it will be replayed; its prompt as text, as prefix blocks or as a length."""

    arrival_s: float
    """Seconds from the start of the traffic."""
    prompt_tokens: int
    """At least 1."""
    output_tokens: int
    """True length of the response, at least 1."""
    prompt: str | None = None
    """The text, where the source has it."""
    blocks: tuple[int, ...] = ()
    """Equal numbers are equal blocks of ``Traffic.block_tokens`` prompt tokens; the last block
    covers what is left of the prompt and may be shorter."""
    tenant: str = ""
    rerun_tokens: int | None = None
    """Length of another response of the same LLM to the same prompt."""


Source = Callable[[], Iterator[TrafficRequest]]
"""Starts the stream, in order of arrival. Picklable, so that another process can have it."""


@dataclass(frozen=True)
class Traffic:
    """Requests in order of arrival; may be iterated again and again, and pickled."""

    name: str
    facts: Mapping[str, object]
    """Source, what sampling kept, pace and lengths, as plain JSON: ``traffic`` of report.json."""
    block_tokens: int
    """Prompt tokens of one of ``TrafficRequest.blocks``; 0 where requests have none."""
    source: Source = field(repr=False)

    def __iter__(self) -> Iterator[TrafficRequest]:
        return self.source()


@dataclass(frozen=True)
class Window:
    """Requests ``start`` to ``stop`` of a stream, the first of them at second 0."""

    source: Source
    start: int
    stop: int

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the stream."""
        first: float | None = None
        for request in islice(self.source(), self.start, self.stop):
            first = request.arrival_s if first is None else first
            yield replace(request, arrival_s=request.arrival_s - first)


@dataclass(frozen=True)
class Retimed:
    """The same requests in the same order, arriving at random: see :func:`arrivals.renewal`."""

    source: Source
    rate: float
    cv: float
    seed: int

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the stream."""
        times = renewal(self.rate, self.cv, self.seed)
        for request, arrival in zip(self.source(), times, strict=False):
            yield replace(request, arrival_s=arrival)


@dataclass(frozen=True)
class AtOnce:
    """The same requests, all at second 0."""

    source: Source

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the stream."""
        return (replace(request, arrival_s=0.0) for request in self.source())


@dataclass(frozen=True)
class Denser:
    """The same requests, arriving ``load`` times as densely."""

    source: Source
    load: float

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the stream."""
        return (
            replace(request, arrival_s=request.arrival_s / self.load) for request in self.source()
        )


@dataclass(frozen=True)
class Tagged:
    """One part of a mix: requests carry its name, and its blocks equal no other part's."""

    source: Source
    name: str
    part: int
    parts: int

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the stream."""
        for request in self.source():
            yield replace(
                request,
                tenant=f"{self.name}/{request.tenant}" if request.tenant else self.name,
                blocks=tuple(block * self.parts + self.part for block in request.blocks),
            )


@dataclass(frozen=True)
class Merged:
    """Several streams as one, until ``horizon_s``."""

    sources: tuple[Source, ...]
    horizon_s: float

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the streams."""
        merged = heapq.merge(*(source() for source in self.sources), key=lambda r: r.arrival_s)
        return takewhile(lambda request: request.arrival_s <= self.horizon_s, merged)
