"""The tiny model and its engine, made once per test run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny
from processes import scorer_processes
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from scorers import Make

# vLLM reads these when it is imported.
os.environ.update(tiny.engine_environment())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model."""
    return tiny.make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """No scorer process may be left over."""
    yield
    left = scorer_processes()
    assert not left, f"scorer processes left over: {left}"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tokenizer with a chat template."""
    return tiny.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def ids(tokenizer_folder: Path) -> Callable[[str], list[int]]:
    """Token ids of a prompt in that template."""
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))

    def encode(content: str) -> list[int]:
        text = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            f"Face<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
        )
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode


@pytest.fixture
def make_scorer(tmp_path: Path, tokenizer_folder: Path) -> Iterator[Make]:
    """Makes scorers, which are closed in the end."""
    from scorers import scorers  # imports vLLM, which is to find the environment as set above

    with scorers(tmp_path, tokenizer_folder) as make:
        yield make
