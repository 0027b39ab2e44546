"""The real scorer process: what it answers, and within which bounds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from scorers import WAIT, Make, until, write_nan_predictor

from pars_export.artifact import folder_sha256
from pars_export.table import write_length_predictor, write_table_predictor
from pars_vllm import protocol
from pars_vllm.metrics import Counters
from pars_vllm.scorer import _FAILURES_IN_A_ROW, Limits, Scorer
from pars_vllm.scorer_worker import WorkerOptions
from pars_vllm.tokenizer import TokenizerSource

pytestmark = pytest.mark.usefixtures("no_orphans")


def test_answers_by_the_text_without_template(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make_scorer({"How long?": 17.0, " spaces and\nlines ": 3.0})
    scorer.submit("a", ids("How long?"))
    scorer.submit("b", ids(" spaces and\nlines "))
    scorer.submit("c", ids("never seen"))
    assert scorer.wait(WAIT)
    assert dict(scorer.poll()) == {"a": 17.0, "b": 3.0, "c": None}
    assert scorer.knows_template


def test_prompts_scored_with_their_template_are_counted(
    make_scorer: Make, ids: Callable[[str], list[int]], tmp_path: Path
) -> None:
    write_length_predictor(tmp_path / "length")
    scorer = make_scorer(folder=tmp_path / "length")
    scorer.submit("a", ids("hello"))
    assert scorer.wait(WAIT)
    assert scorer.counters.as_they_are == 0
    plain = tiny.byte_ids("no turn of any chat")
    scorer.submit("b", plain)
    scorer.submit("c", plain)
    assert scorer.wait(WAIT)
    scorer.submit("d", plain)  # from the cache
    assert [name for name, _ in scorer.poll()] == ["a", "b", "c", "d"]
    assert scorer.counters.as_they_are == 1


def test_all_prompts_are_counted_where_the_template_is_not_learned(
    tmp_path: Path, ids: Callable[[str], list[int]]
) -> None:
    tokenizer = tiny.write_tokenizer(tmp_path / "base", chat_template=None)
    write_length_predictor(tmp_path / "length")
    options = WorkerOptions(
        str(tmp_path / "length"),
        folder_sha256(tmp_path / "length"),
        TokenizerSource(str(tokenizer)),
    )
    scorer = Scorer(options, Limits(), Counters())
    try:
        for index in range(5):
            scorer.submit(f"r{index}", ids("x" * index))
        scorer.submit("long", tiny.byte_ids("y" * 3000))
        assert scorer.wait(WAIT)
        assert not scorer.knows_template
        assert scorer.counters.as_they_are == len(scorer.poll()) == 6
    finally:
        scorer.close()


def test_same_prompt_is_sent_once_and_then_known(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make_scorer({"twice": 5.0})
    scorer.submit("a", ids("twice"))
    scorer.submit("b", ids("twice"))
    assert scorer.pending == 1
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("a", 5.0), ("b", 5.0)]
    scorer.submit("c", ids("twice"))
    assert scorer.pending == 0
    assert scorer.poll() == [("c", 5.0)]
    assert scorer.counters.cached == 1
    scorer.submit("d", ids("never seen"))
    assert scorer.wait(WAIT)
    scorer.submit("e", ids("never seen"))  # that it is unknown is an answer, too
    assert scorer.poll() == [("d", None), ("e", None)]
    assert scorer.counters.cached == 2


def test_pending_and_cache_are_bounded(make_scorer: Make, ids: Callable[[str], list[int]]) -> None:
    scorer = make_scorer({}, max_pending=3, cache_entries=2)
    for index in range(5):
        scorer.submit(f"r{index}", ids(f"prompt {index}"))
    assert scorer.pending == 3
    assert scorer.counters.not_sent == 2
    assert scorer.wait(WAIT)
    assert len(scorer.poll()) == 3
    assert len(scorer._cache) == 2


def test_a_flood_of_known_prompts_is_answered_in_parts(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make_scorer({"one": 1.0})
    scorer.submit("first", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("first", 1.0)]
    names = [f"r{index}" for index in range(600)]
    for name in names:
        scorer.submit(name, ids("one"))
    found = []
    for left in (344, 88, 0, 0):
        found += scorer.poll()
        assert scorer.outstanding == left
    assert found == [(name, 1.0) for name in names]


def test_answers_not_taken_in_are_bounded_too(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make_scorer({"one": 1.0}, max_pending=3)
    scorer.submit("first", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("first", 1.0)]
    for index in range(5):
        scorer.submit(f"r{index}", ids("one"))
    assert scorer.counters.not_sent == 2
    assert scorer.poll() == [(f"r{index}", 1.0) for index in range(3)]


def test_many_requests_with_one_prompt_are_bounded_too(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make_scorer({"same": 4.0}, max_pending=3)
    for index in range(5):
        scorer.submit(f"r{index}", ids("same"))
    assert scorer.pending == 1
    assert scorer.counters.not_sent == 2
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("r0", 4.0), ("r1", 4.0), ("r2", 4.0)]
    scorer.submit("later", ids("other"))  # what was answered awaits nothing any more
    assert scorer.pending == 1


def test_a_burst_larger_than_the_socket_comes_through(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    texts = [f"{index} " + "x" * 1500 for index in range(600)]
    scorer = make_scorer({text: float(index) + 1 for index, text in enumerate(texts)})
    started = time.monotonic()
    for text in texts:
        scorer.submit(text.split()[0], ids(text))
    assert time.monotonic() - started < 20  # it never waits for the scorer
    assert scorer._outbox, "the test shall fill the socket"
    assert scorer.wait(WAIT)
    answers = [answer for _ in range(3) for answer in scorer.poll()]
    assert len(answers) == 600
    assert all(tokens == float(name) + 1 for name, tokens in answers)


def test_long_prompts_are_cut_to_their_ends() -> None:
    ids = list(range(100_000))
    digest, frame = protocol.encode_request(ids)
    assert len(frame) < protocol.MAX_FRAME
    prompt = protocol.decode_request(frame)
    assert prompt.digest == digest
    assert list(prompt.head) == ids[: protocol.HEAD_TOKENS]
    assert list(prompt.tail) == ids[-protocol.TAIL_TOKENS :]
    other, _ = protocol.encode_request([*ids[:50_000], 7, *ids[50_000:]])
    assert other != digest  # same ends, another length


def test_long_and_short_predictor(
    make_scorer: Make, ids: Callable[[str], list[int]], tmp_path: Path
) -> None:
    write_length_predictor(tmp_path / "length")
    scorer = make_scorer(folder=tmp_path / "length")
    scorer.submit("long", ids("x" * 400))
    scorer.submit("short", ids("x" * 40))
    assert scorer.wait(WAIT)
    assert dict(scorer.poll()) == {"long": pytest.approx(100.0), "short": pytest.approx(10.0)}


def test_predictor_that_gives_nan_is_a_failure(
    make_scorer: Make, ids: Callable[[str], list[int]], tmp_path: Path, tokenizer_folder: Path
) -> None:
    write_nan_predictor(tmp_path / "nan", tokenizer_folder)
    scorer = make_scorer(folder=tmp_path / "nan")
    assert scorer.wait(WAIT)
    for index in range(_FAILURES_IN_A_ROW):
        assert not scorer.lost
        scorer.submit(f"r{index}", ids(f"prompt {index}"))
        until(lambda: not scorer.pending, scorer)
    assert scorer.counters.failures == _FAILURES_IN_A_ROW
    assert scorer.lost  # so many in a row: the process is given up


def test_a_prompt_that_always_fails_is_not_sent_for_ever(
    make_scorer: Make, ids: Callable[[str], list[int]], tmp_path: Path, tokenizer_folder: Path
) -> None:
    write_nan_predictor(tmp_path / "nan", tokenizer_folder)
    scorer = make_scorer(folder=tmp_path / "nan")
    assert scorer.wait(WAIT)
    for index in range(4):
        scorer.submit(f"r{index}", ids("the same prompt"))
        until(lambda: not scorer.pending, scorer)
    assert scorer.counters.failures == 2
    assert scorer.counters.not_sent == 4
    assert not scorer.lost


def test_ids_that_no_tokenizer_gives_are_no_error(make_scorer: Make) -> None:
    scorer = make_scorer()
    scorer.submit("r", [-1])
    assert scorer.counters.not_sent == 1
    assert not scorer.pending


def test_niceness_and_cpus_are_the_operators(tmp_path: Path, tokenizer_folder: Path) -> None:
    write_table_predictor(tmp_path / "table", {})
    cpu = min(os.sched_getaffinity(0))
    options = WorkerOptions(
        str(tmp_path / "table"),
        folder_sha256(tmp_path / "table"),
        TokenizerSource(str(tokenizer_folder)),
        cpus=(cpu,),
        niceness=7,
    )
    assert WorkerOptions.from_json(options.to_json()) == options
    assert json.loads(options.to_json())["niceness"] == 7
    scorer = Scorer(options, Limits(), Counters())
    try:
        assert scorer.wait(WAIT)
        assert scorer.pid is not None
        assert os.sched_getaffinity(scorer.pid) == {cpu}
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, scorer.pid) == min(ours + 7, 19)
    finally:
        scorer.close()
