"""What the documentation says is there."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from pars_model.__main__ import COMMANDS, TRAINING
from pars_vllm.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]


def commands(page: Path) -> list[list[str]]:
    """Lines of a page's shell blocks, continued ones joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page):
        if words[0] == "make":
            assert words[1] in targets
        if words[0] != "pars":
            continue
        name, *rest = words[1:]
        if name in TRAINING:
            assert "--config" in rest
            assert (ROOT / rest[rest.index("--config") + 1]).is_file()
            continue
        parser = argparse.ArgumentParser()
        importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
        parser.parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_scheduler_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/serving.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE))
    assert list(rows) == [field.name for field in fields(Settings)]
    words = {None: "none", (): "all", False: "false"}
    for field in fields(Settings):
        default = field.default
        expected = (
            words[default]
            if isinstance(default, bool | tuple | None)
            else f"{default:g}"
            if isinstance(default, float | int)
            else f"`{default}`"
        )
        assert rows[field.name].strip() == expected
