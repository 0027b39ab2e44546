"""An encoder's products with weights and nothing else, through the libraries of its engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pars_bench.predictor.rates import product_session
from pars_bench.predictor.work import products_of
from pars_export.runtimes.following import FollowingThread
from pars_export.runtimes.openvino_engine import OPENVINO, cpu_core, openvino, properties_of

ONNXRUNTIME = "onnxruntime"
LIBRARIES: Mapping[str, str] = {
    **dict.fromkeys(("onnx", "onnx-int8", "onnx-bf16"), ONNXRUNTIME),
    OPENVINO: OPENVINO,
}
"""Runtime of an encoder's engine to the library that multiplies for it."""


def products_name(folder: str, precision: str, library: str) -> str:
    """Name of the measurement, beside those of contestants and rates."""
    return f"products of {folder} alone, {precision}, {library}"


class Products(Protocol):
    """All products of one encoder in one precision, by one library, each with its own weights."""

    def of(self, tokens: int) -> Callable[[], None]:
        """A call that multiplies as a batch of ``tokens`` tokens does."""


def products_by(
    library: str, config: Mapping[str, object], precision: str, threads: int
) -> Products:
    """An encoder's products by one of `LIBRARIES`.

    Args:
        library: which.
        config: content of the encoder's `config.json`.
        precision: `float32` or `int8`; of OpenVINO `float32` or `bfloat16`.
        threads: cores to use.
    """
    made = OpenVinoProducts if library == OPENVINO else OnnxProducts
    return made(config, precision, threads)


class OnnxProducts:
    """By onnxruntime: in float32 as one model whose layers multiply what the one before gave.

    Those of bytes give whole numbers that no product takes, so each is a model of its own. A call
    reads the weights of every layer once, as an engine does: those of one layer over and
    over would stay in a cache that has no room for all.

    Args:
        config: content of the encoder's `config.json`.
        precision: `float32` or `int8`.
        threads: cores to use.
    """

    def __init__(self, config: Mapping[str, object], precision: str, threads: int) -> None:
        rng = np.random.default_rng(0)
        self._whole = precision == "int8"
        if self._whole:
            weights = [
                rng.integers(-64, 64, (rows, columns), dtype=np.int8)
                for count, rows, columns in products_of(config)
                for _ in range(count)
            ]
            self._sessions = [(len(each), product_session([each], threads)) for each in weights]
        else:
            chain = [weight for weight, _ in layers_of(config)]
            self._sessions = [(len(chain[0]), product_session(chain, threads))]

    def of(self, tokens: int) -> Callable[[], None]:
        """A call that multiplies as a batch of ``tokens`` tokens does."""
        rng = np.random.default_rng(0)
        feeds = {}
        for rows in {rows for rows, _ in self._sessions}:
            given = rng.integers(0, 255, (tokens, rows), dtype=np.uint8)
            feeds[rows] = {"a": given if self._whole else given.astype(np.float32)}

        def call() -> None:
            for rows, session in self._sessions:
                session.run(None, feeds[rows])

        return call


class OpenVinoProducts:
    """By OpenVINO, as one model whose layers multiply what the one before gave.

    Biases and GELU are in it, for they are part of the products of an engine.

    Args:
        config: content of the encoder's `config.json`.
        precision: `float32` or `bfloat16`.
        threads: cores to use.
    """

    def __init__(self, config: Mapping[str, object], precision: str, threads: int) -> None:
        self._width = products_of(config)[0][1]
        self._thread = FollowingThread("pars-products", helped=threads > 1)
        core = self._thread.run(cpu_core, openvino())
        model = self._thread.run(layers_model, config)
        compiled = self._thread.run(
            core.compile_model, model, "CPU", properties_of(precision, threads)
        )
        self._request = compiled.create_infer_request()

    def of(self, tokens: int) -> Callable[[], None]:
        """A call that multiplies as a batch of ``tokens`` tokens does."""
        rng = np.random.default_rng(0)
        feed = {"a": rng.standard_normal((tokens, self._width), dtype=np.float32)}

        def call() -> None:
            self._thread.run(self._request.infer, feed)

        return call


def layers_model(config: Mapping[str, object]) -> Any:
    """The model: input `a` (m, width), output (m, width)."""
    openvino()
    from openvino import Model, opset13

    rng = np.random.default_rng(0)
    given = found = opset13.parameter([-1, products_of(config)[0][1]], np.float32, name="a")
    for weight, activated in layers_of(config):
        bias = rng.standard_normal((1, weight.shape[1]), dtype=np.float32)
        found = opset13.add(opset13.matmul(found, weight, False, False), bias)
        if activated:
            found = opset13.gelu(found, "erf")
    return Model([found], [given])


def layers_of(config: Mapping[str, object]) -> Iterator[tuple[NDArray[np.float32], bool]]:
    """Weights of an encoder's products, each for what the one before gives.

    Yields:
        A weight (rows, columns), and whether an activation function follows.
    """
    rng = np.random.default_rng(0)
    (square, width, _), (layers, _, inner), _ = products_of(config)
    one = [(width, width, False)] * (square // layers)
    one += [(width, inner, True), (inner, width, False)]
    for rows, columns, activated in one * layers:
        weight = rng.standard_normal((rows, columns), dtype=np.float32)
        yield weight * np.float32(rows**-0.5), activated
