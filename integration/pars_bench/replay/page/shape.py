"""Reads report.json of a replay and checks that it has the shape that ``schema`` declares."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from pars_bench.replay.schema import ReplayReport
from pars_export.errors import InputError


def read_report(path: Path) -> ReplayReport:
    """Read and check report.json.

    Raises:
        InputError: there is no such file, it is not JSON, or a value is not what the schema says;
            names the key.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: run `pars replay` first") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): run `pars replay` again") from error
    problem = mismatch(report, ReplayReport, "")
    if problem:
        raise InputError(f"{path}: {problem}; it is not the report of a whole replay")
    checked = cast(ReplayReport, report)
    if not checked["runs"]:
        raise InputError(f"{path}: runs is empty; run `pars replay` again")
    keys = [(run["policy"], run["load"], run["seed"]) for run in checked["runs"]]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise InputError(
            f"{path}: runs holds {twice[0]}, load {twice[1]:g}, seed {twice[2]} twice; run "
            "`pars replay` again"
        )
    return checked


def mismatch(value: object, wanted: object, where: str) -> str | None:
    """The first place where ``value`` is not of the type ``wanted``, in words; None if it is.

    Knows what a schema of JSON is made of: TypedDict, ``dict[str, T]``, ``list[T]``, ``T | None``,
    str, int, float, object and None. An int is a float too; NaN and infinities are none.
    """
    if wanted is object:
        return None
    if is_typeddict(wanted):
        return _mismatch_of_keys(value, get_type_hints(wanted), where)
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (only,) = (each for each in inner if each is not type(None))
        return mismatch(value, only, where)
    if origin is list:
        if not isinstance(value, list):
            return _found(value, "a list", where)
        parts = (mismatch(v, inner[0], f"{where}[{n}]") for n, v in enumerate(value))
        return next((part for part in parts if part), None)
    if origin is dict:
        if not isinstance(value, dict):
            return _found(value, "an object", where)
        parts = (mismatch(v, inner[1], f"{where}.{key}") for key, v in value.items())
        return next((part for part in parts if part), None)
    return _mismatch_of_scalar(value, wanted, where)


def _mismatch_of_keys(value: object, hints: Mapping[str, object], where: str) -> str | None:
    if not isinstance(value, dict):
        return _found(value, "an object", where)
    missing = sorted(set(hints) - set(value))
    if missing:
        return f"{where or 'the file'} lacks {', '.join(missing)}"
    prefix = f"{where}." if where else ""
    parts = (mismatch(value[key], hint, f"{prefix}{key}") for key, hint in hints.items())
    return next((part for part in parts if part), None)


def _mismatch_of_scalar(value: object, wanted: object, where: str) -> str | None:
    if wanted is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(cast(float, value))):
            return _found(value, "a finite number", where)
    elif wanted is int:
        if not isinstance(value, int) or isinstance(value, bool):
            return _found(value, "a whole number", where)
    elif wanted is str:
        if not isinstance(value, str):
            return _found(value, "a text", where)
    else:
        raise TypeError(f"{wanted} has no place in a schema of JSON")
    return None


def _found(value: object, expected: str, where: str) -> str:
    shown = repr(value)
    return f"{where or 'the file'} is {shown[:60]}; expected {expected}"
