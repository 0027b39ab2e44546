"""The predictor folder: its manifest `predictor.json`, and the files that it vouches for.

The manifest is strict: keys of this format version and no others, every file named with its size
and sha256. A key that a reader does not know could change what scores mean, so it is refused
rather than ignored; who adds one raises the format version.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pars_export.calibration import Calibration
from pars_export.errors import ConfigError, PredictorError
from pars_export.facts import FactSpec
from pars_export.files import atomic_folder, default_mode, sha256_file
from pars_export.inputs import TEXT_VERSION, InputSpec

FORMAT = "pars-predictor"
FORMAT_VERSION = 5
"""Newest that is read. 1 had no spread of lengths in its calibration, 2 no facts beside the text,
3 no n-gram half, 4 no safetensors for numpy: students and halves of before are refused, all else is
read as ever. A folder is written as the oldest from 2 on that has all of it, so an encoder without
a half is still 3 or 2, and one without facts as well is 2."""
_PLAIN = 2
_SAFETENSORS = 5
"""Format version from which on the arrays that numpy reads are safetensors."""
_SINCE = {"facts": 3, "ngrams": 4}
"""Format version that brought a key."""
MANIFEST = "predictor.json"
DEFAULT_PREDICTOR = Path(__file__).parent / "default"
"""The predictor inside the package; its `CARD.md` says what it learned from and how it ranks."""
KINDS = ("encoder", "student", "table", "length")

_REQUIRED = {"format", "format_version", "kind", "input", "engines", "files"}
_OPTIONAL = {"calibration", "training", "metrics"}
# One plain name: no folder, no parent, nothing hidden.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class FileEntry:
    """What a file of the folder must be."""

    sha256: str
    """In hex."""
    bytes: int
    """Size."""


@dataclass(frozen=True)
class Manifest:
    """Content of `predictor.json`."""

    kind: str
    """`encoder` (a trained ranker), `student` (distilled from one), `table` (known lengths) or
    `length` (prompt length)."""
    input: InputSpec = field(default_factory=InputSpec)
    engines: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Name of an engine to its `file` and whatever else is known of it (opset, parity)."""
    calibration: Calibration | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    """What the ranker was trained on, as plain JSON."""
    metrics: Mapping[str, object] = field(default_factory=dict)
    """How well it ranked, as plain JSON."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """Every file of the folder but the manifest itself."""
    facts: FactSpec = field(default_factory=FactSpec)
    """What it reads of a request beside its text; kind `encoder` only."""
    ngrams: str | None = None
    """File of the n-gram half, whose score joins the network's; kind `encoder` only."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PredictorError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}.")
        if self.facts and self.kind != "encoder":
            raise PredictorError(f"a predictor of kind {self.kind!r} reads no facts.")
        if self.ngrams is not None and self.kind != "encoder":
            raise PredictorError(f"a predictor of kind {self.kind!r} has no n-gram half.")

    def to_json(self) -> dict[str, object]:
        """Plain JSON, ready to be written."""
        found: dict[str, object] = {
            "format": FORMAT,
            "format_version": _PLAIN,
            "kind": self.kind,
            "input": {**asdict(self.input), "text": TEXT_VERSION},
            "engines": {name: dict(engine) for name, engine in self.engines.items()},
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "training": dict(self.training),
            "metrics": dict(self.metrics),
        }
        if self.calibration is not None:
            found["calibration"] = self.calibration.to_json()
        if self.facts:
            found["facts"] = self.facts.to_json()
        if self.ngrams is not None:
            found["ngrams"] = self.ngrams
        least = _SAFETENSORS if _has_arrays(found) else _PLAIN
        found["format_version"] = max(
            [least, *(since for key, since in _SINCE.items() if key in found)]
        )
        return found

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """Read what `to_json` gave.

        Raises:
            PredictorError: another format, a newer version, a missing or unknown key, or a value
                that is not of its form.
        """
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise PredictorError(f"it is no predictor: its format is not {FORMAT!r}.")
        version = _version(value.get("format_version"))
        missing = sorted(_REQUIRED - set(value))
        if missing:
            raise PredictorError(f"the key {missing[0]!r} is missing; export the predictor again.")
        later = {key for key, since in _SINCE.items() if version >= since}
        unknown = sorted(set(value) - _REQUIRED - _OPTIONAL - later)
        if unknown:
            raise PredictorError(
                f"the key {unknown[0]!r} is unknown in format version {version}; remove it, "
                "or use the version of pars-vllm that wrote it."
            )
        if version < _SAFETENSORS and _has_arrays(value):
            raise PredictorError(
                f"it is of format version {version}, whose arrays (.npz) are no longer read; make "
                "the predictor again with this version of pars-vllm."
            )
        calibration = value.get("calibration")
        files = _files(value["files"])
        return cls(
            kind=_text(value["kind"], "kind"),
            input=_input(value["input"]),
            engines=_engines(value["engines"], files),
            calibration=None if calibration is None else Calibration.from_json(calibration),
            training=_object(value.get("training", {}), "training"),
            metrics=_object(value.get("metrics", {}), "metrics"),
            files=files,
            facts=FactSpec.from_json(value.get("facts", [])),
            ngrams=_ngrams(value["ngrams"], files) if "ngrams" in value else None,
        )


