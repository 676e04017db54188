r"""Tables as LaTeX (booktabs): `\input` the file, or copy one table out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from deq_nc.names import latex as escape
from deq_nc.report.tables.table import Table

_NUMBER = re.compile(r"(?P<mean>[+-]?[\d.,]+)(?: ± (?P<half><?[\d.,]+))?(?P<mark> \*)?(?P<seeds> \(\d+/\d+\))?")
_POWER = re.compile(r"\(?(?P<mean>[+-]?[\d.]+)(?: ± (?P<half><?[\d.]+)\))?e(?P<power>[+-]\d+)(?P<seeds> \(\d+/\d+\))?")


def number(text: str) -> str:
    r"""The text of an entry as LaTeX: `+1.20 ± 0.40 *` is $+1.20 \pm 0.40^{*}$."""
    if found := _NUMBER.fullmatch(text):
        half = rf" \pm {_thousands(found['half'])}" if found["half"] else ""
        return f"${_thousands(found['mean'])}{half}{'^{*}' if found['mark'] else ''}${found['seeds'] or ''}"
    if found := _POWER.fullmatch(text):
        half = rf"({found['mean']} \pm {found['half']})" if found["half"] else found["mean"]
        return rf"${half} \times 10^{{{int(found['power'])}}}${found['seeds'] or ''}"
    return escape(text)


def _thousands(text: str) -> str:
    return text.replace(",", "{,}")


def latex_table(table: Table) -> str:
    """A float with caption, label and booktabs rules; rows of one first stub are set apart where there are two."""
    columns = "l" * len(table.stubs) + "r" * len(table.columns)
    heading = " & ".join(escape(name) for name in (*table.stubs, *table.columns))
    lines, before = [], None
    for row in table.rows:
        words = list(map(escape, row.words))
        if len(words) > 1 and before is not None:
            if words[0] == before:
                words[0] = ""
            else:
                lines.append(r"\addlinespace")
        before = escape(row.words[0])
        lines.append(" & ".join([*words, *(number(entry.text) for entry in row.entries)]) + r" \\")
    caption = escape(f"{table.title}. {table.note}".strip())
    body = "\n".join(lines)
    return (
        "\\begin{table}\n\\centering\\footnotesize\n\\setlength{\\tabcolsep}{4pt}\n"
        f"\\caption{{{caption}}}\n\\label{{tab:{table.name}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{heading} \\\\\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def latex(tables: Iterable[Table]) -> str:
    """All tables; the preamble needs booktabs."""
    return "% \\usepackage{booktabs}\n\n" + "\n".join(map(latex_table, tables))
