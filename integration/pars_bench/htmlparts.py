"""What the project's pages are put together from: one style, lists, pairs, charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from pars_bench.tables import Row


def page(package: str, template: str, **parts: str) -> str:
    """Fill the holes of a template that lies in ``package``; ``style`` is every page's own."""
    text = (files(package) / template).read_text(encoding="utf-8")
    style = (files("pars_bench") / "page.css").read_text(encoding="utf-8")
    return Template(text).substitute(style=style, **parts)


def items(sentences: Iterable[str]) -> str:
    """The ``<li>`` of a list."""
    return "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)


def pairs(named: Iterable[tuple[str, str]]) -> str:
    """The ``<dt>`` and ``<dd>`` of a list of terms."""
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in named)


def figure(name: str, svg: str, caption: str) -> str:
    """A chart with its caption, to link to as ``#name``."""
    return (
        f'<figure class="card" id="{name}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
    )


def table(caption: str, columns: Sequence[tuple[str, str]], rows: Iterable[Row]) -> str:
    """A table with one column per order, each a name and the role of its colour."""
    head = "".join(f'<th scope="col">{swatch(role)}{escape(name)}</th>' for name, role in columns)
    body = []
    for row in rows:
        label = escape(row.label)
        if not row.cells:
            body.append(
                f'<tr class="measure"><th colspan="{len(columns) + 1}" scope="rowgroup">{label}'
                "</th></tr>"
            )
            continue
        cells = "".join(
            f'<td class="best">{escape(cell)}</td>'
            if place == row.best
            else f"<td>{escape(cell)}</td>"
            for place, cell in enumerate(row.cells)
        )
        body.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    return (
        f'<div class="card scroll"><table><caption>{escape(caption)}</caption><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def swatch(role: str) -> str:
    """A bar in the colour of a chart's curve."""
    return f'<i class="swatch" style="background:var(--{role.replace("_", "-")})"></i>'
