"""Prompts that kill the scorer process, by its note of what it has at work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from scorers import WAIT, Make, die, forbid, until

from pars_export.table import write_length_predictor
from pars_vllm import protocol
from pars_vllm.scorer import Scorer
from pars_vllm.scorer_worker import BATCH

pytestmark = pytest.mark.usefixtures("no_orphans")

POISONED = """
import os, signal, time
from pars_export.runtimes.length import LengthScorer

score = LengthScorer.score

def poisoned(self, texts):
    if "slow" in texts:
        time.sleep(1)  # the others arrive meanwhile
    if "poison 00" in texts:
        {end}
    return score(self, texts)

LengthScorer.score = poisoned
"""


def lose_at_work(scorer: Scorer, prompt: list[int]) -> None:
    """The process dies at work on a prompt, here by our own hand; then wait for another."""
    assert scorer.wait(WAIT)
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGSTOP)
    scorer.submit("a", prompt)
    protocol.note_at_work(scorer._launcher.at_work, [protocol.encode_request(prompt)[0]])
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.lost, scorer)
    scorer.lost = False
    until(lambda: scorer.ready, scorer)


@pytest.mark.parametrize("memory", ["there", "missing", "forbidden"])
def test_prompt_that_kills_is_not_sent_for_ever(
    make_scorer: Make,
    ids: Callable[[str], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    if memory == "missing":
        monkeypatch.delattr(os, "memfd_create")
    elif memory == "forbidden":
        monkeypatch.setattr(os, "memfd_create", forbid)
    scorer = make_scorer({"poison": 1.0, "good": 2.0})
    for _ in range(2):
        lose_at_work(scorer, ids("poison"))
    scorer.submit("a", ids("poison"))
    scorer.submit("b", ids("good"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("b", 2.0)]


def test_a_loss_strikes_once_also_if_the_next_process_has_noted_nothing(
    make_scorer: Make, ids: Callable[[str], list[int]]
) -> None:
    scorer = make_scorer({"poison": 1.0})
    digest, _ = protocol.encode_request(ids("poison"))
    lose_at_work(scorer, ids("poison"))
    assert protocol.read_at_work(scorer._launcher.at_work) == []
    assert scorer._strikes == {digest: 1}
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGSTOP)
    scorer.submit("a", ids("poison"))
    assert digest in scorer._in_flight
    die(scorer)
    assert scorer._strikes == {digest: 1}


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)"])
def test_a_prompt_that_kills_or_hangs_does_not_take_its_neighbours_scores_for_ever(
    make_scorer: Make,
    ids: Callable[[str], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(POISONED.format(end=end))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("pars_vllm.scorer._FIRST_BACKOFF_S", 0.01)
    write_length_predictor(tmp_path / "length")
    scorer = make_scorer(folder=tmp_path / "length", score_timeout_s=3.0)
    assert scorer.wait(WAIT)
    scorer.submit("slow", ids("slow"))
    slow, _ = protocol.encode_request(ids("slow"))
    until(lambda: protocol.read_at_work(scorer._launcher.at_work) == [slow], scorer)
    texts = ["poison 00", *(f"prompt {index:02}" for index in range(1, BATCH))]
    answers: dict[str, float | None] = {}
    noted: list[int] = []
    for _ in range(3):
        for text in texts:
            if text not in answers:
                scorer.submit(text, ids(text))
        found = until(lambda: scorer.lost or not scorer.pending, scorer)
        answers |= {name: tokens for name, tokens in found if name in texts}
        if scorer.lost:
            noted.append(len(scorer._strikes))
            scorer.lost = False
            until(lambda: scorer.ready, scorer)
    digest, _ = protocol.encode_request(ids("poison 00"))
    assert noted[0] == BATCH  # all were at work
    assert list(answers) == texts[1:]
    assert scorer._strikes == {digest: 2}
    assert scorer.counters.losses == 2
    not_sent = scorer.counters.not_sent
    scorer.submit("poison 00", ids("poison 00"))
    assert scorer.counters.not_sent == not_sent + 1
    assert not scorer.pending


def test_without_any_place_for_the_note_there_are_scores_but_no_strikes(
    make_scorer: Make, ids: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "memfd_create", forbid)
    monkeypatch.setattr("tempfile.TemporaryFile", forbid)
    scorer = make_scorer({"one": 1.0})
    lose_at_work(scorer, ids("one"))
    assert not scorer._strikes
    scorer.submit("b", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("b", 1.0)]


def test_a_note_that_cannot_be_written_harms_neither_process(
    make_scorer: Make, ids: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")  # as on a full disk
    monkeypatch.setattr("pars_vllm.launch._memory", lambda: full.open("r+b", buffering=0))
    scorer = make_scorer({"one": 1.0})
    scorer.submit("a", ids("one"))
    assert scorer.wait(WAIT)
    assert scorer.poll() == [("a", 1.0)]
    assert scorer.counters.losses == 0
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    until(lambda: scorer.lost, scorer)
    assert scorer.counters.losses == 1


def test_a_note_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    with (tmp_path / "note").open("wb", buffering=0) as memory:
        protocol.note_at_work(memory.fileno(), [b"d" * protocol.DIGEST_BYTES])
        assert protocol.read_at_work(memory.fileno()) == []
