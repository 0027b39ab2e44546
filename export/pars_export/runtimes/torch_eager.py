"""The reference: the ranker's network in torch, float32, from `model.safetensors`."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_model

from pars_export.artifact import Manifest
from pars_export.errors import PredictorError
from pars_export.network import RankerNetwork
from pars_export.runtimes.encoded import EncodedScorer, load_tokenizer, read_config

# torch's number of threads belongs to the process, not to a network.
_threads_lock = threading.Lock()


class TorchCore:
    """One network on the CPU."""

    def __init__(self, network: RankerNetwork, threads: int) -> None:
        self._network = network.eval()
        self._threads = threads
        # OpenMP's pool of threads is gone in a forked child, and a parallel region then hangs.
        self.survives_fork = threads == 1

    def __call__(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Scores (n,) of ids (n, t)."""
        with _threads_lock, torch.inference_mode():
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
            try:
                scores = self._network(
                    torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
                )
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
    network = RankerNetwork(encoder, str(config.get("pooling")), outputs)
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
    tokenizer = load_tokenizer(folder, manifest)
    network = load_network(folder, str(manifest.engines["torch"]["file"]))
    return EncodedScorer(tokenizer, TorchCore(network, threads))
