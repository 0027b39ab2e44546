"""Under which conditions a study was run, as tables."""

from __future__ import annotations

from typing import Any, cast

from pars_bench.facts import flatten
from pars_bench.study.design import LLM, TRAFFIC
from pars_bench.study.gains import Place
from pars_bench.study.schema import StudyFile


def traffic(study: StudyFile) -> str:
    """Every traffic that was replayed: lengths of the first seed, what was kept of every seed."""
    lines = [
        "| traffic | lengths | prompt tokens, mean, p99 | response tokens, mean, p50, p99 | kept |",
        "|---|---|---:|---:|---|",
    ]
    seen = set()
    for part in study["parts"]:
        facts = part["report"]["traffic"]
        name = str(facts["source"])
        if name in seen:
            continue
        seen.add(name)
        kind = TRAFFIC[part["traffic"]]
        source = kind.lengths.words if kind.lengths else kind.trace
        prompt, output = facts["prompt_tokens"], facts["output_tokens"]
        assert isinstance(prompt, dict)
        assert isinstance(output, dict)
        lines.append(
            f"| {kind.title} | {source} | {prompt['mean']:.0f}, {prompt['p99']:.0f} "
            f"| {output['mean']:.0f}, {output['p50']:.0f}, {output['p99']:.0f} "
            f"| {_kept(study, facts)} |"
        )
    words = (
        "Lengths are those that the named LLM gave, replayed on the step times of "
        f"{LLM}. Tokens are the first seed's; every seed draws again. A window keeps a trace's own "
        "bursts and shared prefixes, but starts with an idle engine and an empty prefix cache."
    )
    return "\n".join([words, "", *lines])


def _kept(study: StudyFile, facts: dict[str, object]) -> str:
    seeds = cast(dict[str, dict[str, object]], facts.get("by_seed", {"": facts}))
    sources = [str(each.get("source", facts["source"])) for each in seeds.values()]
    return "; ".join(dict.fromkeys(study["kept"][source] for source in sources))


def machine(study: StudyFile) -> str:
    """Versions, this machine, and every engine with the sources of its figures."""
    lines = ["| what | value |", "|---|---|"]
    done = set()
    environment = study["parts"][0]["report"]["environment"]
    here = {name: value for name, value in environment.items() if name != "settings"}
    lines += [f"| {name} | {value} |" for name, value in flatten(here)]
    for part in study["parts"]:
        if part["engine"] not in done:
            done.add(part["engine"])
            settings = part["report"]["environment"]["settings"]
            lines.append(f"| {Place(part, 1.0).engine} | {_engine(settings)} |")
    return "\n".join(lines)


def _engine(settings: object) -> str:
    engine, model = (cast(dict[str, Any], settings)[name] for name in ("engine", "step_time"))
    assumed = ", ".join(f"{name} {value}" for name, value in flatten(model["assumed"]))
    return (
        f"{engine['kv_blocks']} KV blocks of {engine['block_tokens']} tokens, at most "
        f"{engine['max_num_seqs']} requests and {engine['max_num_batched_tokens']} tokens a step; "
        f"{model['tensor_parallel']} x {model['gpu']['source']}; {model['llm']['source']}; "
        f"assumed: {assumed}"
    )
