"""The files beside the page: tables as Markdown, CSV and LaTeX, the numbers of each run, the cost."""

from __future__ import annotations

from collections.abc import Sequence

from deq_nc.names import markdown
from deq_nc.report.pages.remarks import COMPARED, comparisons
from deq_nc.report.read import Study
from deq_nc.report.tables import Tables
from deq_nc.report.tables.contents import run_rows
from deq_nc.report.tables.latex import latex
from deq_nc.report.tables.table import ALONE, GRID, csv_text


def texts(study: Study, tables: Tables, title: str, remarks: Sequence[str]) -> dict[str, str]:
    """File name -> text. Those called tables and runs are the same bytes for the same numbers; times are in cost."""
    exact = [table for section, group in tables.items() if section != "cost" for table in group]
    head = f"# {markdown(title)}\n\n" + "".join(f"- {markdown(line)}\n" for line in remarks) + "\n"
    compared = COMPARED if study.many else {}
    said = "".join(f"{comparisons(tables[section], what)}\n\n" for section, what in compared.items())
    files = {}
    for name, chosen, lead in (("tables", exact, head + said), ("cost", tables["cost"], head)):
        records = [record for table in chosen for record in table.records()]
        files[f"{name}.md"] = lead + "\n".join(table.markdown() for table in chosen)
        files[f"{name}.csv"] = csv_text(records, GRID if study.many else ALONE)
    return files | {"runs.csv": csv_text(run_rows(study))} | ({"tables.tex": latex(exact)} if study.many else {})
