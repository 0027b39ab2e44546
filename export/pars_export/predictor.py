"""Texts to scores and expected response lengths, from a predictor folder."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pars_export import runtimes
from pars_export.artifact import DEFAULT_PREDICTOR, Manifest, folder_sha256, read_manifest
from pars_export.built_here import check_built_here
from pars_export.calibration import Calibration, KnownLengths
from pars_export.errors import ConfigError, InputError, PredictorError, RuntimeUnusableError
from pars_export.facts import Facts
from pars_export.forks import in_forked_children
from pars_export.threads import check_threads

log = logging.getLogger("pars")


class Predictor:
    """A predictor folder, loaded.

    Safe to share between threads: callers take turns, so that the predictor never uses more than
    its own ``threads`` cores. Usable in a forked child, which loads the runtime again at its first
    call.

    Attributes:
        path: the folder.
        manifest: its manifest.
        runtime: name of the runtime that scores.
        threads: cores that the runtime may use.
        cpus: CPUs that it may run on; empty for where the caller runs.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        runtime: str,
        threads: int,
        cpus: Collection[int] = (),
    ) -> None:
        """Use `Predictor.load`."""
        self.path = path
        self.manifest = manifest
        self.runtime = runtime
        self.threads = threads
        self.cpus = frozenset(cpus)
        self._sha256 = folder_sha256(path)
        self._lock = threading.Lock()
        # Threads that a runtime starts keep the CPUs of the one that loads it.
        with _running_on(self.cpus):
            self._scorer: runtimes.Scorer | None = runtimes.load(runtime, path, manifest, threads)
        self._forked = False
        _live.add(self)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        runtime: str = "auto",
        threads: int = 1,
        sha256: str | None = None,
        cpus: Collection[int] = (),
    ) -> Predictor:
        """Check a predictor folder and load it; nothing is unpickled and nothing downloaded.

        What is loaded is what was checked: where a file of the folder changes meanwhile, as when an
        export replaces the folder, all is done once more.

        Args:
            folder: the predictor folder.
            runtime: a name of `pars_export.runtimes.RUNTIMES`, or `auto`: the first of them that
                folder and environment allow; one that does not start here is told of and left out.
            threads: cores that the runtime may use; one by default, for beside an engine every
                other is the engine's.
            sha256: what `pars_export.artifact.folder_sha256` of the folder must be.
            cpus: CPUs that loading and scoring may run on (Linux); none for where the caller is.

        Raises:
            PredictorError: the folder is missing, changed, too new, or cannot run here.
            ConfigError: an unknown runtime, a number of threads below 1, or CPUs that are not ours.
        """
        check_threads(threads)
        path = Path(folder).absolute()
        for _ in range(2):
            before = _state_of(path)
            found = cls._load(path, runtime, threads, sha256, cpus)
            if _state_of(path) == before:
                return found
        raise PredictorError(f"{path}: it changed while it was loaded, twice; load it again later.")

    @classmethod
    def _load(
        cls, path: Path, runtime: str, threads: int, sha256: str | None, cpus: Collection[int]
    ) -> Predictor:
        manifest = read_manifest(path, sha256=sha256)
        chosen, *others = runtimes.choices(runtime, path, manifest)
        for each in (chosen, *others) if runtime == "auto" else ():
            against = runtimes.compared_by_another(each, manifest)
            if against is not None:
                log.warning(
                    f"{path}: {against}; {chosen!r} is taken. Write the engine anew with `pars "
                    f"export DIR --to {each}`, or choose the runtime by name."
                )
        if sha256 is None and runtimes.RUNTIMES[chosen].native:
            name = str(manifest.engines[chosen]["file"])
            check_built_here(path / name, manifest.files[name].sha256)
        while True:
            try:
                return cls(path, manifest, chosen, threads, cpus)
            except RuntimeUnusableError as error:
                package = runtimes.RUNTIMES[chosen].package
                others = [each for each in others if runtimes.RUNTIMES[each].package != package]
                if not others:
                    raise
                log.warning(f"{error} The runtime {others[0]!r} is taken instead of {chosen!r}.")
                chosen, *others = others

    @classmethod
    def default(cls, threads: int = 1, cpus: Collection[int] = ()) -> Predictor:
        """The predictor inside the package, for use before any training.

        It knows no LLM in particular: it ranks by what prompts ask for, and its tokens are those of
        a typical LLM. One that is trained on the own LLM's lengths ranks better.
        `CARD.md` in its folder says what it learned from, how well it ranks, and where it fails.

        Args:
            threads: as in `load`.
            cpus: as in `load`.
        """
        return cls.load(DEFAULT_PREDICTOR, threads=threads, cpus=cpus)

    @property
    def sha256(self) -> str:
        """The value to pin this predictor by."""
        return self._sha256

    def score(
        self, texts: Sequence[str], facts: Sequence[Facts] | None = None
    ) -> NDArray[np.float32]:
        """Scores (n,) of texts, in their order; higher means a longer response.

        NaN stands for a text that a `table` predictor does not know.

        Args:
            texts: prompts, or what `pars_export.inputs.text_of` makes of messages.
            facts: what is known of each request beside its text; whatever is unknown is neutral,
                and none at all is no error. Without effect where `Predictor.reads` is empty.

        Raises:
            InputError: not a list of texts, or not as many facts.
            PredictorError: the model gave a score that is not a number.
        """
        texts = _list_of_texts(texts)
        if not texts:
            return np.empty(0, dtype=np.float32)
        if facts is not None and len(facts) != len(texts):
            raise InputError(
                f"There are {len(facts)} facts for {len(texts)} texts; give one of each, or none."
            )
        spec = self.manifest.facts
        with self._lock, _running_on(self.cpus):
            scorer = self._ready()
            if spec:
                beside = spec.of(facts, len(texts))
                scores = cast("runtimes.FactScorer", scorer).score(texts, beside)
            else:
                scores = scorer.score(texts)
        wrong = len(scores) - int(np.count_nonzero(np.isfinite(scores)))
        if wrong and self.manifest.kind != "table":
            raise PredictorError(
                f"{self.path}: the model returned NaN or infinity for {wrong} of {len(texts)} "
                "prompts; train and export it again."
            )
        return scores

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the facts (`pars_export.facts.Facts`) that it reads beside the text."""
        return tuple(fact.name for fact in self.manifest.facts.facts)

    def expected_tokens(self, prompts: Sequence[str] | ArrayLike) -> NDArray[np.float32]:
        """Expected response tokens (n,), at least 1; NaN where the score is NaN.

        Args:
            prompts: texts (n,), or the scores of texts that `score` gave.

        Raises:
            PredictorError: the predictor has no calibration.
        """
        return self._calibration.expected_tokens(self._scores_of(prompts))

    def quantile_tokens(
        self, prompts: Sequence[str] | ArrayLike, level: float
    ) -> NDArray[np.float32]:
        """Tokens (n,) that a share ``level`` of responses does not exceed, at least 1.

        Raises:
            InputError: ``level`` is not between 0 and 1.
            PredictorError: the predictor has no calibration, or one without a spread.
        """
        return self._calibration.quantile_tokens(self._scores_of(prompts), level)

    def remaining_tokens(
        self, prompts: Sequence[str] | ArrayLike, done: ArrayLike
    ) -> NDArray[np.float32]:
        """Tokens still to come of responses that have ``done`` (n,) tokens, at least 1.

        ``E[L - k | L > k, score]``: see `Calibration.remaining_tokens`.

        Raises:
            InputError: a number of tokens below 0 or not finite, or not one for each prompt.
            PredictorError: the predictor has no calibration, or one without a spread.
        """
        return self._calibration.remaining_tokens(self._scores_of(prompts), done)

    @property
    def _calibration(self) -> Calibration | KnownLengths:
        if self.manifest.calibration is not None:
            return self.manifest.calibration
        if self.manifest.kind == "table":
            return KnownLengths()
        raise PredictorError(
            f"{self.path}: it has no calibration, so its scores cannot be told in tokens; train "
            "to the end of an epoch and export it again."
        )

    def _scores_of(self, prompts: Sequence[str] | ArrayLike) -> NDArray[np.float32]:
        found = np.asarray(prompts)
        if found.dtype.kind in "iuf":
            return found.astype(np.float32, copy=False)
        return self.score(cast("Sequence[str]", prompts))

    def __repr__(self) -> str:
        return f"Predictor({str(self.path)!r}, runtime={self.runtime!r}, threads={self.threads})"

    def _ready(self) -> runtimes.Scorer:
        if self._scorer is None:
            before = _state_of(self.path)
            if self._forked:  # the folder may hold another predictor than it did at load
                read_manifest(self.path, sha256=self._sha256)
            scorer = runtimes.load(self.runtime, self.path, self.manifest, self.threads)
            if self._forked and _state_of(self.path) != before:
                raise PredictorError(f"{self.path}: it changed while it was loaded after a fork.")
            self._scorer = scorer
        elif self._forked and not self._scorer.survives_fork:
            # Fewer threads help no GPU's runtime, which `auto` never takes, and one is the least.
            fewer = self.threads > 1 and runtimes.RUNTIMES[self.runtime].auto
            threads = f" with {self.threads} threads" if fewer else ""
            raise PredictorError(
                f"{self.path}: the runtime {self.runtime!r}{threads} cannot go on after a fork; "
                f"start processes with the method `spawn`{', or use one thread' if fewer else ''}."
            )
        return self._scorer

    def _after_fork(self) -> None:
        self._forked = True
        # Another thread of the parent may have held the lock; it does not exist here.
        self._lock = threading.Lock()
        if self._scorer is not None and self._scorer.survives_fork:
            # Never freed: its end would wait for threads that the child does not have.
            _abandoned.append(self._scorer)
            self._scorer = None


_live: weakref.WeakSet[Predictor] = weakref.WeakSet()
_abandoned: list[runtimes.Scorer] = []


def _after_fork_in_child() -> None:
    for predictor in list(_live):
        predictor._after_fork()


in_forked_children(_after_fork_in_child)


def _running_on(cpus: Collection[int]) -> AbstractContextManager[None]:
    """Keep the calling thread on ``cpus``, where there are any."""
    return _bound_to(cpus) if cpus else _ANYWHERE


_ANYWHERE = nullcontext()


@contextmanager
def _bound_to(cpus: Collection[int]) -> Iterator[None]:
    """Keep the calling thread on ``cpus``; the others of the process stay where they are."""
    try:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
    except (AttributeError, OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"cpus is {sorted(cpus)}: this process cannot be bound to them ({error})."
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _state_of(folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, inode, size and time of change of what is in a folder; none where it cannot be read."""
    try:
        found = [(each.name, each.stat()) for each in os.scandir(folder)]
    except (OSError, ValueError):  # a path may hold a NUL
        return []
    return sorted((name, stat.st_ino, stat.st_size, stat.st_ctime_ns) for name, stat in found)


def _list_of_texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, (str, bytes)):
        raise InputError("Predictor.score takes a list of texts, found one text.")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"Text {index} must be a string, found {type(text).__name__}.")
    return found
