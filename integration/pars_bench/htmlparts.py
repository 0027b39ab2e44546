"""What the project's pages are put together from: one style, lists, pairs, charts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template


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


def swatch(role: str) -> str:
    """A bar in the colour of a chart's curve."""
    return f'<i class="swatch" style="background:var(--{role.replace("_", "-")})"></i>'
