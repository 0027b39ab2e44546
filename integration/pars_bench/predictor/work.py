"""What a scorer has to compute, and the least time that takes on a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pars_export.runtimes.openvino_engine import OPENVINO

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Work:
    """Matrix products of a text of T tokens, and the weights that a call has to read.

    What else is computed (normalisation, softmax, activation functions, rounding to int8, the
    tokenizer) is not counted: it is what a scorer pays on top of the floor.
    """

    precision: str
    """Of the products with weights: `float32`, `bfloat16`, or `int8` but for ``spared``."""
    weights: float
    """Floating-point (or integer) operations with weights, per token; two to a multiplication."""
    attention: float
    """Operations without weights, per token and per token that it attends to."""
    text: float
    """Operations with weights once a text."""
    weight_bytes: float
    """Bytes of the weights that every call reads."""
    row_bytes: float
    """Bytes of the embeddings that are looked up, per token."""
    most_tokens: int | None = None
    """Tokens read of a text, where there is a limit of its own."""
    others: str = "float32"
    """Precision of the products without weights."""
    spared: float = 0.0
    """Share of the operations with weights that stay in float32 in an int8 engine."""

    def floor(self, lengths: Sequence[int], rates: Mapping[str, float]) -> float:
        """Least seconds of a call with texts of these lengths.

        The longer of computing and reading, as if the two could hide one another wholly.

        Args:
            lengths: tokens of each text.
            rates: of each precision in operations per second, `memory` in bytes per second.
        """
        read = [min(length, self.most_tokens or length) for length in lengths]
        tokens, squares = sum(read), sum(length * length for length in read)
        weights = tokens * self.weights + len(read) * self.text
        compute = weights * (1 - self.spared) / rates[self.precision]
        compute += weights * self.spared / rates["float32"]
        compute += squares * self.attention / rates[self.others]
        moved = (self.weight_bytes + tokens * self.row_bytes) / rates["memory"]
        return max(compute, moved)

    def products(self) -> Work:
        """The products with weights alone, all of them in `precision`."""
        more = 1 + (_FLOAT_BYTES - 1) * self.spared  # what a layer in float32 has four bytes of
        return replace(self, attention=0.0, weight_bytes=self.weight_bytes / more, spared=0.0)


def work_of_encoder(
    config: Mapping[str, object], engine: str, float_layers: int = 0, computes: str = "float32"
) -> Work:
    """Of a transformer with full attention, by its configuration.

    Args:
        config: content of its `config.json`.
        engine: the runtime that computes it; `onnx-int8` multiplies in int8, `onnx-bf16` and
            `openvino` have weights of two bytes.
        float_layers: layers that an int8 engine has in float32.
        computes: precision of all other products.
    """
    width, layers = _size(config, "hidden_size"), _size(config, "num_hidden_layers")
    parameters = sum(count * rows * columns for count, rows, columns in products_of(config))
    each = {"onnx-int8": 1, "onnx-bf16": 2, OPENVINO: 2}.get(engine, _FLOAT_BYTES)
    spared = float_layers / layers
    return Work(
        precision="int8" if engine == "onnx-int8" else computes,
        weights=2.0 * parameters,
        attention=4.0 * width * layers,
        text=0.0,
        weight_bytes=parameters * (each * (1 - spared) + _FLOAT_BYTES * spared),
        row_bytes=float(width * each),
        others=computes,
        spared=spared,
    )


def products_of(config: Mapping[str, object]) -> list[tuple[int, int, int]]:
    """Products with weights of a transformer: how many, and rows and columns of the weight."""
    width, layers = _size(config, "hidden_size"), _size(config, "num_hidden_layers")
    inner = _size(config, "intermediate_size" if "intermediate_size" in config else "ffn_dim")
    # Query, key, value and output projections; the two layers of the feed-forward network.
    return [(4 * layers, width, width), (layers, width, inner), (layers, inner, width)]


def work_of_student(folder: Path, most_tokens: int) -> Work | None:
    """Of a student, by the shapes of its arrays; None of a linear one, which has no products."""
    from pars_export.runtimes.arrays import read_arrays
    from pars_export.runtimes.student import WEIGHTS

    arrays = read_arrays(folder / WEIGHTS)
    if "conv" not in arrays:
        return None
    taps, _, channels = arrays["conv"].shape
    hidden = arrays["hidden"].size
    return Work(
        precision="float32",
        weights=0.0,  # the convolution is in the rows of its two tables since they were loaded
        attention=0.0,
        text=2.0 * hidden,
        weight_bytes=float(_FLOAT_BYTES * hidden),
        row_bytes=float(2 * _FLOAT_BYTES * taps * channels),
        most_tokens=most_tokens,
    )


def _size(config: Mapping[str, object], name: str) -> int:
    value = config[name]
    assert isinstance(value, int)
    return value
