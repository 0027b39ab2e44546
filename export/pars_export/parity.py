"""Does an engine score as the reference does? Measured at every export, on prompts."""

from __future__ import annotations

from collections.abc import Sequence
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

    def check(self, engine: str) -> None:
        """Raise a PredictorError if the engine is worse than its bound."""
        if not self.max_abs_diff <= self.bound:  # NaN must fail too
            raise PredictorError(
                f"The {engine} engine's scores differ from the reference by up to "
                f"{self.max_abs_diff:.3g} on {self.prompts} prompts, more than the "
                f"{self.bound:.3g} allowed; nothing was written."
            )
        if not self.tau >= self.tau_bound:
            raise PredictorError(
                f"The {engine} engine orders {self.prompts} prompts otherwise than the reference "
                f"(tau {self.tau:.4f}, at least {self.tau_bound:g} is wanted); nothing was written."
            )
        if not self.batch_diff <= self.batch_bound:
            raise PredictorError(
                f"The {engine} engine's scores depend on what else is in the batch, by up to "
                f"{self.batch_diff:.3g} where {self.batch_bound:.3g} is allowed; nothing was "
                "written."
            )


def real_texts() -> tuple[list[str], list[str]]:
    """Prompts to make engines by, and prompts to compare them on, for when none are given.

    They are those of the demonstration that ships with this package, filled templates, evenly
    taken.
    """
    source = files("pars_bench.demo").joinpath("prompts.jsonl")
    lines = source.read_text(encoding="utf-8").splitlines()
    real = [prompt.text for prompt in read_prompts(lines, source.name, "jsonl")]
    rows = np.linspace(0, len(real) - 1, PROMPTS + CALIBRATION).astype(int)
    return split([real[row] for row in rows])


def enough(texts: Sequence[str]) -> list[str]:
    """Texts, and as many others of `real_texts` as are missing for an export to be judged by."""
    calibration, compared = real_texts()
    given = dict.fromkeys(texts)
    others = [text for text in (*compared, *calibration) if text not in given]
    return [*given, *others[: max(PROMPTS + CALIBRATION - len(given), 0)]]


def builtin_texts() -> list[str]:
    """Texts of many forms and lengths, odd ones among them."""
    texts = [form.replace("{}", subject) for form in _FORMS for subject in _SUBJECTS]
    return [*texts, "", "x", "word " * 2000]


def split(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts to make engines by, and texts to compare them on: disjoint where there are enough."""
    if len(texts) < 2 * CALIBRATION:
        return list(texts), list(texts)
    chosen = set(np.linspace(0, len(texts) - 1, CALIBRATION).astype(int).tolist())
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
    if not np.isfinite(wanted).all():
        raise PredictorError("The ranker itself scores NaN or infinity; train it again.")
    found = _scores(candidate, texts, facts)
    worst, moved = _worst(wanted, found), 0.0
    ids = tokenizer.encode(texts)
    everything = list(range(len(texts)))
    # Evenly over the texts as given, which are not sorted by length.
    some = np.linspace(0, len(texts) - 1, min(len(texts), 24)).astype(int).tolist()
    for size, chosen in ((1, everything), (3, some), (8, some)):
        for start in range(0, len(chosen), size):
            rows = chosen[start : start + size]
            part = padded([ids[row] for row in rows], tokenizer.pad_id)
            again = core(*part) if facts is None else core(*part, facts[rows])
            worst = max(worst, _worst(wanted[rows], again))
            moved = max(moved, _worst(found[rows], again))
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
        odd=len(odd),
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
