"""What an operator may set: ``--additional-config '{"pars": {...}}'``."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, Union, get_args, get_origin, get_type_hints

from pars_export.errors import ConfigError

Ranking = Literal["on", "shadow", "off"]


@dataclass(frozen=True)
class Settings:
    """Every key of ``additional_config["pars"]``, checked."""

    predictor: str | None = None
    """Predictor folder; by default the one inside the package."""
    predictor_sha256: str | None = None
    """sha256 (hex) of the folder's predictor.json; another one refuses to start."""
    ranking: Ranking = "on"
    """"on" orders by expected work; "shadow" scores and records but keeps stock order; "off" is
    stock vLLM through the same class."""
    patience: float = 20.0
    """A request is urgent after waiting this many times its expected service (decode steps)."""
    share: float = 0.05
    """At most this share of admissions goes to urgent requests out of turn, 0 to 1."""
    prefill_weight: float = 0.05
    """Cost of one uncached prompt token, in decode tokens."""
    trust_priority: bool = False
    """Whether a client's own ``priority`` comes before expected work."""
    min_concordance: float = 0.55
    """Below it the order falls back to arrival until the predictor is better again; 0.5 is chance,
    1 the true order, 0 never falls back."""
    feedback_window: int = 1024
    """Requests, in the order in which they began to run, that the predictor is judged by."""
    log_interval_s: float = 600.0
    """Least seconds between two log lines with the counters and the predictor's track record."""
    preempt_longest: bool = False
    """Whether a full KV cache preempts the request with the most work left; else vLLM's choice,
    the one that came last."""
    pass_over: bool = False
    """Whether a waiting request that does not fit into the KV cache lets others pass, for at most
    ``patience`` times its expected work."""
    runtime: str = "auto"
    """Runtime of the predictor: "auto", or one that the predictor folder has, such as "onnx"."""
    threads: int = 1
    """CPU threads of the scorer process."""
    cpus: tuple[int, ...] = ()
    """CPUs that the scorer process may run on; empty for those of the engine core."""
    niceness: int = 5
    """Niceness of the scorer process, 0 to 19; higher yields more to the engine."""
    max_pending: int = 10_000
    """Requests that may await a score at once; those beyond it keep their place by arrival."""
    score_timeout_s: float = 30.0
    """Seconds without any answer after which the scorer process is replaced."""
    start_timeout_s: float = 120.0
    """Seconds that the scorer process may take to load the predictor."""
    cache_entries: int = 65_536
    """Scores kept for prompts seen before."""
    chat_template: str | None = None
    """The file given to vLLM's own ``--chat-template``, which the engine core is not told of."""
    allow_unsupported_vllm: bool = False
    """Run on a vLLM version that PARS was not tested with."""

    def __post_init__(self) -> None:
        """Check types and ranges; raise ConfigError."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _typed(field.name, value, hints[field.name]))
        for name, low, high in _RANGES:
            value = _as_float(getattr(self, name))
            if not low <= value <= high:
                raise ConfigError(
                    f"additional_config['pars'][{name!r}] must be from {low:g} to {high:g}, "
                    f"not {value:g}."
                )
        if self.predictor == "":
            raise ConfigError(
                "additional_config['pars']['predictor'] is empty: name a predictor folder, or "
                "leave the key out to use the default predictor."
            )
        if any(cpu < 0 for cpu in self.cpus):
            raise ConfigError(f"additional_config['pars']['cpus'] has a negative CPU: {self.cpus}.")

    @classmethod
    def parse(cls, additional_config: object) -> Settings:
        """Settings out of vLLM's ``additional_config``; raise ConfigError on anything unknown."""
        section = (
            additional_config.get("pars", {}) if isinstance(additional_config, Mapping) else {}
        )
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"additional_config['pars'] must be an object of settings, "
                f"not {type(section).__name__}."
            )
        known = [field.name for field in fields(cls)]
        for key in section:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ConfigError(
                    f"additional_config['pars'] has an unknown key {key!r}; {hint}"
                    f"known keys: {', '.join(known)}."
                )
        return cls(**section)


_DAY = 86_400.0
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("patience", 0.0, 1e9),
    ("share", 0.0, 1.0),
    ("prefill_weight", 0.0, 1e3),
    ("min_concordance", 0.0, 1.0),
    ("feedback_window", 200, 10_000),
    ("log_interval_s", 1.0, _DAY),
    ("threads", 1, 1024),
    ("niceness", 0, 19),
    ("max_pending", 1, 10_000_000),
    ("score_timeout_s", 0.1, _DAY),
    ("start_timeout_s", 0.1, _DAY),
    ("cache_entries", 0, 100_000_000),
)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf


def _typed(name: str, value: object, hint: object) -> object:
    """``value`` as the field's type, where that loses nothing; raise ConfigError otherwise."""
    where = f"additional_config['pars'][{name!r}]"
    if get_origin(hint) in (Union, types.UnionType):  # only "str | None" occurs
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if not isinstance(value, str) or value not in choices:
            raise ConfigError(f"{where} must be one of {', '.join(choices)}, not {value!r}.")
        return value
    if get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and all(type(item) is int for item in value):
            return tuple(value)
        raise ConfigError(f"{where} must be a list of integers, not {value!r}.")
    if hint is float and type(value) is int:
        return _as_float(value)
    if type(value) is hint:
        return value
    expected = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    wanted = expected[hint] if isinstance(hint, type) else str(hint)
    raise ConfigError(f"{where} must be {wanted}, not {value!r}.")
