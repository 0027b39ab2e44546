"""What `pars evaluate` prints."""

from __future__ import annotations

from collections.abc import Mapping


def render(result: dict[str, object]) -> str:
    """The result as a table for the terminal."""
    heads = ("data set", "LLM", "prompts", "cut", "tau", "pair accuracy", "rerun", "vs median")
    rows: list[tuple[str, ...]] = [heads]
    for kind in ("cells", "mixed"):
        found = result[kind]
        assert isinstance(found, list)
        for cell in found:
            datasets = cell["dataset"]
            if kind == "mixed" and len(datasets) < 2:
                continue  # the same numbers stand one line above
            rows.append(
                (
                    datasets if kind == "cells" else f"all {len(datasets)}",
                    _llm(cell),
                    str(cell["prompts"]),
                    str(cell["cut_off"]),
                    *map(_shown, (cell["tau"], cell["pair_accuracy"])),
                    *map(_shown, (cell["ceiling_rerun"], cell["ceiling_median"])),
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    source = {"table": "the table's own split", "hash": "split by a hash of the prompt"}
    where = source.get(str(result["split_from"]), "no split")
    left_out = f", {result['unknown']} unknown to the predictor" if result["unknown"] else ""
    notes = result["notes"]
    assert isinstance(notes, list)
    return "\n".join(
        [
            f"{result['data']}: {result['split']} prompts ({where}), {result['prompts']}{left_out}",
            *notes,
            "",
            *lines,
            "",
            "tau-b and pair accuracy with 95 % intervals over prompts; rerun and vs median: tau of "
            "another run of",
            "the LLM against one run, and against the median of the others: the noise ceiling.",
            *_tokens_lines(result),
        ]
    )


def reliabilities(result: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    """LLM and config, and how true the tokens told of it are, where anything is."""
    mixed = result["mixed"]
    assert isinstance(mixed, list)
    return [(_llm(cell), cell["reliability"]) for cell in mixed if cell["reliability"]]


def _tokens_lines(result: Mapping[str, object]) -> list[str]:
    lines = []
    for name, cell in reliabilities(result):
        coverage = cell["coverage"]
        assert isinstance(coverage, dict)
        covered = ", ".join(f"{each} holds {_shown(of)}" for each, of in coverage.items())
        lines.append(
            f"{name or 'tokens'}: expected tokens over true ones {_shown(cell['tokens_ratio'])}, "
            f"off by {cell['tokens_error']:.3f} of the mean; of the intervals {covered}"
        )
    return ["", *lines] if lines else []


def _llm(cell: Mapping[str, object]) -> str:
    return f"{cell['llm']} ({cell['config']})" if cell["config"] else str(cell["llm"])


def _shown(estimate: object) -> str:
    if not isinstance(estimate, dict):
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
