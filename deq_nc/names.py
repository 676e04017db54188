"""Names out of files are data: one function a target, under which none of its characters means anything.

A name is any text that a stranger can choose: arms, classes, data sets, recipes, keys of a history, paths. `clean` what
is read, escape what is written. HTML is escaped by the page's template.
"""

from __future__ import annotations

import re
from typing import Any

JOINERS = "\u200c\u200d"  # not printable, and needed to write Persian and Hindi
_MARKDOWN = re.compile(r"[\\`|<>\[\]*~&]|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=www)\.|(?<=\w)@(?=\w)")
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "±": r"$\pm$", "−": "$-$", "–": "--",
    "→": r"$\to$", "‖": r"$\|$", "⁻¹": "$^{-1}$", "⁺": "$^{+}$", "₀": "$_{0}$", "∂": r"$\partial$", "²": "$^{2}$",
    "×": r"$\times$",
}  # fmt: skip
_LATEX = re.compile("|".join(map(re.escape, LATEX)))
_FORMULA = re.compile(r"\s*[=+\-@|%＝＋－＠]")
FIGURE_LENGTH = 24  # of a name in a figure: 256 letters on an axis leave no room for the panel
FILE_LENGTH = 80


def printable(text: object) -> str:
    r"""Text for one line of a terminal: control characters, direction marks and lone surrogates as `\x1b`, `\u202e`."""
    return "".join(
        c if c.isprintable() or c in JOINERS else " " if c == "\u00a0" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def clean(value: Any) -> Any:
    """A JSON value with every string in it `printable`, keys too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): clean(each) for key, each in value.items()}
    return [clean(each) for each in value] if isinstance(value, list) else value


def markdown(text: str) -> str:
    """Text inside a line or a cell of GitHub's Markdown."""
    return _MARKDOWN.sub(lambda found: "\\" + found.group(), printable(text))


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe before =, +, -, @. Numbers are left alone."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return "'" + text if _FORMULA.match(text) else text


def latex(text: str) -> str:
    """Text as LaTeX text."""
    escaped = _LATEX.sub(lambda found: LATEX[found.group()], printable(text))
    return "{*}" + escaped[1:] if escaped.startswith("*") else escaped  # a star after \\ belongs to \\


def figure(text: str) -> str:
    """Text in a matplotlib figure: no mathtext, none of its hidden labels (a leading underscore), a bounded length."""
    text = printable(text)
    text = text if len(text) <= FIGURE_LENGTH else text[: FIGURE_LENGTH - 1] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def file_name(text: str) -> str:
    """One component of a path: letters, digits, `_+-.`; never hidden, empty or longer than FILE_LENGTH."""
    name = re.sub(r"[^A-Za-z0-9_+.-]+", "_", text).lstrip(".-")[:FILE_LENGTH]
    return name or "unnamed"
