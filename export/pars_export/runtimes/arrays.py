"""What networks in numpy share: arrays read and checked, and the hash of neighbouring tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pars_export.errors import PredictorError

Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[np.generic]]
FIRST, SECOND = 0x9E3779B1, 0x85EBCA6B
"""What `pair_hash` multiplies by."""
_PARTS = (".fill", ".marks", ".others")
"""Ends of the names of what stands in a file for a sparse array."""
_MOST = 2**24
"""Numbers of the largest such array: a small file must not take all memory."""
Integers = TypeVar("Integers", NDArray[np.int64], int, Any)


def pair_hash(first: Integers, second: Integers, buckets: int) -> Integers:
    """Bucket of each pair of neighbouring tokens; the same for ever, for weights hang on it.

    Args:
        first: ids, an int64 array (one id, or a tensor in training).
        second: the ids after them.
        buckets: number of buckets, at most 2 to the 31.
    """
    mixed = (first * FIRST + second * SECOND) & 0xFFFFFFFF
    return (mixed * buckets) >> 32


def arrays_bytes(arrays: Arrays) -> bytes:
    """A safetensors file; the same for the same arrays, in whatever order they come.

    Of a row of numbers most of which are one, as of a linear model's weights, it holds that one,
    bits that mark the others, and the others.
    """
    written: dict[str, NDArray[np.generic]] = {}
    for name in sorted(arrays):
        # Of what is not contiguous, a file would hold the memory as it lies.
        written |= _sparse(name, np.ascontiguousarray(arrays[name]))
    return save(written)


def _sparse(name: str, array: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    """What stands in the file for an array, by name."""
    if name.endswith(_PARTS):
        raise ValueError(f"an array must not be called {name!r}, as a part of one is")
    if array.ndim == 1 and array.size and array.size % 8 == 0:
        bits = array.view(f"u{array.itemsize}")  # by which 0 and -0 are two numbers
        values, counts = np.unique(bits, return_counts=True)
        other = bits != values[counts.argmax()]
        parts = (array[~other][:1], np.packbits(other), array[other])
        if sum(part.nbytes for part in parts) < array.nbytes:
            return {f"{name}{part}": found for part, found in zip(_PARTS, parts, strict=True)}
    return {name: array}


def _dense(name: str, found: dict[str, NDArray[np.generic]]) -> NDArray[np.generic]:
    """The array that `_sparse` took apart; its parts leave ``found``.

    Raises:
        ValueError: they are not of one array.
    """
    fill, marks, others = (found.pop(f"{name}{part}", np.empty((0, 0))) for part in _PARTS)
    whole = marks.dtype == np.uint8 and [each.ndim for each in (fill, marks, others)] == [1, 1, 1]
    if not whole or len(fill) != 1 or fill.dtype != others.dtype or name in found:
        raise ValueError(f"the parts of {name!r} do not fit each other")
    if 8 * len(marks) > _MOST:
        raise ValueError(f"{name!r} would have {8 * len(marks)} numbers, more than {_MOST}")
    other = np.unpackbits(marks.astype(np.uint8)).view(bool)
    if np.count_nonzero(other) != len(others):
        raise ValueError(f"the parts of {name!r} do not fit each other")
    array = np.repeat(fill, len(other))
    array[other] = others
    return array


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of a safetensors file by their names.

    Raises:
        PredictorError: naming the file, which is damaged or of another form.
    """
    try:
        found = load(path.read_bytes())
        for name in [name.removesuffix(_PARTS[1]) for name in found if name.endswith(_PARTS[1])]:
            found[name] = _dense(name, found)
        return found
    except KeyError as error:  # bfloat16 and the smaller ones
        raise PredictorError(
            f"{path}: no arrays that can be read (numpy has no type {error})."
        ) from error
    except (
        # Of a shape that no array has, numpy raises a ValueError or an OverflowError.
        *(SafetensorError, OSError, ValueError, OverflowError, MemoryError),
    ) as error:
        raise PredictorError(f"{path}: no arrays that can be read ({error}).") from error


def floats(weights: Arrays, name: str) -> Floats:
    """An array, ready for use in memory."""
    return np.ascontiguousarray(weights[name], dtype=np.float32)


def check_arrays(
    weights: Arrays,
    shapes: Mapping[str, tuple[str, ...]],
    known: Mapping[str, int],
    whole: set[str],
) -> dict[str, int]:
    """Size of each axis.

    Args:
        weights: arrays by their names.
        shapes: name of each array to its axes; axes of one name are of one size.
        known: sizes that are known before.
        whole: names of the arrays of whole numbers; the others hold fractions.

    Raises:
        PredictorError: an array is missing, of another kind, or its shape does not fit the others.
    """
    sizes = dict(known)
    for name, wanted in shapes.items():
        if name not in weights:
            raise PredictorError(f"the array {name!r} is missing; make the predictor again.")
        found = weights[name]
        if found.dtype.kind != ("i" if name in whole else "f") or found.ndim != len(wanted):
            raise PredictorError(
                f"the array {name!r} is {found.dtype} of shape {found.shape}; expected "
                f"{'whole numbers' if name in whole else 'fractions'} by {', '.join(wanted)}."
            )
        for size, axis in zip(found.shape, wanted, strict=True):
            if sizes.setdefault(axis, size) != size or size < 1:
                raise PredictorError(
                    f"the array {name!r} has {size} {axis}, and {sizes[axis]} were expected."
                )
        if not np.isfinite(found).all():
            raise PredictorError(f"the array {name!r} holds NaN or infinity.")
    return sizes
