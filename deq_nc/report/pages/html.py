"""HTML of a page's parts. Whatever is put into a tag is text, and escaped, unless it is `Markup` of this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from deq_nc.report.figures import Picture
from deq_nc.report.tables import Table
from deq_nc.report.tables.quantities import quantity

PLAIN: Mapping[int, str] = MappingProxyType({})


class Section(NamedTuple):
    """A heading and what stands under it; `link`: how the contents call it. Without a title, words between others."""

    name: str
    title: str
    parts: Sequence[Markup]
    link: str = ""


def tag(name: str, *inner: str, class_: str = "") -> Markup:
    start = Markup('<{} class="{}">').format(name, class_) if class_ else Markup("<{}>").format(name)
    return Markup("").join([start, *inner, Markup("</{}>").format(name)])


def words(text: str, strong: str = "", *, note: bool = False) -> Markup:
    """A paragraph; `strong` opens it in bold, a note is small."""
    return tag("p", *([tag("b", strong), ", "] if strong else []), text, class_="note" if note else "")


def remarks(lines: Sequence[str]) -> Markup:
    return tag("ul", *(tag("li", line) for line in lines), class_="remarks")


def shown(picture: Picture, *, titled: bool = True) -> Markup:
    """A figure; `titled` where no heading of its own stands above it."""
    image = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(picture.title, picture.base64)
    title = [tag("b", picture.title, "."), " "] if titled else []
    return tag("figure", image, tag("figcaption", *title, picture.caption))


def fold(summary: str, *parts: Markup) -> Markup:
    """Parts that open on a click."""
    return tag("details", tag("summary", summary), *parts)


def cells(heading: Sequence[str], rows: Sequence[Sequence[str]], looks: Mapping[int, str] = PLAIN) -> Markup:
    """Rows of text under a heading; `looks`: column -> stub (left), words (left, wrapped) or hint (quiet)."""
    kinds = [(heading, "th"), *((row, "td") for row in rows)]
    lines = [[tag(name, text, class_=looks.get(i, "")) for i, text in enumerate(line)] for line, name in kinds]
    return Markup("\n").join(tag("tr", *line) for line in lines)


def sheet(*parts: Markup) -> Markup:
    """`cells` as a table; several have columns of one width."""
    return tag("div", tag("table", *parts), class_="scroll")


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], looks: Mapping[int, str] = PLAIN) -> Markup:
    return sheet(cells(heading, rows, looks))


def titled_cells(table: Table, *, note: bool = True) -> Markup:
    columns = [*table.stubs, *table.columns]
    title = [table.title, " ", tag("span", table.note)] if note and table.note else [table.title]
    head = Markup('<tr class="part"><th colspan="{}">{}</th></tr>').format(len(columns), Markup("").join(title))
    return head + cells(columns, table.texts(), dict.fromkeys(range(len(table.stubs)), "stub"))


def hinted_cells(table: Table) -> Markup:
    """With what each quantity is in the last column."""
    rows = [[*texts, quantity(row.key).hint] for row, texts in zip(table.rows, table.texts())]
    return cells(["", *table.columns, ""], rows, {len(table.columns) + 1: "hint"})


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page; a name that the template is not given is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return templates.get_template("page.html.j2").render(title=title, lead=lead, sections=sections)
