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
    """All products of one encoder in one precision, by onnxruntime.

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
            weight = rng.integers(-64, 64, (rows, columns), dtype=np.int8)
            session = product_session(weight if self._whole else weight.astype(np.float32), threads)
            self._sessions.append((count, rows, session))

    def of(self, tokens: int) -> Callable[[], None]:
        """A call that multiplies as a batch of ``tokens`` tokens does."""
        rng = np.random.default_rng(0)
        runs = []
        for count, rows, session in self._sessions:
            given = rng.integers(0, 255, (tokens, rows), dtype=np.uint8)
            feed = {"a": given if self._whole else given.astype(np.float32)}
            runs.append((count, session, feed))

        def call() -> None:
            for count, session, feed in runs:
                for _ in range(count):
                    session.run(None, feed)

        return call