def _has_arrays(manifest: Mapping[str, object]) -> bool:
    """Whether numpy reads some of the folder's weights."""
    return manifest["kind"] == "student" or "ngrams" in manifest


def _version(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise PredictorError(f"format_version is {version!r}; expected {FORMAT_VERSION}.")
    if version > FORMAT_VERSION:
        raise PredictorError(
            f"it is of format version {version}, and this version of pars-vllm reads up to "
            f"{FORMAT_VERSION}; install a newer pars-vllm or export the predictor again."
        )
    return version


def _object(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PredictorError(f"{key} must be an object, found {type(value).__name__}.")
    return value


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise PredictorError(f"{key} must be text, found {value!r}.")
    return value


def _input(value: object) -> InputSpec:
    found = _object(value, "input")
    if set(found) != {"max_length", "truncation", "text"}:
        raise PredictorError(
            f"input must hold max_length, text and truncation, found {', '.join(sorted(found))}."
        )
    if found["text"] != TEXT_VERSION:
        raise PredictorError(
            f"input.text is {found['text']!r}, and this version of pars-vllm makes texts by "
            f"{TEXT_VERSION!r}; export the predictor again."
        )
    length = found["max_length"]
    if not isinstance(length, int):
        raise PredictorError(f"input.max_length must be a whole number, found {length!r}.")
    try:
        return InputSpec(length, _text(found["truncation"], "input.truncation"))
    except ConfigError as error:
        raise PredictorError(str(error)) from error


def _engines(value: object, files: Mapping[str, FileEntry]) -> dict[str, dict[str, object]]:
    engines = {
        name: _object(engine, f"engines.{name}")
        for name, engine in _object(value, "engines").items()
    }
    for name, engine in engines.items():
        file = _text(engine.get("file"), f"engines.{name}.file")
        if file not in files:
            raise PredictorError(f"engines.{name}.file is {file!r}, which files does not list.")
    return engines


def _ngrams(value: object, files: Mapping[str, FileEntry]) -> str:
    name = _text(value, "ngrams")
    if name not in files:
        raise PredictorError(f"ngrams is {name!r}, which files does not list.")
    return name


def _files(value: object) -> dict[str, FileEntry]:
    found: dict[str, FileEntry] = {}
    for name, entry in _object(value, "files").items():
        if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
            raise PredictorError(
                f"files names {name!r}; only plain file names inside the folder are allowed."
            )
        fields = _object(entry, f"files.{name}")
        digest, size = fields.get("sha256"), fields.get("bytes")
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest) or not whole:
            raise PredictorError(f"files.{name} must hold a sha256 in hex and a size in bytes.")
        assert isinstance(size, int)
        found[name] = FileEntry(digest, size)
    return found


def folder_sha256(folder: str | Path) -> str:
    """The value that an operator pins: sha256 of the manifest, which holds all others.

    Raises:
        PredictorError: there is no predictor in the folder.
    """
    return hashlib.sha256(_manifest_bytes(Path(folder))).hexdigest()


def read_manifest(
    folder: str | Path, check_hashes: bool = True, sha256: str | None = None
) -> Manifest:
    """Read the manifest of a predictor folder and check the files against it.

    Args:
        folder: the predictor folder.
        check_hashes: read every file; otherwise only its presence and size are checked.
        sha256: what `folder_sha256` must be.

    Raises:
        PredictorError: naming the file that is missing, changed, too new, or not what it must be.
    """
    folder = Path(folder)
    content = _manifest_bytes(folder)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise PredictorError(
            f"{folder}: its sha256 is {found}, not the {sha256.strip()} that is pinned; give the "
            "predictor that was meant, or pin this one."
        )
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PredictorError(
            f"{folder / MANIFEST}: not valid JSON ({error}); export the predictor again."
        ) from error
    try:
        manifest = Manifest.from_json(value)
    except PredictorError as error:
        raise PredictorError(f"{folder / MANIFEST}: {error}") from error
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry, check_hashes)
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _manifest_bytes(folder: Path) -> bytes:
    if not folder.exists():
        raise PredictorError(f"{folder}: there is no such predictor folder.")
    if not folder.is_dir():
        raise PredictorError(f"{folder}: a predictor is a folder, and this is a file.")
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise PredictorError(
            f"{folder}: no predictor, for it holds no file {MANIFEST}; give a folder that "
            "`pars export` wrote."
        )
    return path.read_bytes()


