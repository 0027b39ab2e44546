"""What is known of a request at arrival beside its text, as numbers that a ranker reads.

A fact may always be unknown: it then stands at its mean with a mark beside it, and is never an
error. Counts enter as log(1 + n). Which facts a ranker reads, and their standardisation by its
training lengths, is a `FactSpec`; it is part of the predictor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pars_export.errors import ConfigError, PredictorError

COUNTS = ("prompt_tokens", "max_tokens")
"""Facts that are numbers of tokens, 0 or more; the others are true or false."""
_MOST = 2**53
"""Greatest whole number up to which floats tell one from the next; no count is larger."""
_LIMIT = 4.0
"""Standard deviations from the mean, at most: beyond it a ranker has learned nothing."""

Columns = Mapping[str, NDArray[np.float64]]
"""Name of a fact to its values (n,), counts as they are and flags as 0 and 1; NaN: unknown."""


@dataclass(frozen=True)
class Facts:
    """What is known of one request at arrival; None for what is not."""

    prompt_tokens: int | None = None
    """Tokens of the prompt for the LLM, its chat template included."""
    max_tokens: int | None = None
    """The client's own cap on the response, in tokens; unknown where it gave none."""
    structured: bool | None = None
    """Whether the response must follow a JSON schema, a grammar or the like."""
    tools: bool | None = None
    """Whether tools are offered."""
    reasoning: bool | None = None
    """Whether the LLM is to think before it answers."""

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Facts:
        """The facts among ``values``, such as a row of a table, by name; other keys mean nothing.

        Counts may be whole numbers or text of such, flags booleans, 0, 1 or the words true and
        false. Whatever else stands there is unknown: what a client writes is no reason to fail.
        """
        found: dict[str, Any] = {
            each.name: _read(each.name, values.get(each.name)) for each in fields(cls)
        }
        return cls(**found)


NAMES = tuple(each.name for each in fields(Facts))
"""All facts, in the order of their numbers."""


def _read(name: str, value: object) -> int | bool | None:
    number = value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        try:
            number = {"true": True, "false": False}.get(value.strip().lower(), value)
            number = float(number) if isinstance(number, str) else number
        except ValueError:
            return None
    if isinstance(number, float) and math.isfinite(number) and number.is_integer():
        number = int(number)
    if not isinstance(number, int) or not 0 <= number <= _MOST:
        return None
    if name in COUNTS:
        return None if isinstance(number, bool) else number
    return bool(number) if number in (0, 1) else None


def columns(facts: Iterable[Facts]) -> dict[str, NDArray[np.float64]]:
    """The facts of several requests, one column each."""
    rows = list(facts)
    return {
        name: np.array(
            [math.nan if (value := getattr(row, name)) is None else float(value) for row in rows],
            dtype=np.float64,
        )
        for name in NAMES
    }


def rows(found: Columns, count: int) -> list[Facts]:
    """The way back from `columns`; a column that is not there is unknown throughout."""
    told = {name: values.tolist() for name, values in found.items()}
    return [
        Facts.of({name: values[place] for name, values in told.items()}) for place in range(count)
    ]


@dataclass(frozen=True)
class Standard:
    """How one fact is standardised: (transformed value - mean) * scale."""

    name: str
    """Which fact."""
    mean: float
    """Of log(1 + n) of a count, or the share of true ones."""
    scale: float
    """One over the standard deviation; 0 where training saw but one value, which says nothing."""


@dataclass(frozen=True)
class FactSpec:
    """The facts that a ranker reads, in their order; none by default."""

    facts: tuple[Standard, ...] = ()

    @property
    def width(self) -> int:
        """Numbers per request: the standardised facts, then a mark for each unknown one."""
        return 2 * len(self.facts)

    def __bool__(self) -> bool:
        return bool(self.facts)

    def vectors(self, found: Columns, count: int) -> NDArray[np.float32]:
        """What the ranker reads of ``count`` requests, (count, width).

        Args:
            found: their facts by name; a column that is not there is unknown throughout.
            count: number of requests.
        """
        made = np.zeros((count, self.width), dtype=np.float32)
        for place, fact in enumerate(self.facts):
            values = found.get(fact.name)
            known = np.zeros(count, dtype=bool) if values is None else ~np.isnan(values)
            made[~known, len(self.facts) + place] = 1.0
            if values is not None:
                number = (transformed(fact.name, values[known]) - fact.mean) * fact.scale
                made[known, place] = np.clip(number, -_LIMIT, _LIMIT)
        return made

    def of(self, facts: Sequence[Facts] | None, count: int) -> NDArray[np.float32]:
        """The same of requests one by one; None: nothing is known of any."""
        return self.vectors({} if facts is None else columns(facts), count)

    def to_json(self) -> list[dict[str, object]]:
        """Plain JSON."""
        return [asdict(fact) for fact in self.facts]

    @classmethod
    def from_json(cls, value: object) -> FactSpec:
        """Read what `to_json` gave.

        Raises:
            PredictorError: it is not of that form, or names a fact that is unknown here.
        """
        if not isinstance(value, list):
            raise PredictorError(f"facts must be a list, found {type(value).__name__}.")
        found = []
        for entry in value:
            if not isinstance(entry, Mapping) or set(entry) != {"name", "mean", "scale"}:
                raise PredictorError("each of facts must hold name, mean and scale.")
            name, mean, scale = entry["name"], entry["mean"], entry["scale"]
            if name not in NAMES:
                raise PredictorError(
                    f"facts names {name!r}, and this version of pars-vllm knows {', '.join(NAMES)}."
                )
            for number in (mean, scale):
                whole = isinstance(number, (int, float)) and not isinstance(number, bool)
                if not whole or not abs(number) <= sys.float_info.max:
                    raise PredictorError(f"facts.{name} holds {number!r}; expected a number.")
            if scale < 0:
                raise PredictorError(f"facts.{name}.scale is {scale!r}; expected 0 or more.")
            found.append(Standard(str(name), float(mean), float(scale)))
        names = [fact.name for fact in found]
        if len(set(names)) != len(names):
            raise PredictorError("facts names one of them twice.")
        return cls(tuple(found))


def check_names(names: Sequence[str], key: str) -> tuple[str, ...]:
    """The facts of these names, in their fixed order, each once.

    Raises:
        ConfigError: a name that is unknown.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigError(
                f"{key} names {name!r}; a fact known at arrival is one of {', '.join(NAMES)}."
            )
    return tuple(name for name in NAMES if name in names)


def standardise(names: Sequence[str], found: Columns) -> FactSpec:
    """The facts of these names, standardised by the values that are known among ``found``."""
    return FactSpec(
        tuple(_standard(name, found.get(name, np.empty(0))) for name in check_names(names, "facts"))
    )


def _standard(name: str, values: NDArray[np.float64]) -> Standard:
    known = transformed(name, values[~np.isnan(values)])
    if not known.size:
        return Standard(name, 0.0, 0.0)
    deviation = float(known.std())
    return Standard(name, float(known.mean()), 1 / deviation if deviation > 1e-6 else 0.0)


def transformed(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of a fact on the scale that is standardised."""
    found: NDArray[np.float64] = np.log1p(values) if name in COUNTS else values
    return found
