"""An encoder's products with weights and nothing else, through the library that its engines use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pars_bench.predictor.rates import product_session
from pars_bench.predictor.work import products_of


def products_name(folder: str, precision: str) -> str:
    """Name of the measurement, beside those of contestants and rates."""
    return f"products of {folder} alone, {precision}"


class Products:
    """All products of one encoder in one precision, by onnxruntime, each with its own weights.

    A call reads the weights of every layer once, as an engine does: those of one layer over and
    over would stay in a cache that has no room for all.

    Args:
        config: content of the encoder's `config.json`.
        precision: `float32` or `int8`.
        threads: cores to use.
    """

    def __init__(self, config: Mapping[str, object], precision: str, threads: int) -> None:
        rng = np.random.default_rng(0)
        self._whole = precision == "int8"
        self._sessions = []
        for count, rows, columns in products_of(config):
            for _ in range(count):
                weight = rng.integers(-64, 64, (rows, columns), dtype=np.int8)
                given = weight if self._whole else weight.astype(np.float32)
                self._sessions.append((rows, product_session(given, threads)))

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
