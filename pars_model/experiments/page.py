"""The page of results: one section per experiment, each between marks of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_model.experiments.matrix import RIDGE
from pars_model.experiments.registry import EXPERIMENTS

if TYPE_CHECKING:
    from pars_bench.chart import Draw

SHORT = "**In short.** "
COLOURS = ("#0b62c4", "#c2570c", "#0a8a5f", "#8a3fa0", "#6b7480", "#b0912a", "#c4336f")
"""Of curves, ``curve0`` and so on."""
HEAD = """\
# Ranking

Each section is written by the command that stands in it. Tau is Kendall's tau-b on prompts that
nothing was fitted on, its 95 % interval in brackets. No setting was chosen by those prompts
either, but where a section says so: on the n-gram half, parts of the recipe, the default predictor.
"""


@dataclass(frozen=True)
class Section:
    """What an experiment found.

    Attributes:
        title: of the section.
        parts: paragraphs and tables of Markdown, in order.
        pictures: for each file name (``.svg`` or ``.png``), what writes it to a path.
        captions: what a reader who cannot see the picture is told, by file name.
        short: what it comes to, in one line, for the summary of the page too.
    """

    title: str
    parts: Sequence[str]
    pictures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    short: str = ""

    def markdown(
        self, minutes: float, command: str = "", folder: str = "", machines: Iterable[str] = ()
    ) -> str:
        """The section as Markdown, its heading included."""
        made = f"Made by `{command}`; " if command else ""
        on = " and ".join(sorted(machines))
        cost = f"{made}{minutes:.0f} minutes of computing{f' ({on})' if on else ''}."
        short = [f"{SHORT}{self.short}"] if self.short else []
        shown = [f"![{self.captions.get(name, name)}]({folder}{name})" for name in self.pictures]
        return "\n\n".join([f"## {self.title}", cost, *short, *self.parts, *shown]) + "\n"


def write_section(
    page: Path,
    name: str,
    section: Section,
    minutes: float,
    options: str = "",
    machines: Iterable[str] = (),
) -> None:
    """Write an experiment's section of ``page``, and its pictures into a folder beside it.

    Sections stand in the order of the registry; what stands outside of this one's marks and of the
    summary's stays.

    Args:
        page: of all sections.
        name: of the experiment.
        section: what it found.
        minutes: what that took to compute.
        options: further ones of the command that the section names.
        machines: what computed it, in words.

    Raises:
        InputError: the page has one of the marks, and not the other.
    """
    folder = page.with_suffix("")
    for file, write in section.pictures.items():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / file) as temporary:
            write(temporary)
    command = (
        f"pars experiment {name} --data-root DATA --markdown docs/results/{page.name}{options}"
    )
    text = section.markdown(minutes, command, f"{folder.name}/", machines)
    old = page.read_text(encoding="utf-8") if page.is_file() else HEAD
    with atomic_file(page) as temporary:
        temporary.write_text(_summed_up(_placed(old, name, text, page)), encoding="utf-8")


def marks(name: str) -> tuple[str, str]:
    """The lines between which an experiment's section stands."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def _placed(old: str, name: str, text: str, page: Path) -> str:
    begin, end = marks(name)
    block = f"{begin}\n{text}{end}\n"
    if old.count(begin) != old.count(end) or old.count(begin) > 1:
        raise InputError(f"{page} must hold the lines {begin} and {end} once each, or neither.")
    if begin in old:
        before, _, rest = old.partition(begin)
        return before + block + rest.partition(end)[2].removeprefix("\n")
    later = list(EXPERIMENTS)[list(EXPERIMENTS).index(name) + 1 :]
    places = [place for place in (old.find(marks(each)[0]) for each in later) if place >= 0]
    if places:
        return f"{old[: min(places)]}{block}\n{old[min(places) :]}"
    return f"{old.rstrip()}\n\n{block}"


def _summed_up(text: str) -> str:
    """The page with what its sections say in short above the first of them."""
    begin, end = marks("summary")
    first = min(place for name in EXPERIMENTS if (place := text.find(marks(name)[0])) >= 0)
    above, sections = text[:first], text[first:]
    if begin in above:
        above = above.partition(begin)[0] + above.partition(end)[2].removeprefix("\n")
    lines = [line.removeprefix(SHORT) for line in sections.splitlines() if line.startswith(SHORT)]
    lines += _encoders(sections)
    if not lines:
        return above + sections
    shown = "\n".join(f"- {line}" for line in lines)
    return f"{above.rstrip()}\n\n{begin}\nIn short:\n\n{shown}\n{end}\n\n{sections}"


def _encoders(sections: str) -> list[str]:
    """What encoders of some layers are worth, as the frontier's table has it."""
    begin, end = marks("frontier")
    rows = re.findall(
        rf"^\| ({RIDGE}|MiniLM, \d+ layers) \| (-?[\d.]+)",
        sections.partition(begin)[2].partition(end)[0],
        re.MULTILINE,
    )
    taus = {name: float(tau) for name, tau in rows}
    if RIDGE not in taus or len(taus) < 2:
        return []
    gains = [f"{taus[name] - taus[RIDGE]:+.3f} ({name})" for name in taus if name != RIDGE]
    return [f"Encoder, fine-tuned (frontier): tau less the {RIDGE}'s is {', '.join(gains)}."]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are words, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def word(reached: bool) -> str:
    """How a page calls what became of a goal."""
    return "reached" if reached else "missed"


def png(draw: Draw) -> Callable[[Path], None]:
    """Writes a chart as a PNG in the page's colours."""

    def write(path: Path) -> None:
        from pars_bench.chart import Palette, write_png

        curves = {f"curve{number}": colour for number, colour in enumerate(COLOURS)}
        write_png(path, draw, Palette({"ink": "#1c2430", "line": "#d5dae1", **curves}))

    return write
