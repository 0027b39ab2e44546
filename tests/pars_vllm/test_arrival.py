"""Facts known at arrival: from a request, over the wire, to the predictor that reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import write_tokenizer
from tiny_predictor import write_tiny_predictor
from tokenizers import Tokenizer

from pars_bench.modelless import describe_model, make_config
from pars_export import Predictor
from pars_export.artifact import folder_sha256
from pars_export.facts import NAMES, Facts
from pars_vllm import protocol
from pars_vllm.arrival import default_cap, facts_of, pack, unpack
from pars_vllm.metrics import Counters
from pars_vllm.scorer import Limits, Scorer
from pars_vllm.scorer_worker import PromptReader, Reading, WorkerOptions
from pars_vllm.tokenizer import TokenizerSource, load_tokenizer


@dataclass
class Request:
    num_prompt_tokens: int = 10
    max_tokens: int = 64
    use_structured_output: bool = False


def test_only_what_is_read_is_looked_at() -> None:
    request = Request(use_structured_output=True)
    assert facts_of(request, NAMES, 4096) == Facts(10, 64, True)
    assert facts_of(request, ("structured",), 4096) == Facts(structured=True)
    assert facts_of(request, ("tools",), 4096) == Facts()


@pytest.mark.parametrize("limit", [4086, 5000, 0])
def test_a_cap_that_the_server_made_up_is_unknown(limit: int) -> None:
    request = Request(max_tokens=limit)
    assert facts_of(request, ("max_tokens",), 4096) == Facts()


def test_a_cap_of_the_generation_config_is_unknown() -> None:
    assert facts_of(Request(max_tokens=64), ("max_tokens",), 4096, 64) == Facts()
    assert facts_of(Request(max_tokens=63), ("max_tokens",), 4096, 64) == Facts(max_tokens=63)


@pytest.mark.parametrize(
    "facts", [Facts(), Facts(0, 1, False), Facts(structured=True), Facts(7, None, None)]
)
def test_what_is_packed_is_unpacked(facts: Facts) -> None:
    assert unpack(pack(facts)) == facts
    assert unpack(pack(Facts(2**40, 2**40))) == Facts(2**32 - 2, 2**32 - 2)


def test_facts_are_part_of_the_digest_and_of_the_frame() -> None:
    plain, frame = protocol.encode_request([1, 2, 3])
    assert protocol.decode_request(frame) == protocol.Prompt(plain, (1, 2, 3))
    one, frame = protocol.encode_request([1, 2, 3], pack(Facts(3, 64)))
    other, _ = protocol.encode_request([1, 2, 3], pack(Facts(3, 65)))
    assert len({plain, one, other}) == 3
    assert protocol.decode_request(frame) == protocol.Prompt(
        one, (1, 2, 3), known=pack(Facts(3, 64))
    )
    long = list(range(5000))
    _, frame = protocol.encode_request(long, pack(Facts(5000)))
    prompt = protocol.decode_request(frame)
    assert (len(prompt.head), len(prompt.tail)) == (protocol.HEAD_TOKENS, protocol.TAIL_TOKENS)
    assert unpack(prompt.known) == Facts(5000)


def ids_of(folder: Path, text: str) -> list[int]:
    """Ids of a prompt as the server sends it: one user turn in the chat template."""
    templated = load_tokenizer(TokenizerSource(str(folder))).render(
        [{"role": "user", "content": text}], generation=True
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return list(tokenizer.encode(templated, add_special_tokens=False).ids)


def test_the_scorer_finds_tools_itself(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "llm")
    reader = PromptReader(load_tokenizer(TokenizerSource(str(folder))))
    ids = ids_of(folder, "What is the moon?")
    _, frame = protocol.encode_request(ids, pack(Facts(12)))
    assert reader.read(protocol.decode_request(frame)) == Reading(
        "What is the moon?", Facts(12, tools=False)
    )
    _, frame = protocol.encode_request(ids)
    assert reader.read(protocol.decode_request(frame)) == Reading("What is the moon?")


def test_one_prompt_with_other_facts_has_another_answer(tmp_path: Path) -> None:
    folder = write_tiny_predictor(tmp_path / "predictor", facts=("max_tokens",))
    tokenizer_folder = write_tokenizer(tmp_path / "llm")
    ids = ids_of(tokenizer_folder, "what is the moon?")
    source = TokenizerSource(str(tokenizer_folder))
    options = WorkerOptions(str(folder), folder_sha256(folder), source, reads=("max_tokens",))
    assert WorkerOptions.from_json(options.to_json()) == options
    scorer = Scorer(options, Limits(), Counters())
    try:
        for name, most in (("a", 1), ("b", 20), ("again", 1)):
            scorer.submit(name, ids, pack(Facts(max_tokens=most)))
        assert scorer.wait(60)
        found = dict(scorer.poll())
    finally:
        scorer.close()
    text = "what is the moon?"
    predictor = Predictor.load(folder)
    told = [Facts(max_tokens=1), Facts(max_tokens=20)]
    wanted = predictor.expected_tokens(predictor.score([text] * 2, told)).tolist()
    assert wanted[0] != pytest.approx(wanted[1])
    assert found["a"] == found["again"] == pytest.approx(wanted[0], rel=1e-3)
    assert found["b"] == pytest.approx(wanted[1], rel=1e-3)


def test_the_cap_of_a_generation_config_is_read_off_vllm(tmp_path: Path) -> None:
    model = describe_model(tmp_path / "model")
    assert default_cap(make_config(model)) is None
    (model / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
    assert default_cap(make_config(model)) == 7
