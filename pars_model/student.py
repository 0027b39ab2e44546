"""The student's network in torch, for training; `pars_export.runtimes.student` runs it in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pars_export.runtimes.arrays import pair_hash
from pars_export.runtimes.student import GATE_BOUND, member_array
from pars_export.words import FEATURES

_SPREAD = 0.1
"""Standard deviation that embeddings begin with; those of pairs with a tenth of it."""

_LEAST_SCALE = np.float32(2**-24)
"""Of a row of whole numbers: the smallest that float16 has."""


@dataclass(frozen=True)
class StudentShape:
    """Sizes of a student; the default takes about 6 MB on disk and 70 MB in memory.

    In serving the convolution is in the tables, 12 bytes a channel for each subword and bucket:
    their number costs memory, and the width nothing.
    """

    vocabulary: int = 12_000
    """Most subwords."""
    buckets: int = 32_768
    """Rows that hashed pairs of neighbouring tokens share."""
    width: int = 128
    """Numbers per embedding."""
    channels: int = 128
    """Outputs of the convolution."""
    neurons: int = 256
    """Of the hidden layer."""
    first_places: int = 16
    """Places from the start of a text that have an embedding of their own."""
    last_places: int = 8
    """The same from its end."""


class StudentModule(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Token ids, their pairs and features to one score per text.

    Args:
        shape: sizes.
        vocab_size: tokens of the trained tokenizer.
        features: features (n, f) of the training texts, to standardise by.
        dropout: share of tokens (as if unknown) and of the text's vector left out in training.
    """

    def __init__(
        self,
        shape: StudentShape,
        vocab_size: int,
        features: NDArray[np.float32],
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width, channels = shape.width, shape.channels
        self._buckets = shape.buckets
        self.token = nn.Embedding(vocab_size, width)
        self.pair = nn.Embedding(shape.buckets, width)
        self.head = nn.Embedding(shape.first_places, width)
        self.tail = nn.Embedding(shape.last_places, width)
        for table, size in (
            (self.token, _SPREAD),
            (self.pair, _SPREAD / 10),
            (self.head, _SPREAD),
            (self.tail, _SPREAD),
        ):
            nn.init.normal_(table.weight, std=size)
        self.conv = nn.Linear(3 * width, channels)
        self.gate = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.gate.weight)
        self.hidden = nn.Linear(2 * channels + len(FEATURES), shape.neurons)
        self.out = nn.Linear(shape.neurons, 1)
        self.dropout = nn.Dropout(dropout)
        spread = features.std(axis=0)
        scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
        self.register_buffer("mean", torch.from_numpy(features.mean(axis=0)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))

    def begin(self, vectors: NDArray[np.float32]) -> None:
        """Let tokens begin as these vectors (tokens, w), by as many principal components as fit.

        Padding and the unknown token keep what they have.
        """
        words = vectors[2:].astype(np.float64)
        words -= words.mean(axis=0)
        _, components = np.linalg.eigh(words.T @ words)  # ascending
        found = words @ components[:, ::-1][:, : self.token.embedding_dim]
        found *= _SPREAD / max(found.std(), 1e-12)
        with torch.no_grad():
            self.token.weight[2:, : found.shape[1]] = torch.from_numpy(found.astype(np.float32))

    def rescale(self, mean: float, deviation: float) -> None:
        """Let scores with this mean and standard deviation have 0 and 1, and all others alike."""
        with torch.no_grad():
            self.out.bias.sub_(mean).div_(deviation)
            self.out.weight.div_(deviation)

    def forward(self, ids: Tensor, attention_mask: Tensor, features: Tensor) -> Tensor:
        """Scores (n,) of ids (n, t), their mask (n, t) and features (n, f)."""
        return self.score(self.neurons(ids, attention_mask, features))

    def score(self, neurons: Tensor) -> Tensor:
        """Scores (n,) of the hidden layer (n, neurons)."""
        score: Tensor = self.out(neurons).squeeze(1)
        return score

    def neurons(self, ids: Tensor, attention_mask: Tensor, features: Tensor) -> Tensor:
        """The hidden layer (n, neurons), of what `forward` takes."""
        mask = attention_mask.unsqueeze(-1)
        ids = ids * attention_mask
        pair = self.pair(pair_hash(ids, nn.functional.pad(ids[:, 1:], (0, 1)), self._buckets))
        if self.training:  # some tokens are unknown, and their pairs are not there
            keep = torch.rand(ids.shape) >= self.dropout.p
            ids = torch.where(keep, ids, 1)
            pair = pair * keep.unsqueeze(-1)
        place = torch.arange(ids.shape[1])
        last = (attention_mask.sum(dim=1, keepdim=True) - 1 - place).clamp(min=0)
        first = self.head(place.clamp(max=self.head.num_embeddings - 1))
        x = self.token(ids) + pair + first + self.tail(last.clamp(max=self.tail.num_embeddings - 1))
        x = x * mask
        x = nn.functional.pad(x, (0, 0, 1, 1))
        h = torch.relu(self.conv(torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], dim=-1))) * mask
        weight = self.gate(h).clamp(-GATE_BOUND, GATE_BOUND).exp() * mask
        average = (h * weight).sum(dim=1) / weight.sum(dim=1)
        known = (features - self.mean) * self.scale
        vector = torch.cat([average, h.amax(dim=1), known], dim=1)
        found: Tensor = torch.relu(self.hidden(self.dropout(vector)))
        return found

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What the numpy runtime reads: embeddings as int8 rows, other matrices as float16.

        Not the hidden layer: of a text unlike all that were learned from, its inputs are large.
        """
        found: dict[str, NDArray[np.generic]] = {}
        for name in ("token", "pair"):
            found[name], found[f"{name}_scale"] = int8_rows(_array(getattr(self, name).weight))
        width = self.token.embedding_dim
        return {
            **found,
            "head": _half(self.head.weight),
            "tail": _half(self.tail.weight),
            "conv": _half(self.conv.weight.T).reshape(3, width, -1),
            "conv_bias": _array(self.conv.bias),
            "gate": _array(self.gate.weight[0]),
            "feature_mean": _array(self.mean),
            "feature_scale": _array(self.scale),
            "hidden": _array(self.hidden.weight.T),
            "hidden_bias": _array(self.hidden.bias),
            "out": _array(self.out.weight[0]),
            "out_bias": _array(self.out.bias),
        }


class StudentEnsemble(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Students of one shape that were trained apart; their mean scores.

    Args:
        members: one or more, of one tokenizer.
    """

    def __init__(self, members: Sequence[StudentModule]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, ids: Tensor, attention_mask: Tensor, features: Tensor) -> Tensor:
        """Scores (n,) of ids (n, t), their mask (n, t) and features (n, f)."""
        scores = [member(ids, attention_mask, features) for member in self.members]
        return torch.stack(scores).mean(dim=0)

    def rescale(self, mean: float, deviation: float) -> None:
        """Let scores with this mean and standard deviation have 0 and 1, and all others alike."""
        for member in self.members:
            member.rescale(mean, deviation)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What the numpy runtime reads, which adds up."""
        found: dict[str, NDArray[np.generic]] = {}
        for number, member in enumerate(self.members):
            arrays = member.arrays()
            for name in ("out", "out_bias"):
                arrays[name] = arrays[name] / np.float32(len(self.members))
            found |= {member_array(name, number): each for name, each in arrays.items()}
        return found


def int8_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """A table (n, w) as whole numbers from -127 to 127 and a scale per row, (n, 1)."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scale = np.maximum(largest / np.float32(127), _LEAST_SCALE).astype(np.float16)
    rows = np.round(table / scale.astype(np.float32))
    return rows.clip(-127, 127).astype(np.int8), scale


def _half(tensor: Tensor) -> NDArray[np.float16]:
    return _array(tensor).astype(np.float16)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().numpy().astype(np.float32).copy()
    return found
