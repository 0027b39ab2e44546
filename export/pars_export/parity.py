"""Does an engine score as the reference does? Measured at every export, on prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pars_export.batches import padded
from pars_export.errors import PredictorError
from pars_export.inputs import TextTokenizer
from pars_export.prompts import read_prompts
from pars_export.runtimes import FactScorer, Scorer
from pars_export.runtimes.encoded import Core

PROMPTS = 500
"""Prompts that an export is compared on, at least."""
CALIBRATION = 128
"""Prompts that engines are made by; where there are enough, none of those compared on."""
_SOME = 24
"""Texts that are scored in further batches, or by themselves where not all of them are."""
_Batch = tuple[list[int], NDArray[np.float32]]
"""Rows of texts that were scored together, and their scores."""
_RESOLUTION = 1e-5
"""What float32 arithmetic in another order may change, in units of the largest score."""

_SUBJECTS = ("a river", "prime numbers", "the moon", "bread", "a database index", "Tokyo", "jazz")
_FORMS = (
    "What is {}?",
    "Answer with one word: is {} older than the sea?",
    "Write a story of five paragraphs about {}, with a dialogue.",
    "List ten facts about {} as JSON with the keys name and fact.",
    "Translate into French: I should like to know more about {}.",
    "def describe(n: int) -> str:\n    '''Return n sentences about {}.'''\n",
    "Explain {} to a child, to a student and to an expert. " * 12,
    "Überprüfe, ob {} 日本語 или по-русски auch geht \N{ROCKET} \t\n ...",
)


@dataclass(frozen=True)
class Bound:
    """What an engine promises; differences in standard deviations of the reference's scores."""

    difference: float
    """Largest difference of a score from the reference's."""
    tau: float
    """Least Kendall's tau-b between the two orders."""
    batch: float
    """Largest change of a prompt's score by what else is in its batch."""


EXACT = Bound(difference=1e-3, tau=0.99, batch=1e-3)
"""Of engines that compute in float32: float tolerance, and an order that only ties can change."""
STUDENT = Bound(difference=0.1, tau=0.99, batch=1e-3)
"""Of students, whose weights are float32 in training and rounded, to int8 or float16, in numpy."""


@dataclass(frozen=True)
class Parity:
    """How far an engine's scores are from the reference's."""

    max_abs_diff: float
    """Largest absolute difference of scores, over all texts and batchings."""
    bound: float
    """Largest one that is allowed, in the same unit."""
    tau: float
    """Kendall's tau-b between the two orders."""
    tau_bound: float
    """Least that is allowed."""
    batch_diff: float
    """Largest absolute change of a text's score from one batch to another."""
    batch_bound: float
    """Largest one that is allowed, in the same unit."""
    prompts: int
    """Number of texts as in use; tau and the unit of the bounds are of them alone."""
    odd: int
    """Number of further texts of odd forms, which count for differences."""

    def to_json(self) -> dict[str, float | int]:
        """As it stands in the manifest."""
        return asdict(self)

    @property
    def fault(self) -> str | None:
        """In what the engine is worse than its bound, as the end of a sentence; None if it is not.

        It begins after the words "The engine".
        """
        if not self.max_abs_diff <= self.bound:  # NaN must fail too
            return (
                f"'s scores differ from the reference by up to {self.max_abs_diff:.3g} on "
                f"{self.prompts} prompts, more than the {self.bound:.3g} allowed"
            )
        if not self.tau >= self.tau_bound:
            return (
                f" orders {self.prompts} prompts otherwise than the reference (tau {self.tau:.4f}, "
                f"at least {self.tau_bound:g} is wanted)"
            )
        if not self.batch_diff <= self.batch_bound:
            return (
                f"'s scores depend on what else is in the batch, by up to {self.batch_diff:.3g} "
                f"where {self.batch_bound:.3g} is allowed"
            )
        return None

    def check(self, engine: str) -> None:
        """Raise a PredictorError if the engine is worse than its bound."""
        if self.fault is not None:
            raise PredictorError(f"The {engine} engine{self.fault}; nothing was written.")


def demonstration_texts() -> tuple[list[str], list[str]]:
    """Prompts to make engines by, and prompts to compare them on, for when none are given.

    They are those of the demonstration that ships with this package, filled templates, evenly
    taken.
    """
    source = files("pars_bench.demo").joinpath("prompts.jsonl")
    lines = source.read_text(encoding="utf-8").splitlines()
    real = [prompt.text for prompt in read_prompts(lines, source.name, "jsonl")]
    return split([real[row] for row in evenly(len(real), PROMPTS + CALIBRATION)])


def enough(texts: Sequence[str], count: int = PROMPTS + CALIBRATION) -> list[str]:
    """Texts, and as many of `demonstration_texts` as are missing for an export to be judged by.

    Args:
        texts: those given; one that is there twice counts once.
        count: how many are enough, `PROMPTS` and `CALIBRATION` together at most.
    """
    calibration, compared = demonstration_texts()
    given = dict.fromkeys(texts)
    others = [text for text in (*compared, *calibration) if text not in given]
    return [*given, *others[: max(count - len(given), 0)]]


def evenly(total: int, most: int) -> list[int]:
    """Numbers from 0 to ``total`` - 1, evenly taken where there are more than ``most``."""
    rows: list[int] = np.linspace(0, total - 1, min(total, most)).astype(int).tolist()
    return rows


def builtin_texts() -> list[str]:
    """Texts of many forms and lengths, odd ones among them."""
    texts = [form.replace("{}", subject) for form in _FORMS for subject in _SUBJECTS]
    return [*texts, "", "x", "word " * 2000]


