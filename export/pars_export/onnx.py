"""The ranker's network as one ONNX file with dynamic batch and length."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from pars_export.graph import name_once
from pars_export.network import RankerNetwork
from pars_export.token_rows import join_texts
from pars_export.views import keep_sizes

FACTS = "facts"
"""Name of the input of what is known beside the text."""
OPSET = 17
"""First with LayerNormalization as one operator; read by every runtime of the last three years."""
WHOLE_ATTENTION = {"albert", "bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"}
"""Types of encoders that take what is added to attention's scores in place of a mask of ones and
zeros, the same in all layers."""


def export_onnx(network: RankerNetwork, path: Path) -> None:
    """Write ``network``: int64 `input_ids` and `attention_mask` (n, t) to float32 `scores` (n,).

    One that reads facts has a third input, float32 `facts` (n, facts).

    The tracing exporter is used, not the one that goes through torch.export: from eager attention
    its graph is the one that quantisation tools read; for MiniLM it also takes a second instead of
    seven and runs a tenth faster. What tracing could get wrong, a constant where a size should be,
    shows in the parity check, which every export goes through.
    """
    # Not square and with padding, so that no size is taken for another and the mask is traced.
    ids = torch.arange(2 * 7, dtype=torch.int64).reshape(2, 7) % 3 + 1
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    axes = {0: "batch", 1: "length"}
    inputs, names = [ids, mask], ["input_ids", "attention_mask"]
    shapes = {"input_ids": axes, "attention_mask": axes, "scores": {0: "batch"}}
    if network.fact_head is not None:
        inputs.append(torch.zeros(2, network.fact_head.facts.in_features))
        names.append(FACTS)
        shapes[FACTS] = {0: "batch"}
    traced = _WithAddend(network) if _attends_to_all(network.encoder.config) else network
    with _expected_warnings(), torch.inference_mode():
        torch.onnx.export(
            traced.eval(),
            tuple(inputs),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["scores"],
            dynamic_axes=shapes,
            do_constant_folding=True,
        )
    model = onnx.load(str(path))
    name_once(model.graph)
    keep_sizes(model)
    join_texts(model, len(network.pooled_layers()) or 1)
    onnx.save(model, str(path))


def export_half(network: RankerNetwork, path: Path) -> None:
    """The same with the encoder in float16; pooling and head stay float32, as inputs and scores do.

    For runtimes that take precision from the graph. Traced from the network and not converted, so
    that constants such as the mask's are those of float16.
    """
    half = copy.deepcopy(network)
    half.encoder.half()
    export_onnx(half, path)


def export_summed(network: RankerNetwork, path: Path) -> None:
    """As `export_onnx`, but a head of one output, and what facts add to it, is written as a sum.

    OpenVINO computes what follows the last matrix product in float32 where all else is bfloat16. As
    results of a product the scores would have eight bits, and many prompts one score. A head with
    buckets stays a product, for its score is a mean over all of them.
    """
    summed = copy.deepcopy(network)
    for name, part in list(summed.named_modules()):
        of_head = not name.startswith("encoder.")
        if of_head and isinstance(part, nn.Linear) and part.out_features == 1:
            summed.set_submodule(name, _Summed(part))
    export_onnx(summed, path)


class _Summed(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """A linear layer with one output as products of numbers and their sum."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs (n, 1) of rows (n, in)."""
        found: Tensor = (rows * self.weight[0]).sum(dim=1, keepdim=True)
        return found if self.bias is None else found + self.bias


def _attends_to_all(config: Any) -> bool:
    """Whether in each layer of an encoder each token attends to all of its text."""
    # As decoders they see what came before alone, and make that mask themselves.
    return config.model_type in WHOLE_ATTENTION and not getattr(config, "is_decoder", False)


_UNSEEN = -1e4
"""What is added where a token must not be attended to (Devlin et al. 2019): e to it is zero in any
precision, and it stays a number where a tool turns the graph into float16."""


class _WithAddend(RankerNetwork):
    """A network, weights and all, with attention's mask as what is added to attention's scores.

    That is what an encoder makes of a mask of ones and zeros. It gets there by way of sizes that it
    looks up and conditions that it joins, some fifty nodes of a graph.
    """

    def __init__(self, network: RankerNetwork) -> None:
        nn.Module.__init__(self)
        self.encoder, self.head = network.encoder, network.head
        self.fact_head, self.pooling = network.fact_head, network.pooling

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, facts: Tensor | None = None
    ) -> Tensor:
        """As `RankerNetwork.forward`."""
        kind = next(self.encoder.parameters()).dtype
        addend = (1 - attention_mask[:, None, None, :].to(kind)) * _UNSEEN
        output = self.encoder(input_ids=input_ids, attention_mask=addend)
        return self.score(self.pool(output, attention_mask), facts)


@contextmanager
def _expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # That this exporter is no longer the default one, and that sizes which Python looks at
        # become constants: those of the encoder's shape should, and the parity check tells if
        # another one did.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="Exporting aten::index", category=UserWarning)
        yield
