"""The files beside the page of a grid: tables as Markdown, CSV and LaTeX, the numbers of each run, the cost."""

from __future__ import annotations

from collections.abc import Sequence

from deq_nc.names import markdown
from deq_nc.report.grid import Grid
from deq_nc.report.grid_table import GridTable, grid_csv
from deq_nc.report.grid_tables import (
    MEASURES,
    accuracy_tables,
    collapse_tables,
    comparisons,
    control_tables,
    evidence_tables,
    price_tables,
    run_rows,
    solve_tables,
    work_tables,
)
from deq_nc.report.latex import latex
from deq_nc.report.tables import rows_csv

EXACT = (accuracy_tables, collapse_tables, control_tables, solve_tables, evidence_tables, work_tables)


def table_files(grid: Grid, title: str, remarks: Sequence[str]) -> dict[str, str]:
    """File name -> text. Those called tables and runs are the same bytes for the same numbers; times are in cost."""
    tables, cost = [table for make in EXACT for table in make(grid)], price_tables(grid)
    head = f"# {markdown(title)}\n\n" + "".join(f"- {markdown(line)}\n" for line in remarks) + "\n"
    said = comparisons(accuracy_tables(grid)) + "\n\n" + comparisons(collapse_tables(grid), MEASURES) + "\n\n"
    return {
        "tables.md": head + said + _markdown(tables),
        "tables.csv": grid_csv(tables),
        "tables.tex": latex(tables),
        "runs.csv": rows_csv(run_rows(grid)),
        "cost.md": head + _markdown(cost),
        "cost.csv": grid_csv(cost),
    }


def _markdown(tables: Sequence[GridTable]) -> str:
    return "\n".join(table.markdown() for table in tables)
