"""Run folders -> a page: of one setting, or of the whole grid where the runs differ in imbalance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deq_nc.names import printable
from deq_nc.report.files import locked, write
from deq_nc.report.grid import Grid, default_folder, read_grid
from deq_nc.report.grid_page import grid_page
from deq_nc.report.grid_tables import summary_table, with_numbers
from deq_nc.report.page import single_page
from deq_nc.report.runs import ReportError
from deq_nc.report.tables import arm_summary


class Report(NamedTuple):
    """A page, whether it is that of a grid, the rows of `grid_summary` or `summary_rows`, and what it lacks."""

    page: Path
    grid: bool
    rows: list[dict[str, str]]
    damaged: list[str]  # a sentence on each folder that was left out and each run without its arrays


def report(run_dirs: Sequence[Path], out: Path | None = None, planned: Sequence[Path] = ()) -> Path:
    """The path of `out`/index.html, beside figures/, tables.*, runs.csv and cost.*.

    Runs of one setting: their page; `out` defaults to RUN/report for one run, COMMON PARENT/report for several. Runs
    that differ in data.imbalance, data.majority or data.ratio: the page of the grid, COMMON PARENT/RECIPE-grid.
    `planned`: run folders (RECIPE-SETTING/ARM-seedN) that belong to the grid, listed as missing while they are not
    there. Run folders that cannot be read are left out and said on the page.
    Raises ReportError: nothing to show, runs that differ in other fields or in package versions, a page that cannot be
    written.
    """
    return make_report(run_dirs, out, planned).page


def make_report(
    run_dirs: Sequence[Path], out: Path | None = None, planned: Sequence[Path] = (), wait: bool = False
) -> Report:
    """`report`, with what the command line prints of it; with `wait`, after another report of that page."""
    grid = read_grid(run_dirs, planned)
    damaged = [*grid.left_out, *(f"{printable(run.path)} {line}" for run in grid.all for line in run.damaged)]
    many = len(grid.settings) > 1
    folder = Path(out) if out is not None else default_folder(grid) if many else _beside(grid)
    if out is None and os.path.islink(folder):
        raise ReportError(f"{printable(folder)}: expected a folder of ours, got a link. Name the folder with --out.")
    with locked(folder, wait):
        if many:
            grid = with_numbers(grid)
            files, rows = grid_page(grid), summary_table(grid)
        else:
            files, rows = single_page(grid.all, grid.left_out), arm_summary(grid.all)
        write(folder, files)
    return Report(folder / "index.html", many, rows, damaged)


def _beside(grid: Grid) -> Path:
    return Path(os.path.commonpath([run.path for run in grid.all])) / "report"


def is_grid(run_dirs: Sequence[Path], planned: Sequence[Path] = ()) -> bool:
    """Whether `report` writes the page of a grid; then `grid_summary` has its result, not `summary_rows`."""
    return len(read_grid(run_dirs, planned).settings) > 1
