"""How a ranker's network reads: what has similar numbers of tokens together, to pad little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pars_export.errors import InputError
from pars_export.network import RankerNetwork
from pars_model.batches import pad

Singles = NDArray[np.float32]


def pooled(
    network: RankerNetwork, input_ids: Tensor, attention_mask: Tensor, together: int
) -> Tensor:
    """Vectors (p, width) of one batch.

    Args:
        network: whose encoder reads.
        input_ids: tokens, (p, t).
        attention_mask: 1 for tokens, 0 for padding, (p, t).
        together: most prompts that the encoder takes at once on a CPU; 0 for all.
    """
    if not 0 < together < len(input_ids) or input_ids.device.type != "cpu":
        states = network.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return network.pool(states, attention_mask)
    tokens = attention_mask.sum(dim=1)
    order = tokens.argsort()
    vectors = []
    for part in order.split(together):
        width = int(tokens[part].max())
        ids, mask = input_ids[part, :width], attention_mask[part, :width]
        states = network.encoder(input_ids=ids, attention_mask=mask)
        vectors.append(network.pool(states, mask))
    return torch.cat(vectors)[order.argsort()]


def read(
    network: RankerNetwork,
    tokens: Sequence[Sequence[int]],
    pad_id: int,
    beside: Singles,
    batch_size: int,
    device: torch.device,
) -> Iterator[tuple[list[int], Singles, Singles]]:
    """(places of some texts, their pooled vectors, their scores), until all are read.

    Args:
        network: on ``device``, in evaluation mode.
        tokens: ids of each text.
        pad_id: of padding.
        beside: what is read of each text beside it, (n, width).
        batch_size: texts encoded together.
        device: where.

    Raises:
        InputError: a score is NaN or infinite.
    """
    order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
    known = torch.from_numpy(beside)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        ids, mask = (each.to(device) for each in pad([tokens[place] for place in part], pad_id))
        facts = None if network.fact_head is None else known[part].to(device)
        with torch.inference_mode():
            vectors = network.pool(network.encoder(input_ids=ids, attention_mask=mask), mask)
            scores = network.score(vectors, facts).cpu().numpy()
        wrong = int(np.count_nonzero(~np.isfinite(scores)))
        if wrong:
            raise InputError(
                f"The ranker's scores of {wrong} of {len(part)} prompts are NaN or infinite: "
                "train it again with a lower model.lr."
            )
        yield part, vectors.cpu().numpy(), scores
