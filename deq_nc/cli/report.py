"""`deq-nc report`: the page of runs, and a table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deq_nc.cli.recipes import expand_path
from deq_nc.cli.terminal import say_error
from deq_nc.names import printable


@dataclass(frozen=True)
class ReportOptions:
    """Tables, figures and one self-contained page of the runs of one setting, or of a grid of settings."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    """Folder of the page; default RUN/report, `report` beside the runs, or RECIPE-grid beside the settings."""
    wait: bool = False
    """Wait where another report is writing that page, instead of leaving with exit code 3."""


def report_command(arguments: list[str]) -> int:
    options = tyro.cli(ReportOptions, args=arguments, prog="deq-nc report")
    out = None if options.out is None else expand_path(options.out, "--out")
    return make_page([expand_path(run, "run") for run in options.runs], out, wait=options.wait)


def make_page(runs: list[Path], out: Path | None, planned: Sequence[Path] = (), wait: bool = False) -> int:
    """The page and a table of it; `planned` runs of a grid that are not there are listed as missing."""
    import jax

    if jax.process_index() > 0:
        return 0
    from rich.console import Console
    from rich.table import Table

    from deq_nc.report import make_report

    found = make_report(runs, out, planned, wait)
    rows = found.rows
    if found.grid:
        # Columns are called `test, ARM` and `minority, ARM`: a table each, so that eighty columns hold it.
        tables = []
        for kind, names in _grouped(rows[0]).items():
            arms = (name.removeprefix(f"{kind}, ") for name in names)
            table = Table("setting", "runs", *arms, title=f"{kind} accuracy (%)")
            for row in rows:
                table.add_row(row["setting"], row["runs"], *(row[name] for name in names))
            tables.append(table)
    else:
        tables = [Table("", *(row["arm"] for row in rows))]
        for quantity in rows[0]:
            if quantity != "arm":
                tables[0].add_row(quantity, *(row[quantity] for row in rows))
    console = Console(markup=False, emoji=False)  # names of arms are data
    for table in tables:
        # A log has no width of its own: four arms with intervals need more than rich's 80 columns.
        console.print(table, width=console.width if console.is_terminal else 120)
    print(f"page: {printable(found.page)}")
    for line in found.damaged:
        say_error(line)
    return 1 if found.damaged else 0


def _grouped(row: dict[str, str]) -> dict[str, list[str]]:
    """Columns `KIND, NAME` by kind."""
    kinds: dict[str, list[str]] = {}
    for name in row:
        if ", " in name:
            kinds.setdefault(name.split(", ")[0], []).append(name)
    return kinds
