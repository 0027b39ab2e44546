"""``AsyncLLM`` over two data-parallel ranks: two engine cores, each with a queue of its own."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from processes import scorer_processes
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from pars_export.table import write_length_predictor

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


async def serve(model: Path, predictor: Path) -> list[list[int]]:
    """Tokens per piece of each answer; the seventh request is aborted after its first piece."""
    llm = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(model),
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=2,
            data_parallel_size=2,
            scheduler_cls="pars_vllm.ParsScheduler",
            additional_config={"pars": {"predictor": str(predictor)}},
        )
    )

    async def ask(index: int) -> list[int]:
        params = SamplingParams(
            max_tokens=10 + index,
            ignore_eos=True,
            temperature=0,
            output_kind=RequestOutputKind.DELTA,
        )
        pieces = []
        answer = llm.generate(
            {"prompt_token_ids": [5] * (10 + index)},
            params,
            request_id=f"r{index}",
            data_parallel_rank=index % 2,
        )
        async for output in answer:
            pieces.append(len(output.outputs[0].token_ids))
            if index == 7:
                break
        await answer.aclose()
        return pieces

    try:
        return await asyncio.gather(*map(ask, range(12)))
    finally:
        llm.shutdown()


def test_two_ranks_stream_and_abort(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    write_length_predictor(tmp_path / "length")
    answers = asyncio.run(serve(tiny_model, tmp_path / "length"))
    gc.collect()  # vLLM leaves a socket context to the collector, which warns of it
    for index, pieces in enumerate(answers):
        if index != 7:
            assert sum(pieces) == 10 + index
            assert len(pieces) > 1  # streamed, not all at once
    assert sum(answers[7]) < 17
    output = "".join(capfd.readouterr())
    assert output.count("PARS: ranking on on vLLM") == 2
    assert scorer_processes() == []
