"""Which layers an int8 engine leaves in float32 where int8 throughout changes the order too much.

Layers are unlike: one that rounds badly can cost more than all others together (Xiao et al. 2022
for activations; mixed precision by sensitivity, Dong et al. 2019). So each is rounded alone, and
those that move the scores most are left in float32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from pars_export.int8 import Seen, copied, feeds, observe, plain_session, products, rewrite

SHARE = 1 / 3
"""Most layers that are left in float32; with more, an engine would be hardly faster than that."""
_LAYER = re.compile(r"(?:^|[/.])(?:layers?|h|block)[._](\d+)(?=[/.])")


def layers_of(model: onnx.ModelProto) -> dict[int, frozenset[str]]:
    """Names of the results of each layer's products with weights, by the layer's number."""
    found: dict[int, set[str]] = {}
    for node in products(model):
        number = _LAYER.search(node.output[0])
        if number is not None:
            found.setdefault(int(number[1]), set()).add(node.output[0])
    return {number: frozenset(names) for number, names in sorted(found.items())}


def store_sparing(
    source: Path,
    target: Path,
    ids: Sequence[Sequence[int]],
    facts: NDArray[np.float32] | None = None,
) -> Iterator[list[int]]:
    """Write the int8 form of ``source`` again and again, each time with one more layer in float32.

    Args:
        source: the ONNX file in float32.
        target: the file to write.
        ids: prompts to round for, and to find the sensitive layers by.
        facts: what stands beside them, (n, width), where the ranker reads facts.

    Yields:
        Numbers of the layers that the file has in float32; `SHARE` of all at most, so nothing of
        two layers or where the names of the graph tell none apart.
    """
    model = onnx.load(str(source))
    layers = layers_of(model)
    most = int(len(layers) * SHARE)
    if most == 0:
        return
    seen = observe(model, ids, facts)
    order = _by_sensitivity(model, layers, seen, ids, facts)
    for count in range(1, most + 1):
        spared = order[:count]
        written = copied(model)
        rewrite(written, seen, set().union(*(layers[number] for number in spared)))
        onnx.save(written, str(target))
        yield sorted(spared)


def _by_sensitivity(
    model: onnx.ModelProto,
    layers: Mapping[int, frozenset[str]],
    seen: Mapping[str, Seen],
    ids: Sequence[Sequence[int]],
    facts: NDArray[np.float32] | None,
) -> list[int]:
    """Layers, first those that move the scores apart most when they alone are rounded."""
    every = {node.output[0] for node in products(model)}
    # Embeddings are rounded, and GELU is in its tanh form, in every trial: that is no layer's.
    floats = copied(model)
    rewrite(floats, seen, every)
    wanted = _scores(floats, ids, facts)
    moved = {}
    for number, names in layers.items():
        alone = copied(model)
        rewrite(alone, seen, every - names)
        # What all scores are shifted by changes no order.
        moved[number] = float((_scores(alone, ids, facts) - wanted).var())
    return sorted(moved, key=moved.__getitem__, reverse=True)


def _scores(
    model: onnx.ModelProto, ids: Sequence[Sequence[int]], facts: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Scores (n,) of prompts, each by itself."""
    session = plain_session(model)
    (name,) = (each.name for each in session.get_outputs())
    return np.concatenate([session.run([name], feed)[0] for feed in feeds(ids, facts)])
