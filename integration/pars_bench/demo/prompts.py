"""The demonstration's prompts: word lists and templates in, ``prompts.jsonl`` out.

A prompt is a template of ``templates/<kind>.toml`` with its slots filled. Which value fills which
slot (`pars_model.templates`) follows from a hash of the template's name and of how often it was
drawn, so the same templates give the same bytes on every Python. A template lies in the table of
one split, hence no test prompt shares its template with a training prompt.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

from pars_export.files import atomic_file
from pars_model.templates import fill, hash_of

FOLDER = Path(__file__).parent
TEMPLATES = FOLDER / "templates"
PROMPTS = FOLDER / "prompts.jsonl"

#: Prompts of each kind (train, val, test). Kinds with short answers are the more frequent ones:
#: the lengths should spread, and few answers should reach the demonstration's token limit.
COUNTS: dict[str, tuple[int, int, int]] = {
    "one_word": (83, 14, 23),
    "number": (94, 18, 28),
    "yes_no": (88, 16, 26),
    "choice": (57, 11, 17),
    "short_fact": (81, 15, 24),
    "list": (120, 22, 36),
    "json": (81, 15, 24),
    "translation": (64, 12, 19),
    "code": (101, 19, 30),
    "proof": (43, 8, 13),
    "explanation": (155, 28, 46),
    "dialogue": (40, 8, 12),
    "story": (40, 8, 12),
    "essay": (48, 9, 14),
    "summary": (95, 17, 28),
    "rewrite": (64, 12, 19),
    "classify": (56, 10, 17),
    "email": (40, 8, 12),
}
SPLITS = ("train", "val", "test")

#: Share of prompts whose answers are also sampled at a temperature above zero, per split; the
#: test split's is the largest because the noise ceiling is estimated there.
SAMPLED_SHARE = {"train": 0.185, "val": 0.2, "test": 0.25}
SAMPLES = 4

#: One prompt in this many begins with an opening, which makes it longer and its answer not.
OPENING_EVERY = 6

_DRAWS_PER_PROMPT = 50


@dataclass(frozen=True)
class Prompt:
    """One row of ``prompts.jsonl``."""

    prompt_id: str
    prompt: str
    kind: str
    template: str
    """``kind/name``, found in one split only."""
    split: str
    samples: int
    """How many answers to sample besides the greedy one."""
    dataset: str = "pars-demo"


def _prompts_of(
    kind: str, split: str, count: int, templates: Mapping[str, str], fields: Mapping[str, list[str]]
) -> list[tuple[str, str]]:
    """``count`` different (template, prompt) pairs, the templates taking turns."""
    made: dict[str, str] = {}
    for draw in range(count * _DRAWS_PER_PROMPT):
        name = list(templates)[draw % len(templates)]
        template = f"{kind}/{name}"
        prompt = fill(templates[name].strip(), fields, f"{template}/{draw}")
        if hash_of(template, draw, "opens") % OPENING_EVERY == 0:
            opening = fill(f"{{opening_{split}}}", fields, f"{template}/{draw}/opening")
            prompt = f"{opening} {prompt}"
        made.setdefault(prompt[0].upper() + prompt[1:], template)
        if len(made) == count:
            return [(template, prompt) for prompt, template in made.items()]
    raise ValueError(f"{kind}: the {split} templates give {len(made)} prompts, {count} are asked")


def generate() -> list[Prompt]:
    """All prompts, mixed, in the order of the file."""
    topics = tomllib.loads((TEMPLATES / "topics.toml").read_text("utf-8"))
    prompts: list[Prompt] = []
    for kind, counts in COUNTS.items():
        tables = tomllib.loads((TEMPLATES / f"{kind}.toml").read_text("utf-8"))
        fields = topics | tables.get("fields", {})
        for split, count in zip(SPLITS, counts, strict=True):
            pairs = _prompts_of(kind, split, count, tables[split], fields)
            chosen = sorted(range(count), key=lambda i: hash_of("sampled", pairs[i][1]))
            sampled = set(chosen[: ceil(SAMPLED_SHARE[split] * count)])
            prompts += [
                Prompt(
                    prompt_id=f"{kind}-{split}-{i:03d}",
                    prompt=prompt,
                    kind=kind,
                    template=template,
                    split=split,
                    samples=SAMPLES if i in sampled else 0,
                )
                for i, (template, prompt) in enumerate(pairs)
            ]
    return sorted(prompts, key=lambda row: hash_of("order", row.prompt))


def render() -> str:
    """The text of ``prompts.jsonl``."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in generate())


def main() -> int:
    """Write ``prompts.jsonl`` anew."""
    text = render()
    with atomic_file(PROMPTS) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
    print(f"{PROMPTS}: {text.count(chr(10))} prompts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
