"""Who takes part: every runtime of the predictor folders, and what else one might have used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pars_bench.predictor.grid import TOKENS, TOKENS_LARGE
from pars_bench.predictor.work import Work, work_of_encoder, work_of_student
from pars_export import runtimes
from pars_export.artifact import Manifest, read_manifest
from pars_export.errors import ConfigError
from pars_export.runtimes import RUNTIMES, Scorer, openvino_engine
from pars_export.runtimes.encoded import positions_of

# Name -> (what the page calls it, package that it needs, whether it has some 100 million weights).
BASELINES: dict[str, tuple[str, str, bool]] = {
    "bert-base": ("BERT-base, eager PyTorch", "transformers", True),
    "opt-125m": ("OPT-125M, eager PyTorch", "transformers", True),
    "pipeline": ("Hugging Face pipeline", "transformers", False),
    "ngram-ridge": ("n-gram ridge", "scipy", False),
}
_MODULE = "pars_bench.predictor.baselines"


@dataclass(frozen=True)
class Contestant:
    """One way to score texts; plain values, for it goes to other processes as JSON."""

    name: str
    """As the page has it."""
    what: str
    """A runtime of `pars_export.runtimes`, or a name of `BASELINES`."""
    folder: str
    """Its predictor folder; for a baseline the one whose tokenizer, or network, it takes."""
    baseline: bool
    large: bool = False
    """Whether it gets small batches only."""
    auto: bool = False
    """Whether it is the runtime that its folder is loaded with where none is named."""

    def open(self, threads: int, longest: int) -> Scorer:
        """Load it for texts of up to ``longest`` tokens, whatever its folder cuts at.

        A student keeps its own limit: it reads no more of a text, and that is why it is fast.
        """
        folder, manifest = Path(self.folder), self.manifest(longest)
        if not self.baseline:
            return runtimes.load(self.what, folder, manifest, threads)
        return cast("Scorer", _baseline(self.what, folder, manifest, threads))

    def manifest(self, longest: int) -> Manifest:
        """Its folder's, but for where an encoder cuts texts: at ``longest`` tokens."""
        folder = Path(self.folder)
        manifest = read_manifest(folder, check_hashes=False)
        if manifest.kind != "encoder":
            return manifest
        most = min(longest, positions_of(folder) or longest)
        spec = replace(manifest.input, max_length=most)
        return replace(manifest, input=spec)

    def takes(self, tokens: int) -> bool:
        """Whether it takes part in calls of so many tokens."""
        return not self.baseline or tokens <= (TOKENS_LARGE if self.large else TOKENS)

    def work(self) -> Work | None:
        """What it computes; None where nothing but the clock is known of it."""
        folder = Path(self.folder)
        manifest = read_manifest(folder, check_hashes=False)
        if self.baseline:
            found: Work | None = importlib.import_module(_MODULE).work_of(self.what, folder)
            return found
        if manifest.kind == "student":
            return work_of_student(folder, manifest.input.max_length)
        if not manifest.engines:
            return None
        engine = manifest.engines.get(self.what, {})
        spared = engine.get("float_layers", [])
        assert isinstance(spared, list)
        computes = "float32"
        if self.what == openvino_engine.OPENVINO:
            computes = openvino_engine.precision_of(folder / str(engine["file"]), engine)
        return work_of_encoder(read_encoder(folder), self.what, len(spared), computes)


def _baseline(what: str, folder: Path, manifest: Manifest, threads: int) -> object:
    return importlib.import_module(_MODULE).OPEN[what](folder, manifest, threads)


def read_encoder(folder: Path) -> dict[str, object]:
    """The encoder's configuration."""
    from pars_export.runtimes.encoded import read_config

    return cast("dict[str, object]", read_config(folder)["encoder"])


def choose(folders: Sequence[Path], baselines: Sequence[str] | None) -> list[Contestant]:
    """Everyone who can run here, folder after folder, then the baselines.

    Args:
        folders: predictor folders; one of an encoder among them, whose tokenizer and size the
            baselines take.
        baselines: names of `BASELINES`; None for all whose package is installed.

    Raises:
        ConfigError: no encoder, two folders of one name, one that reads facts, or a baseline that
            cannot run.
        PredictorError: a folder that cannot be read.
    """
    manifests = {folder: read_manifest(folder) for folder in folders}
    encoders = [folder for folder, manifest in manifests.items() if manifest.kind == "encoder"]
    if not encoders:
        raise ConfigError(
            "None of the predictor folders is of the kind encoder; give one, for the baselines "
            "read texts with its tokenizer."
        )
    for folder, manifest in manifests.items():
        if manifest.facts.width:
            raise ConfigError(
                f"{folder}: it reads facts beside the text, and this bench has texts alone; give "
                "a predictor that reads no facts."
            )
    names = [folder.name for folder in folders]
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise ConfigError(
            f"Two predictor folders are called {twice[0]!r}; results are named after folders, so "
            "give them different names."
        )
    found = [
        Contestant(
            f"{folder.name} {name}" if name != manifest.kind else folder.name,
            name,
            str(folder),
            baseline=False,
            auto=runtimes.choose("auto", folder, manifest) == name,
        )
        for folder, manifest in manifests.items()
        for name in _runnable(manifest)
    ]
    for name in _installed(baselines):
        title, _, large = BASELINES[name]
        found.append(Contestant(title, name, str(encoders[0]), baseline=True, large=large))
    return found


def _runnable(manifest: Manifest) -> list[str]:
    """The runtimes that need no GPU, have what they need in the folder, and are installed."""
    return [
        name
        for name, runtime in RUNTIMES.items()
        if runtime.auto
        and runtime.kind == manifest.kind
        and (manifest.kind != "encoder" or (runtime.engine or name) in manifest.engines)
        and (runtime.package is None or runtimes.is_installed(runtime.package))
    ]


def _installed(names: Sequence[str] | None) -> list[str]:
    if names is None:
        return [name for name in BASELINES if importlib.util.find_spec(BASELINES[name][1])]
    for name in names:
        if name not in BASELINES:
            raise ConfigError(
                f"--baselines: there is no baseline {name!r}; choose of {', '.join(BASELINES)}."
            )
        package = BASELINES[name][1]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"--baselines {name}: the package {package} must be installed.")
    return list(dict.fromkeys(names))
