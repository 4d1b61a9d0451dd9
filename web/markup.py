"""Pieces of markup for the playground. Plain text is always escaped; only what was made here counts as markup."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path


class Markup(str):
    """Text that is markup already. Made by `tag` and `joined` only."""


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """An element. Children that are no Markup are escaped, and so is every attribute.

    `class_` stands for class, data_x for data-x; an attribute that is True has no value, one that is False or None
    is left out.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[str | Markup]) -> Markup:
    """Children side by side, escaped where they are no Markup."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def told(text: str) -> Markup:
    """Plain text in which what stands between `backquotes` is code."""
    return joined(tag("code", part) if place % 2 else part for place, part in enumerate(text.split("`")))


def notice(text: str) -> Markup:
    """One friendly line: what is missing, or what went wrong."""
    return tag("p", told(text), class_="notice", role="status")


def table(head: Sequence[str], rows: Iterable[Sequence[str | Markup]], *, class_: str = "") -> Markup:
    """A table that scrolls by itself where the page is narrow; the first cell of each row is its header."""
    titles = tag("tr", *(tag("th", title, scope="col") for title in head))
    lines = []
    for first, *rest in rows:
        cells = (tag("td", cell, data_name=name) for name, cell in zip(head[1:], rest, strict=True))
        lines.append(tag("tr", tag("th", first, scope="row"), *cells))
    inner = tag("table", tag("thead", titles), tag("tbody", *lines), class_=f"figures {class_}".strip())
    return tag("div", inner, class_="scrolls", tabindex="0", role="region", aria_label=", ".join(head))


def percent(share: float) -> str:
    """A share as people read it."""
    if share and share < 0.001:
        return "under 0.1%"
    return f"{100 * share:.1f}%" if share < 0.1 else f"{100 * share:.0f}%"


def source(name: str) -> str:
    """The text of a file beside this one (style, script)."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
