"""What modelopt's graphs keep of a ranker's order, as a page for the docs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pars_bench.facts import flatten
from pars_bench.markdown import bullets
from pars_bench.predictor.modelopt_graphs import AUTOCAST_PROMPTS
from pars_export.engines import BY_PRECISION

MODELOPT, OURS = "modelopt", "ours"


@dataclass(frozen=True)
class Kept:
    """What one graph keeps of the float32 model's scores."""

    maker: str
    """`MODELOPT`, `OURS`, or empty for the float32 model itself."""
    precision: str
    """`fp32`, `int8` or `fp16`."""
    name: str
    products: int
    """Matrix products of two int8 tensors."""
    tau: float | None
    """Kendall's tau-b against the float32 model; None where a score is no number."""
    difference: float | None
    """Largest difference of a score, in standard deviations of the float32 model's; likewise."""
    distinct: int
    """Different scores among the prompts."""
    padding: float
    """Score of a row of padding alone."""
    infinite: int
    """Constants of the graph that are not finite."""
    builds: bool | None
    """Whether TensorRT-RTX builds it; None where it is not installed."""
    rewrote: bool
    """Whether the file that it was made from was another one afterwards."""

    @property
    def promised(self) -> bool:
        """Whether tau and difference are what an engine of its precision promises."""
        bound = BY_PRECISION[self.precision]
        if self.tau is None or self.difference is None:
            return False
        return self.tau >= bound.tau and self.difference <= bound.difference


@dataclass(frozen=True)
class Comparison:
    """Content of the page."""

    folder: str
    """The predictor folder, as given."""
    sha256: str
    """What pins it."""
    environment: Mapping[str, object]
    """`pars_bench.environment.describe_machine`, with more versions."""
    made_by: int
    """Prompts that graphs are made by."""
    judged_by: int
    """Prompts that they are compared on, others than those."""
    kept: Sequence[Kept]
    """The float32 model first."""


_INTRODUCTION = """\
Made by `make modelopt PREDICTOR={folder}`, which runs `pars bench modelopt` in an environment of
its own. All graphs are made from the same `model.onnx`, or its network, by the same {made_by}
prompts of the demonstration, and score {judged_by} others. modelopt is at its defaults but for
this: what is not int8 stays float32, as in ours; it calibrates on a CPU, each prompt by itself;
inputs and scores keep their types. AutoCast runs its reference on the first {autocast} of the
prompts. *max* and *entropy* are modelopt's two ways to an activation's scale. Scores are those of
the network; an n-gram half beside it is the same float32 sum for all, and left out."""

_COLUMNS = """\
*int8 products*: matrix products of two int8 tensors. *tau*: Kendall's tau-b against float32.
*difference*: the largest of a score, in standard deviations of float32's. *distinct*: different
scores among the {judged_by}. *padding*: what a row of padding alone scores. *builds*: whether
`tensorrt_rtx` builds it for compute capability 8.9 (-: not installed)."""

_DOUBTS = (
    "Nothing here was run on a GPU. A build says that TensorRT-RTX takes the graph, not what the "
    "engine scores.",
    "On a CPU onnxruntime may compute fp16 nodes in float32 between casts, so fp16 graphs may keep "
    "less on a GPU, whoever made them.",
    "One ranker, and prompts that are filled templates. What int8 keeps goes by how far apart "
    "training puts the scores.",
    "modelopt has more settings, and quantisation-aware training, which are not tried here.",
)


def render(comparison: Comparison) -> str:
    """The page."""
    counts = {"made_by": comparison.made_by, "judged_by": comparison.judged_by}
    introduction = _INTRODUCTION.format(
        folder=comparison.folder, autocast=AUTOCAST_PROMPTS, **counts
    )
    parts = [
        "# What nvidia-modelopt keeps of a ranker's order",
        introduction,
        bullets(_findings(comparison)),
        _table(comparison.kept),
        _COLUMNS.format(**counts),
        "## What to doubt",
        bullets(_DOUBTS),
        "## With what",
        bullets(f"{name}: {value}" for name, value in _facts(comparison)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield from flatten(comparison.environment)
    yield "sha256 of the predictor", comparison.sha256


def _table(kept: Sequence[Kept]) -> str:
    lines = [
        "| graph | how | int8 products | tau | difference | distinct | padding | builds |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for each in kept:
        cells = [
            f"{each.precision}, {each.maker}" if each.maker else each.precision,
            each.name,
            str(each.products or ""),
            _figure(each.tau, 4),
            _figure(each.difference, 3),
            str(each.distinct),
            "finite" if math.isfinite(each.padding) else str(each.padding).replace("nan", "NaN"),
            {True: "yes", False: "no", None: "-"}[each.builds],
        ]
        shown = " | ".join(f"**{cell}**" if cell and each.maker == OURS else cell for cell in cells)
        lines.append(f"| {shown} |")
    return "\n".join(lines)


def _findings(comparison: Comparison) -> Iterator[str]:
    kept = comparison.kept
    yield _int8(kept)
    yield _fp16(kept, comparison.judged_by)
    for each in kept:
        if not math.isfinite(each.padding):
            yield (
                f"{_named(each)} gives a row of padding alone no number for a score (infinite "
                f"constants in its graph: {each.infinite}). Only a prompt without any token is "
                "such a row."
            )
    theirs = [each for each in kept if each.maker == MODELOPT]
    rewriting = sum(each.rewrote for each in theirs)
    if rewriting:
        yield (
            f"modelopt wrote into its input file while it made {rewriting} of its {len(theirs)} "
            "graphs: give it a copy."
        )
    built = [each.builds for each in kept if each.builds is not None]
    if built:
        yield f"`tensorrt_rtx` builds {sum(built)} of the {len(built)} graphs."


def _int8(kept: Sequence[Kept]) -> str:
    ours, theirs = _of(kept, OURS, "int8"), _of(kept, MODELOPT, "int8")
    bound = BY_PRECISION["int8"]
    good = [_named(each) for each in (*ours, *theirs) if each.promised]
    return (
        f"int8: modelopt keeps tau {_span([each.tau for each in theirs], 4)}, ours "
        f"{_span([each.tau for each in ours], 4)}. `pars export` asks for {bound.tau:g} and a "
        f"difference of {bound.difference:g} at most: reached by "
        f"{', '.join(good) if good else 'none of them'}."
    )


def _fp16(kept: Sequence[Kept], prompts: int) -> str:
    ours, theirs = _of(kept, OURS, "fp16"), _of(kept, MODELOPT, "fp16")
    return (
        f"fp16: modelopt keeps tau {_span([each.tau for each in theirs], 4)}, ours "
        f"{_span([each.tau for each in ours], 4)}. Of {prompts} prompts, modelopt's graphs have "
        f"{_span([each.distinct for each in theirs])} different scores, ours "
        f"{_span([each.distinct for each in ours])}; ours leaves pooling and head in float32."
    )


def _of(kept: Sequence[Kept], maker: str, precision: str) -> list[Kept]:
    return [each for each in kept if (each.maker, each.precision) == (maker, precision)]


def _named(each: Kept) -> str:
    return f"{each.name} ({', '.join(filter(None, (each.maker, each.precision)))})"


def _span(figures: Sequence[float | None], digits: int = 0) -> str:
    """The least and the largest that are known, or the one."""
    known = [each for each in figures if each is not None]
    ends = [_figure(each, digits) for each in (min(known), max(known))] if known else ["NaN"]
    return " to ".join(dict.fromkeys(ends))


def _figure(value: float | None, digits: int) -> str:
    return "NaN" if value is None else f"{value:.{digits}f}"
