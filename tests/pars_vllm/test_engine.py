"""A real vLLM engine on the tiny model, ordered by a real predictor folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import scorer_processes
from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from pars_export.table import write_table_predictor
from pars_vllm import ParsScheduler

# vLLM's own imports and shutdown warn; ours are tested for warnings elsewhere.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

COUNT = 24
LENGTHS = {f"Question number {i}?": float((i * 7) % COUNT + 1) for i in range(COUNT)}
PROMPTS = list(LENGTHS)


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("predictor") / "table"
    write_table_predictor(folder, LENGTHS)
    llm = LLM(
        model=str(tiny_model),
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=2,
        scheduler_cls="pars_vllm.ParsScheduler",
        additional_config={"pars": {"predictor": str(folder)}},
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()
    assert scorer_processes() == []


@pytest.fixture
def scheduler(engine: LLM) -> ParsScheduler:
    found = engine.llm_engine.engine_core.engine_core.scheduler
    assert isinstance(found, ParsScheduler)
    assert found.pars_scorer is not None
    assert found.pars_scorer.wait(60)
    return found


def chat_ids(engine: LLM, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    template = engine.get_tokenizer().apply_chat_template
    return list(template(messages, add_generation_prompt=True)["input_ids"])


def add(engine: LLM, name: str, text: str, **options: object) -> None:
    options = {"max_tokens": 30, "ignore_eos": True, "temperature": 0, **options}
    params = SamplingParams(**options)
    engine.llm_engine.add_request(name, {"prompt_token_ids": chat_ids(engine, text)}, params)


def finish(engine: LLM) -> list[str]:
    """Step until all is done; the requests in the order of their ends."""
    ended = []
    while engine.llm_engine.has_unfinished_requests():
        ended += [out.request_id for out in engine.llm_engine.step() if out.finished]
    return ended


def test_short_answers_end_first(engine: LLM, scheduler: ParsScheduler) -> None:
    for index, text in enumerate(PROMPTS):
        add(engine, str(index), text)
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.wait(60)
    assert finish(engine) == [str(i) for i in sorted(range(COUNT), key=lambda i: (i * 7) % COUNT)]


def test_greedy_text_does_not_depend_on_the_order(engine: LLM, scheduler: ParsScheduler) -> None:
    """One sequence at a time is the reference; batches may differ in floating point elsewhere."""
    params = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)
    together = engine.generate(PROMPTS[:6], params, use_tqdm=False)
    alone = [engine.generate([text], params, use_tqdm=False)[0] for text in PROMPTS[:6]]
    assert [out.outputs[0].token_ids for out in together] == [
        out.outputs[0].token_ids for out in alone
    ]


def test_chat_goes_through(engine: LLM, scheduler: ParsScheduler) -> None:
    before = scheduler.pars_counters.unknown
    scored = scheduler.pars_counters.scored
    params = SamplingParams(max_tokens=4, temperature=0)
    engine.chat([[{"role": "user", "content": PROMPTS[3]}]], params, use_tqdm=False)
    engine.llm_engine.step()
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.wait(60)
    scheduler._take_scores(scheduler.pars_scorer)
    assert scheduler.pars_counters.scored > scored
    assert scheduler.pars_counters.unknown == before


def test_several_answers_each(engine: LLM, scheduler: ParsScheduler) -> None:
    params = SamplingParams(n=3, max_tokens=5, ignore_eos=True, temperature=1.0, seed=1)
    outputs = engine.generate(PROMPTS[:4], params, use_tqdm=False)
    assert [len(output.outputs) for output in outputs] == [3, 3, 3, 3]
    assert all(len(each.token_ids) == 5 for output in outputs for each in output.outputs)


def test_structured_output(engine: LLM, scheduler: ParsScheduler) -> None:
    structured = StructuredOutputsParams(choice=["yes", "no"])
    params = SamplingParams(max_tokens=8, temperature=0, structured_outputs=structured)
    outputs = engine.generate(PROMPTS[:5], params, use_tqdm=False)
    assert {output.outputs[0].text for output in outputs} <= {"yes", "no"}


def test_structured_output_is_ordered_with_the_rest(engine: LLM, scheduler: ParsScheduler) -> None:
    """A request whose grammar is being compiled stands in its own place, not before all others."""
    structured = StructuredOutputsParams(regex="[a-z]{40}")
    for index in range(8):
        options = {"structured_outputs": structured} if index % 2 else {}
        add(engine, str(index), PROMPTS[index], max_tokens=20, **options)
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.wait(60)
    end = time.monotonic() + 60
    for request in scheduler.requests.values():
        grammar = request.structured_output_request
        while grammar is not None and not grammar.is_grammar_ready:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert finish(engine) == [str(i) for i in sorted(range(8), key=lambda i: (i * 7) % COUNT)]


def test_stop_string_and_streaming(engine: LLM, scheduler: ParsScheduler) -> None:
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    text = engine.generate([PROMPTS[0]], params, use_tqdm=False)[0].outputs[0].text
    stop = text[4:6]
    params = SamplingParams(
        max_tokens=12,
        temperature=0,
        ignore_eos=True,
        stop=[stop],
        output_kind=RequestOutputKind.DELTA,
    )
    engine.llm_engine.add_request("s", PROMPTS[0], params)
    parts = []
    while engine.llm_engine.has_unfinished_requests():
        parts += [out.outputs[0].text for out in engine.llm_engine.step()]
    assert "".join(parts) == text[: text.index(stop)]


def test_abort_while_waiting_and_while_running(engine: LLM, scheduler: ParsScheduler) -> None:
    for index in range(8):
        add(engine, f"x{index}", PROMPTS[index])
    engine.llm_engine.step()
    running = {request.request_id for request in scheduler.running}
    waiting = {request.request_id for request in scheduler.waiting}
    assert len(running) == 2
    assert len(waiting) == 6
    victims = [name.split("-")[0] for name in (min(running), min(waiting), max(waiting))]
    engine.llm_engine.abort_request(victims)
    ended = finish(engine)
    assert len(ended) == 5
    assert not set(victims) & set(ended)
    assert not scheduler.requests
    assert not scheduler.waiting


def test_the_engine_goes_on_without_its_scorer(engine: LLM, scheduler: ParsScheduler) -> None:
    import os
    import signal

    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.pid is not None
    losses = scheduler.pars_counters.losses
    os.kill(scheduler.pars_scorer.pid, signal.SIGKILL)
    for index in range(6):
        add(engine, f"k{index}", f"never seen {index}", max_tokens=6)
    assert finish(engine) == [f"k{index}" for index in range(6)]
    assert scheduler.pars_counters.losses == losses + 1
    end = time.monotonic() + 60
    while not scheduler.pars_scorer.ready:  # it comes back by itself while the engine is used
        assert time.monotonic() < end
        engine.generate([PROMPTS[0]], SamplingParams(max_tokens=2), use_tqdm=False)
        time.sleep(0.05)
