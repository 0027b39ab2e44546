"""Training of a student: the teacher's scores as targets, the lengths' own order beside them.

Where the teacher's vectors are known, a layer that is thrown away afterwards has to tell them from
the student's hidden layer (FitNets, Romero et al., ICLR 2015), and embeddings begin as the
teacher's vectors of their words, projected onto their principal components, so that words that are
rare in the texts mean something (Model2Vec, Tulkens and van Dongen, 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pars_export.inputs import InputSpec
from pars_export.words import WordTokenizer, train_tokenizer
from pars_model.batches import Batch
from pars_model.course import Course, Lesson, take
from pars_model.lengths import LengthTable
from pars_model.losses import logistic_loss
from pars_model.student import StudentEnsemble, StudentModule, StudentShape


@dataclass(frozen=True)
class Recipe:
    """How a student looks and learns."""

    spec: InputSpec = field(default_factory=lambda: InputSpec(64, "head_tail"))
    """What of a text is read."""
    shape: StudentShape = field(default_factory=StudentShape)
    """Sizes of the network."""
    course: Course = field(default_factory=lambda: Course(epochs=6, lr=3e-3, batch_size=256))
    """How long and how fast."""
    dropout: float = 0.1
    """Share of tokens, and of the text's vector, left out in training."""
    label_weight: float = 0.3
    """Of the pairwise loss on lengths beside the squared error of the teacher's scores."""
    vector_weight: float = 3.0
    """Of the squared error of the teacher's vectors, in their standard deviations."""
    members: int = 1
    """Students that are trained apart, from seeds of their own, and score as one by their mean."""


@dataclass(frozen=True)
class Vectors:
    """A teacher's vectors."""

    texts: NDArray[np.float32]
    """Of all texts, (n, width)."""
    read: Callable[[Sequence[str]], NDArray[np.float32]]
    """Those of others, for the embeddings to begin with."""


@dataclass(frozen=True)
class Student:
    """A trained student."""

    network: StudentEnsemble
    tokenizer_json: str
    taus: tuple[float, ...]
    """Validation tau after each epoch, the mean over LLMs; of one member after the other."""


def fit_student(
    table: LengthTable,
    texts: Sequence[str],
    part: NDArray[np.str_],
    scores: NDArray[np.floating],
    recipe: Recipe,
    vectors: Vectors | None = None,
) -> Student:
    """Train a student.

    Args:
        table: lengths of the first ``len(table.prompts)`` texts.
        texts: all texts, those without lengths after the table's.
        part: train, val or test of each text; test texts are not touched.
        scores: the teacher's, per text; NaN where it did not score.
        recipe: how.
        vectors: the teacher's, where it tells them.

    Returns:
        The student, each member with the weights of its best epoch.
    """
    train = np.flatnonzero(part == "train")
    tokenizer_json = train_tokenizer((texts[i] for i in train), recipe.shape.vocabulary)
    tokenizer = WordTokenizer(tokenizer_json, recipe.spec)
    tokens, features = tokenizer.read_all(texts)
    known = torch.from_numpy(features)
    words = None
    if vectors is not None:
        words = vectors.read([piece.removeprefix("##") for piece in tokenizer.pieces()])
    taught = scores[train]
    target = torch.from_numpy(((scores - taught.mean()) / max(taught.std(), 1e-9)).astype("f4"))

    lesson = Lesson(table, part, tokens)
    members: list[StudentModule] = []
    taus: list[float] = []
    for number in range(recipe.members):
        course = replace(recipe.course, seed=recipe.course.seed + number)
        torch.manual_seed(course.seed)
        network = StudentModule(recipe.shape, tokenizer.vocab_size, features[train], recipe.dropout)
        if words is not None:
            network.begin(words)
        told = None if vectors is None else _Told(vectors.texts, train, recipe.shape.neurons)
        learning = network if told is None else nn.ModuleList([network, told])
        loss = partial(_loss, recipe, network, told, known, target)
        scores_of = partial(_scores_of, network, tokens, features)
        taus += take(course, lesson, learning, loss, scores_of, "student")
        members.append(network)
    return Student(StudentEnsemble(members), tokenizer_json, tuple(taus))


class _Told(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """The teacher's vectors (n, width) as a student's hidden layer tells them."""

    def __init__(
        self, vectors: NDArray[np.float32], train: NDArray[np.int64], neurons: int
    ) -> None:
        super().__init__()
        self._vectors = torch.from_numpy(vectors)
        mean = vectors[train].mean(axis=0, dtype=np.float64)
        deviation = vectors[train].std(axis=0, dtype=np.float64)
        deviation[deviation < 1e-5 * (1 + np.abs(mean))] = 1.0  # a constant is no more than that
        self._mean = torch.from_numpy(mean.astype(np.float32))
        self._deviation = torch.from_numpy(deviation.astype(np.float32))
        self.layer = nn.Linear(neurons, vectors.shape[1])

    def distance(self, neurons: Tensor, texts: Tensor) -> Tensor:
        """Mean squared error, in standard deviations, for these texts."""
        wanted = (self._vectors[texts] - self._mean) / self._deviation
        found: Tensor = (self.layer(neurons) - wanted).square().mean()
        return found


def _loss(
    recipe: Recipe,
    network: StudentModule,
    told: _Told | None,
    features: Tensor,
    target: Tensor,
    batch: Batch,
) -> Tensor:
    """How far a student is from its teacher, and from the order of the lengths.

    Args:
        recipe: what each of them weighs.
        network: the student.
        told: the teacher's vectors, where it tells them.
        features: of all texts, (n, width).
        target: the teacher's standardised scores of all texts, (n,).
        batch: some of the texts, and their pairs.
    """
    neurons = network.neurons(batch.input_ids, batch.attention_mask, features[batch.prompt])
    found = network.score(neurons)
    distance = (found - target[batch.prompt]).square().mean()
    if told is not None:
        distance = distance + recipe.vector_weight * told.distance(neurons, batch.prompt)
    pairs = batch.row[batch.longer], batch.row[batch.shorter]
    # Targets have deviation 1, which as log-odds is timid.
    return distance + recipe.label_weight * logistic_loss(2 * found, *pairs)


def _scores_of(
    network: nn.Module,
    tokens: Sequence[Sequence[int]],
    features: NDArray[np.float32],
    numbers: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Scores of the texts of these numbers among all."""
    return predict(network, [tokens[i] for i in numbers], features[numbers])


def predict(
    network: nn.Module, tokens: Sequence[Sequence[int]], features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scores (n,) of tokenised texts by the torch network in evaluation mode."""
    order = np.argsort([len(each) for each in tokens], kind="stable")
    scores = np.empty(len(tokens), dtype=np.float32)
    for start in range(0, len(order), 256):
        chosen = order[start : start + 256]
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(tokens[i]) for i in chosen], batch_first=True
        )
        sizes = torch.tensor([len(tokens[i]) for i in chosen])
        mask = (torch.arange(ids.shape[1]) < sizes[:, None]).long()
        with torch.inference_mode():
            scores[chosen] = network(ids, mask, torch.from_numpy(features[chosen])).numpy()
    return scores
