"""The page of results: one section per experiment, each between marks of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pars_export.errors import InputError
from pars_export.files import atomic_file
from pars_model.experiments.registry import EXPERIMENTS

HEAD = """\
# Ranking

Each section is written by the command that stands in it. Tau is Kendall's tau-b on prompts that
nothing was fitted or tuned on, its 95 % interval in brackets.
"""


@dataclass(frozen=True)
class Section:
    """What an experiment found.

    Attributes:
        title: of the section.
        parts: paragraphs and tables of Markdown, in order.
        pictures: for each file name (``.svg`` or ``.png``), what writes it to a path.
        captions: what a reader who cannot see the picture is told, by file name.
    """

    title: str
    parts: Sequence[str]
    pictures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)

    def markdown(self, minutes: float, command: str = "", folder: str = "") -> str:
        """The section as Markdown, its heading included."""
        made = f"Made by `{command}`; " if command else ""
        cost = f"{made}{minutes:.0f} minutes of computing."
        shown = [f"![{self.captions.get(name, name)}]({folder}{name})" for name in self.pictures]
        return "\n\n".join([f"## {self.title}", cost, *self.parts, *shown]) + "\n"


def write_section(
    page: Path, name: str, section: Section, minutes: float, options: str = ""
) -> None:
    """Write an experiment's section of ``page``, and its pictures into a folder beside it.

    Sections stand in the order of the registry; what stands outside of this one's marks stays.
    ``options``: further ones of the command that the section names.

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
    text = section.markdown(minutes, command, f"{folder.name}/")
    old = page.read_text(encoding="utf-8") if page.is_file() else HEAD
    with atomic_file(page) as temporary:
        temporary.write_text(_placed(old, name, text, page), encoding="utf-8")


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are words, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
