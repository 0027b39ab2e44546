"""Arrays for numpy in a file: the same bytes for the same arrays, and no file that is not one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from forged_arrays import forged
from numpy.testing import assert_array_equal
from safetensors.numpy import save

from pars_export.errors import PredictorError
from pars_export.runtimes.arrays import arrays_bytes, read_arrays

ARRAYS = {
    "b": np.arange(6, dtype="i1").reshape(2, 3),
    "c": np.linspace(0, 1, 5, dtype="f4"),
    "a": np.linspace(0, 1, 5, dtype="f2"),
    "a.1": np.zeros((2, 1), dtype="f4"),
    "odd": np.zeros(65, dtype="f4"),
}


def test_the_same_arrays_are_the_same_bytes_in_whatever_order() -> None:
    content = arrays_bytes(ARRAYS)
    for names in (sorted(ARRAYS), sorted(ARRAYS, reverse=True)):
        assert arrays_bytes({name: ARRAYS[name] for name in names}) == content
    assert arrays_bytes({**ARRAYS, "c": ARRAYS["c"] + 1}) != content


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = np.arange(12, dtype="f4").reshape(3, 4)
    # As they lie in memory, these are other arrays.
    strided = {"turned": rows.T, "part": rows[:, 1:3], "backwards": rows[::-1]}
    strided["foreign"] = rows.astype(">f4")
    (tmp_path / "a").write_bytes(arrays_bytes({**ARRAYS, **strided}))
    found = read_arrays(tmp_path / "a")
    assert set(found) == {*ARRAYS, *strided}
    for name, array in {**ARRAYS, **strided}.items():
        assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("<")


SPARSE = {
    "zeros": np.zeros(64, dtype="f2"),
    "row": np.where(np.arange(4096) % 50 == 7, np.arange(4096), 3).astype("f4"),
    "signs": np.where(np.arange(64) == 5, 0.0, -0.0).astype("f4"),
    "numbers": np.where(np.arange(800) % 100 == 0, -1, 5).astype("i4"),
}


def test_a_row_of_mostly_one_number_is_read_as_it_was_and_takes_less(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content := arrays_bytes({**ARRAYS, **SPARSE}))
    assert len(content) < sum(array.nbytes for array in SPARSE.values()) / 5
    found = read_arrays(tmp_path / "a")
    assert set(found) == {*ARRAYS, *SPARSE}
    for name, array in SPARSE.items():
        assert found[name].tobytes() == array.tobytes()
        assert found[name].dtype == array.dtype


def test_names_of_parts_are_not_names_of_arrays() -> None:
    with pytest.raises(ValueError, match=r"must not be called 'a\.marks'"):
        arrays_bytes({"a.marks": np.zeros(3)})


def test_a_small_file_takes_no_large_memory(tmp_path: Path) -> None:
    marks = np.zeros(2**21 + 1, dtype="u1")
    path = tmp_path / "student.safetensors"
    path.write_bytes(save({"a.fill": np.zeros(1), "a.marks": marks, "a.others": np.zeros(0)}))
    with pytest.raises(PredictorError, match=r"'a' would have 16777224 numbers"):
        read_arrays(path)


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.zeros(32, dtype="f4")},
        {"a.fill": np.zeros(2, dtype="f4")},
        {"a.fill": np.zeros(1, dtype="f2")},
        {"a.fill": np.zeros((1, 1), dtype="f4")},
        {"a.marks": np.zeros(4, dtype="i1")},
        {"a.marks": np.full(4, 255, dtype="u1")},
        {"a.others": np.zeros(2, dtype="f4")},
        {"a.fill": None},
        {"a.others": None},
    ],
)
def test_parts_that_are_not_of_one_array(
    tmp_path: Path, change: dict[str, np.ndarray | None]
) -> None:
    parts: dict[str, np.ndarray | None] = {
        "a.fill": np.zeros(1, dtype="f4"),
        "a.marks": np.array([0, 128, 0, 0], dtype="u1"),
        "a.others": np.ones(1, dtype="f4"),
    }
    path = tmp_path / "student.safetensors"
    path.write_bytes(save({k: v for k, v in parts.items() if v is not None}))
    assert read_arrays(path)["a"].tolist() == [0.0] * 8 + [1.0] + [0.0] * 23
    path.write_bytes(save({k: v for k, v in {**parts, **change}.items() if v is not None}))
    with pytest.raises(PredictorError, match=r"the parts of 'a' do not fit each other"):
        read_arrays(path)


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS)  # type: ignore[arg-type]  # the stub wants no names
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"words, and no numbers at all",
        b"\x80\x04N.",
        _npz(),
        arrays_bytes(ARRAYS)[:-1],
        arrays_bytes(ARRAYS)[:20],
        arrays_bytes(ARRAYS) + b"\0",
        forged(b"\xff\xfe{}"),
        forged(b"[" * 100_000),
        forged(b"[]"),
        forged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        forged({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}, bytes(4)),
        forged({"a": {"dtype": "F32", "shape": [0, 2**62, 8], "data_offsets": [0, 0]}}),
        forged({"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
        forged({"a": {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}),
        forged({"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}, bytes(4)),
        forged({"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    ],
)
def test_a_file_of_another_form(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "student.safetensors"
    path.write_bytes(content)
    with pytest.raises(PredictorError, match=r"no arrays that can be read \(.+\)\.$") as caught:
        read_arrays(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "size"), [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1)]
)
def test_a_type_that_numpy_lacks(tmp_path: Path, name: str, size: int) -> None:
    path = tmp_path / "student.safetensors"
    header = {"a": {"dtype": name, "shape": [4], "data_offsets": [0, 4 * size]}}
    path.write_bytes(forged(header, bytes(4 * size)))
    sentence = rf"student\.safetensors: no arrays that can be read \(numpy has no type '{name}'\)"
    with pytest.raises(PredictorError, match=sentence):
        read_arrays(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(PredictorError, match="no arrays that can be read"):
            read_arrays(path)
