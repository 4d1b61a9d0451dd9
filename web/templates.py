"""The playground's HTML: Jinja2 templates of the folder `templates`, which escape all text that is put into them."""

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from config.schema import PathsConfig

FOLDER = Path(__file__).parent
# The folders of an absolute path, before its last part.
FOLDERS = re.compile(r"""(?<![^\s'"`(])(?:/|[A-Za-z]:[\\/])(?:[^\s'"`,;]*[\\/])?(?=[^\s\\/])""")


def inline_code(text: str) -> Markup:
    """Plain text as HTML, with what stands between `backquotes` as code."""
    parts = enumerate(text.split("`"))
    return Markup().join(Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in parts)


def short_percent(share: float) -> str:
    """A share as a percentage of two digits or so."""
    if share and share < 0.001:
        return "under 0.1%"
    return f"{100 * share:.1f}%" if share < 0.1 else f"{100 * share:.0f}%"


@lru_cache
def environment() -> jinja2.Environment:
    """Jinja2 as all templates use it: escaping, strict about missing values, without the lines of its own tags."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"inline_code": inline_code, "percent": short_percent}
    return made


def render(template: str, **values: Any) -> Markup:
    """The HTML of a template. Values are escaped, except Markup."""
    return Markup(environment().get_template(template).render(values))


def public(text: str, paths: PathsConfig) -> str:
    """A message without folders of this machine: a file of the run is named by its place in it, another by its name."""
    for root in {str(Path(paths.root)), str(Path(paths.root).resolve())} - {"."}:
        text = text.replace(f"{root}{os.sep}", "")
    return FOLDERS.sub("", text)


def source_name(source: dict[str, Any]) -> str:
    """The names of the files that the tweets came from, without folders where these are not the project's own."""
    names = [file["path"] for file in source.get("files", [source])]
    return ", ".join(Path(name).name if Path(name).is_absolute() else name for name in names)


def notice(text: str) -> Markup:
    """One line: what is missing, or what went wrong; `code` stands between backquotes."""
    return Markup('<p class="notice" role="status">{}</p>').format(inline_code(text))


def figures_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> Markup:
    """A table that scrolls by itself on a narrow page; the first cell of each row is its header.

    Args:
        head: the names of the columns.
        rows: their cells; text, or Markup.
        kind: a class of the style sheet: "words", "rules", or none.
    """
    return render("table.html", head=head, rows=[tuple(row) for row in rows], kind=kind)


def read_asset(name: str) -> str:
    """The text of a file of this folder (style sheet, script)."""
    return (FOLDER / name).read_text(encoding="utf-8")