def split(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts to make engines by, and texts to compare them on: disjoint where there are enough."""
    if len(texts) < 2 * CALIBRATION:
        return list(texts), list(texts)
    chosen = set(evenly(len(texts), CALIBRATION))
    return (
        [text for row, text in enumerate(texts) if row in chosen],
        [text for row, text in enumerate(texts) if row not in chosen],
    )


def measure(
    reference: Scorer,
    candidate: Scorer,
    core: Core,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    bound: Bound = EXACT,
    facts: NDArray[np.float32] | None = None,
    odd: Sequence[str] = (),
) -> Parity:
    """Compare a candidate with the reference.

    All texts go through the candidate as they will in use, and each by itself; some of them also in
    padded batches of mixed length, so that an engine whose scores depend on what else is in the
    batch fails here.

    Args:
        reference: float32 torch.
        candidate: the new engine with its own micro-batches.
        core: the same engine without them.
        tokenizer: of both.
        texts: prompts as in use, at least two.
        bound: what the engine promises.
        facts: for a ranker that reads them beside the texts and the odd ones, (n, width).
        odd: texts of odd forms, whose scores must not differ either; no order hangs on them.

    Raises:
        PredictorError: the reference's own scores are no numbers.
    """
    prompts, texts = len(texts), [*texts, *odd]
    wanted = _scores(reference, texts, facts)
    ids = tokenizer.encode(texts)

    def again() -> Iterator[_Batch]:
        some = evenly(len(texts), _SOME)  # as given, which is not by length
        for size, chosen in ((1, list(range(len(texts)))), (3, some), (8, some)):
            for start in range(0, len(chosen), size):
                rows = chosen[start : start + size]
                part = padded([ids[row] for row in rows], tokenizer.pad_id)
                yield rows, core(*part) if facts is None else core(*part, facts[rows])

    return _judged(wanted, _scores(candidate, texts, facts), again(), prompts, bound)


def compare_scores(
    wanted: NDArray[np.float32],
    candidate: Scorer,
    texts: Sequence[str],
    bound: Bound,
    odd: Sequence[str] = (),
) -> Parity:
    """Compare a candidate with scores that are known: all texts in one call, some by themselves.

    Args:
        wanted: scores of the texts, and of the odd ones after them, by what was trained.
        candidate: what serves.
        texts: as in `measure`.
        bound: what the candidate promises.
        odd: as in `measure`.

    Raises:
        PredictorError: a score that is wanted is no number.
    """
    everything = [*texts, *odd]
    alone = (([row], candidate.score([everything[row]])) for row in evenly(len(everything), _SOME))
    return _judged(wanted, candidate.score(everything), alone, len(texts), bound)


def _judged(
    wanted: NDArray[np.float32],
    found: NDArray[np.float32],
    again: Iterable[_Batch],
    prompts: int,
    bound: Bound,
) -> Parity:
    """What scores that are wanted, those found and those found again in other batches come to.

    Args:
        wanted: by the reference, of prompts and then of odd texts.
        found: by the candidate.
        again: rows of further batches and their scores by the candidate.
        prompts: how many of the texts are prompts.
        bound: what the candidate promises.
    """
    if not np.isfinite(wanted).all():
        raise PredictorError("The ranker itself scores NaN or infinity; train it again.")
    worst, moved = _worst(wanted, found), 0.0
    for rows, scores in again:
        worst = max(worst, _worst(wanted[rows], scores))
        moved = max(moved, _worst(found[rows], scores))
    deviation = float(wanted[:prompts].std())
    least = _RESOLUTION * float(np.abs(wanted).max())
    # Where the reference itself tells no two texts apart there is no order to keep.
    ordered = bool(np.isfinite(worst)) and deviation > least
    return Parity(
        max_abs_diff=worst,
        bound=max(bound.difference * deviation, least),
        tau=tau_b(wanted[:prompts], found[:prompts]) if ordered else float(np.isfinite(worst)),
        tau_bound=bound.tau,
        batch_diff=moved,
        batch_bound=max(bound.batch * deviation, least),
        prompts=prompts,
        odd=len(wanted) - prompts,
    )


def _scores(
    scorer: Scorer, texts: Sequence[str], facts: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    if facts is None:
        return scorer.score(texts)
    return cast("FactScorer", scorer).score(texts, facts)


def some_facts(width: int, count: int) -> NDArray[np.float32] | None:
    """Facts to compare engines on (count, width), a third of them unknown; None where width is 0.

    Standardised numbers of deviation 1, the same each time; marks of what is unknown after them.
    """
    if not width:
        return None
    rng = np.random.default_rng(0)
    unknown = rng.random((count, width // 2)) < 1 / 3
    values = np.where(unknown, 0.0, rng.standard_normal(unknown.shape))
    return np.concatenate([values, unknown], axis=1, dtype=np.float32)


def _worst(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    difference = float(np.abs(wanted.astype(np.float64) - found).max())
    return difference if np.isfinite(difference) else float("inf")


def tau_b(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Kendall's tau-b of two score vectors (n,), by counting pairs; 0 if one of them is constant.

    Kendall 1945. Quadratic in n, which is a sample here.
    """
    agree = 0
    untied = [0, 0]
    for index in range(1, len(first)):
        one = np.sign(first[index] - first[:index])
        two = np.sign(second[index] - second[:index])
        agree += int((one * two).sum())
        untied[0] += int(np.count_nonzero(one))
        untied[1] += int(np.count_nonzero(two))
    return agree / (untied[0] * untied[1]) ** 0.5 if all(untied) else 0.0
