"""Trace files of several kinds, told apart by their columns, read one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pars_bench.replay.stream import LONGEST_S, TrafficRequest
from pars_bench.replay.textrows import Fields, csv_names, csv_rows, json_rows, open_text
from pars_export.errors import InputError

BYTES_PER_TOKEN = 4
"""Of English text in the vocabularies of today's LLMs; where nobody counted a prompt's tokens."""

MOONCAKE_BLOCK = 512
"""Prompt tokens that one hash of a Mooncake trace stands for."""

_BROWSED = 1 << 16
_LATEST_S = 1e12
"""On a trace's own clock: a Unix time in milliseconds is later."""


@dataclass(frozen=True)
class Format:
    """One kind of trace."""

    name: str
    columns: tuple[str, ...]
    """What every row must have; ``a|b`` is one of the two."""
    request: Callable[[Fields], TrafficRequest] | None
    """Reads a row, its arrival on any clock; None where another module reads the file."""
    times: str = ""
    """The column with the times of arrival."""
    block_tokens: int = 0

    def is_timed(self, names: frozenset[str]) -> bool:
        """Whether rows with the columns ``names`` say when they arrive."""
        return self.times in names

    def missing(self, names: frozenset[str]) -> list[str]:
        """The columns that ``names`` lacks."""
        return [each for each in self.columns if not names & set(each.split("|"))]


def estimated_tokens(text: str) -> int:
    """Prompt tokens of a text by its size, at least 1."""
    return max(1, -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN))


def _azure(row: Fields) -> TrafficRequest:
    return TrafficRequest(
        arrival_s=_moment(row, "TIMESTAMP"),
        prompt_tokens=row.tokens("ContextTokens"),
        output_tokens=row.tokens("GeneratedTokens"),
    )


def _moment(row: Fields, name: str) -> float:
    try:
        moment = datetime.fromisoformat(str(row.values.get(name)).strip())
    except ValueError:
        raise row.refuse(name, "a date and time such as 2023-11-16 18:17:03.9799600") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _mooncake(row: Fields) -> TrafficRequest:
    prompt_tokens = row.tokens("input_length")
    return TrafficRequest(
        arrival_s=row.seconds("timestamp") / 1000,
        prompt_tokens=prompt_tokens,
        output_tokens=row.tokens("output_length"),
        blocks=_blocks(row, prompt_tokens),
    )


