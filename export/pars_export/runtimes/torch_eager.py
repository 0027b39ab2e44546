"""The reference: the ranker's network in torch, float32, from `model.safetensors`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_model

from pars_export.artifact import Manifest
from pars_export.errors import PredictorError
from pars_export.forks import ProcessLock
from pars_export.network import RankerNetwork
from pars_export.runtimes.encoded import (
    CONFIG,
    EncodedScorer,
    check_facts,
    check_named,
    encoded_scorer,
    read_config,
)

# torch's number of threads belongs to the process, not to a network.
_threads = ProcessLock()


class TorchCore:
    """One network on the CPU."""

    def __init__(self, network: RankerNetwork, threads: int) -> None:
        self._network = network.eval()
        self._threads = threads
        # OpenMP's pool of threads is gone in a forked child, and a parallel region then hangs.
        self.survives_fork = threads == 1

    def __call__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        facts: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]:
        """Scores (n,) of ids (n, t), and of facts (n, width) where the ranker reads them."""
        rows = [input_ids, attention_mask] if facts is None else [input_ids, attention_mask, facts]
        with _threads.lock, torch.inference_mode():
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
            try:
                scores = self._network(*map(torch.from_numpy, rows))
            finally:
                torch.set_num_threads(before)
            found: NDArray[np.float32] = scores.numpy()
        return found


def load_network(folder: Path, file: str) -> RankerNetwork:
    """The network of `config.json` with the weights of ``file``.

    Raises:
        PredictorError: the weights cannot be read or are not of this network.
    """
    config = read_config(folder)
    outputs, encoder = config["outputs"], config["encoder"]
    assert isinstance(outputs, int)
    assert isinstance(encoder, dict)
    facts = config.get("facts", 0)
    if isinstance(facts, bool) or not isinstance(facts, int) or facts < 0:
        raise PredictorError(
            f"{folder / CONFIG}: facts is {facts!r}; expected numbers per request."
        )
    network = RankerNetwork(encoder, str(config.get("pooling")), outputs, facts)
    try:
        load_model(network, folder / file)
    except (SafetensorError, RuntimeError) as error:
        raise PredictorError(
            f"{folder / file}: its weights are not of the network in config.json "
            f"({str(error).splitlines()[0]})."
        ) from error
    return network


def load(folder: Path, manifest: Manifest, threads: int) -> EncodedScorer:
    """The reference scorer of a predictor folder."""
    check_named(folder, manifest)
    network = load_network(folder, str(manifest.engines["torch"]["file"]))
    found = 0 if network.fact_head is None else network.fact_head.facts.in_features
    check_facts(folder / CONFIG, found, manifest)
    return encoded_scorer(folder, manifest, TorchCore(network, threads))
