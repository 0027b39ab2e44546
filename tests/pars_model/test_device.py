"""What a machine computes well in is read off its CPU's flags."""

from __future__ import annotations

import pytest
import torch

from pars_model.device import bfloat16_pays, engine_dtype, on_cpu


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "none"])
def test_bfloat16_pays_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, flag: True})
    assert bfloat16_pays() is (flag != "none")
    assert engine_dtype(cpu=True) == ("float32" if flag == "none" else "auto")
    assert engine_dtype(cpu=False) == "auto"


def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert on_cpu("cpu")
    assert not on_cpu("cuda")