def _blocks(row: Fields, prompt_tokens: int) -> tuple[int, ...]:
    blocks = row.values.get("hash_ids")
    expected = -(-prompt_tokens // MOONCAKE_BLOCK)
    if (
        not isinstance(blocks, list)
        or len(blocks) != expected
        or not all(isinstance(block, int) and block >= 0 for block in blocks)
    ):
        raise row.refuse(
            "hash_ids",
            f"{expected} whole numbers, one for each {MOONCAKE_BLOCK} of the {prompt_tokens} "
            "prompt tokens",
        )
    return tuple(blocks)


def _own(row: Fields) -> TrafficRequest:
    prompt = row.values.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise row.refuse("prompt", "a text")
    if "prompt_tokens" in row.values:
        prompt_tokens = row.tokens("prompt_tokens")
    elif prompt:
        prompt_tokens = estimated_tokens(prompt)
    else:
        raise row.refuse("prompt", "a text")
    rerun, tenant = row.values.get("rerun_tokens"), row.values.get("tenant")
    return TrafficRequest(
        arrival_s=row.seconds("arrival_s") if "arrival_s" in row.values else 0.0,
        prompt_tokens=prompt_tokens,
        output_tokens=row.tokens("output_tokens"),
        prompt=prompt or None,
        tenant="" if tenant is None else str(tenant),
        rerun_tokens=None if rerun in (None, "") else row.tokens("rerun_tokens"),
    )


AZURE = Format("Azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _azure, "TIMESTAMP")
MOONCAKE = Format(
    "Mooncake",
    ("timestamp", "input_length", "output_length", "hash_ids"),
    _mooncake,
    "timestamp",
    block_tokens=MOONCAKE_BLOCK,
)
OWN = Format("requests", ("output_tokens", "prompt_tokens|prompt"), _own, "arrival_s")
LENGTHS = Format("length table", ("response_tokens", "prompt|messages"), None)
MIX = Format("mix", ("parts",), None)
FORMATS = (AZURE, MOONCAKE, OWN, LENGTHS, MIX)


@dataclass(frozen=True)
class TraceFile:
    """A trace as a stream; the first request arrives at second 0.

    Every row is checked when it is read. Raises InputError of a row that cannot be used, or that
    arrives before the one above it.
    """

    path: Path
    format: Format

    def __call__(self) -> Iterator[TrafficRequest]:
        """Start the stream."""
        assert self.format.request is not None
        first = last = 0.0
        top: Fields | None = None
        for row in _rows(self.path):
            self._same_columns(row, top or row)
            request = self.format.request(row)
            if top is None:
                top, first = row, request.arrival_s
                last = first
            if request.arrival_s < last:
                raise InputError(
                    f"{row.where}: arrives {last - request.arrival_s:g} s before the row above it: "
                    "sort the trace by time."
                )
            last = request.arrival_s
            if last > _LATEST_S or last - first > LONGEST_S:
                raise InputError(
                    f"{row.where}: {self.format.times} is {last:g} s, {last - first:g} s after the "
                    f"first; expected at most {_LATEST_S:g} and {LONGEST_S:g}: are these "
                    "milliseconds or nanoseconds?"
                )
            yield replace(request, arrival_s=last - first)

    def prompt_tokens_from(self, names: frozenset[str]) -> str:
        """Where prompt lengths come from, in words."""
        counted = self.format is not OWN or "prompt_tokens" in names
        return "the trace" if counted else f"the texts, {BYTES_PER_TOKEN} bytes a token"

    def _same_columns(self, row: Fields, top: Fields) -> None:
        # Each line of JSONL has names of its own.
        missing = self.format.missing(frozenset(row.values))
        if missing:
            raise InputError(f"{row.where}: {_lacks(self.format, missing, row.values)}")
        times = self.format.times
        if (times in row.values) != (times in top.values):
            timed, untimed = (row, top) if times in row.values else (top, row)
            raise InputError(
                f"{untimed.where}: lacks {times}, which line {timed.line} has: give every row a "
                "time of arrival, or none."
            )


def recognise(path: Path) -> tuple[Format, frozenset[str]]:
    """The format that a file's columns are of, and the columns.

    Raises:
        InputError: the file is missing, empty, of no known format, or lacks columns of the one
            that it resembles.
    """
    names = _columns(path)
    if not names:
        raise InputError(f"{path} is empty: give a trace with at least one request.")
    known = frozenset(names)
    fits = [each for each in FORMATS if not each.missing(known)]
    if fits:
        return fits[0], known
    near = max(FORMATS, key=lambda each: len(each.columns) - len(each.missing(known)))
    if len(near.missing(known)) < len(near.columns):
        raise InputError(f"{path} {_lacks(near, near.missing(known), names)}")
    found = ", ".join(list(names)[:8]) or "no column"
    raise InputError(
        f"{path} is of no known format: found {found[:200]}; expected the columns of one of: "
        + "; ".join(f"{each.name} ({_listed(each.columns)})" for each in FORMATS)
        + "."
    )


def _lacks(kind: Format, missing: list[str], names: object) -> str:
    found = ", ".join(map(str, names)) if isinstance(names, list | dict) else str(names)
    return (
        f"lacks {_listed(missing)} of the format {kind.name}: found {found[:200] or 'no column'}; "
        f"expected {_listed(kind.columns)}."
    )


def _listed(columns: list[str] | tuple[str, ...]) -> str:
    return ", ".join(each.replace("|", " or ") for each in columns)


def _columns(path: Path) -> list[str]:
    if _is_parquet(path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return [str(name) for name in pq.read_schema(path).names]
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path} cannot be read as Parquet ({error}): write it again."
            ) from error
    start = _start(path)
    if start.startswith("{"):
        try:
            return list(next(json_rows(path)).values)
        except InputError:
            # One JSON document over several lines is a mix or nothing.
            if '"parts"' not in start:
                raise
            return ["parts"]
    names = csv_names(path)
    known = any(not each.missing(frozenset(names)) for each in FORMATS)
    mixed = not known and any(line.startswith("parts:") for line in start.split("\n"))
    return ["parts"] if mixed else names


def _start(path: Path) -> str:
    with open_text(path) as text:
        return text.read(_BROWSED).lstrip()


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _rows(path: Path) -> Iterator[Fields]:
    return json_rows(path) if _start(path).startswith("{") else csv_rows(path)