def _check_file(path: Path, entry: FileEntry, check_hash: bool) -> None:
    if path.is_symlink():
        raise PredictorError(f"{path}: a symbolic link; a predictor's files must be its own.")
    if not path.is_file():
        raise PredictorError(f"{path}: this file of the predictor is missing; export it again.")
    size = path.stat().st_size
    if size != entry.bytes:
        raise PredictorError(
            f"{path}: it has {size} bytes instead of {entry.bytes}; export the predictor again."
        )
    if check_hash and sha256_file(path) != entry.sha256:
        raise PredictorError(
            f"{path}: its content has changed since it was exported (sha256 differs); export the "
            "predictor again."
        )


@contextmanager
def predictor_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes the predictor folder ``path`` on success.

    An older predictor there is replaced; anything else is left alone.

    Raises:
        PredictorError: ``path`` is a file, or holds files that are no predictor's.
    """
    path = Path(path)
    _check_replaceable(path)
    with atomic_folder(path) as temporary:
        yield temporary


def _check_replaceable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise PredictorError(f"{path}: this is a file; give a folder to write the predictor to.")
    present = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if not present:
        return
    try:
        known = {MANIFEST, *json.loads((path / MANIFEST).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = set()
    foreign = sorted(present - known)
    if foreign:
        raise PredictorError(
            f"{path}: it holds {foreign[0]!r}, which is no part of a predictor; give a new folder, "
            "or remove this one."
        )


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of the files that stand in ``folder``; return it with their hashes."""
    files: dict[str, FileEntry] = {}
    for path in sorted(folder.iterdir()):
        # safetensors writes for its owner alone; who serves is often another user.
        path.chmod(default_mode(0o666))
        files[path.name] = FileEntry(sha256_file(path), path.stat().st_size)
    manifest = replace(manifest, files=files)
    value = manifest.to_json()
    Manifest.from_json(value)  # what cannot be read back must not be written
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
    return manifest


def write_predictor(
    folder: str | Path, manifest: Manifest, files: Mapping[str, Path | str | bytes]
) -> Manifest:
    """Write a predictor folder, whole or not at all.

    Args:
        folder: where; an older predictor there is replaced.
        manifest: its `files` are filled in here.
        files: name to content (text or bytes) or to the path of a file to copy.

    Raises:
        PredictorError: ``folder`` holds something else.
    """
    with predictor_folder(folder) as temporary:
        for name, content in files.items():
            target = temporary / name
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            elif isinstance(content, str):
                target.write_text(content, encoding="utf-8")
            else:
                target.write_bytes(content)
        return seal(temporary, manifest)
