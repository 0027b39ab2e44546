"""Instructions and questions as people put them to an assistant: templates in, JSONL out.

    python -m pars_model.universal.instructions.prompts instructions.jsonl

writes what ``lengths.parquet`` beside it was measured on. A template of
``templates/<kind>.toml`` gives at most `DRAWS` prompts, one where it has no slot.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path

from pars_export.files import atomic_file
from pars_model.templates import fill, hash_of

DATASET = "pars-instructions"
TEMPLATES = Path(__file__).parent / "templates"
DRAWS = 4


def generate(draws: int = DRAWS) -> list[dict[str, str]]:
    """All prompts, mixed: ``prompt_id``, ``prompt``, ``kind``, ``template``, ``dataset``.

    Args:
        draws: most of each template.
    """
    made: dict[str, dict[str, str]] = {}
    for path in sorted(TEMPLATES.glob("*.toml")):
        content = tomllib.loads(path.read_text("utf-8"))
        for name, template in content["templates"].items():
            for draw in range(draws):
                key = f"{path.stem}/{name}/{draw}"
                prompt = fill(template.strip(), content.get("fields", {}), key)
                row = {
                    "prompt_id": key.replace("/", "-"),
                    "prompt": prompt,
                    "kind": path.stem,
                    "template": f"{path.stem}/{name}",
                    "dataset": DATASET,
                }
                made.setdefault(prompt, row)
    return sorted(made.values(), key=lambda row: hash_of("order", row["prompt"]))


def main(argv: list[str] | None = None) -> int:
    """Write the prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="JSONL, as `pars collect --prompts` reads it")
    out = parser.parse_args(argv).out
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in generate())
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{out}: {text.count(chr(10))} prompts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
