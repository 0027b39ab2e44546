"""PARS in vLLM: order the waiting queue by expected remaining work.

``vllm serve MODEL --scheduler-cls pars_vllm.ParsScheduler --additional-config '{"pars": {...}}'``

Importing this package imports neither vLLM nor torch; ``ParsScheduler`` is looked up on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pars_vllm.scheduler import ParsScheduler

__all__ = ["ParsScheduler"]


def __getattr__(name: str) -> object:
    if name == "ParsScheduler":
        from pars_vllm.scheduler import ParsScheduler

        return ParsScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
